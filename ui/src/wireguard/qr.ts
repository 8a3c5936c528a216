import makeQr from 'qrcode-generator'

export type Level = 'H' | 'Q' | 'M' | 'L'

export type Qr = {
  level: Level
  /** modules per side, without the quiet zone */
  size: number
  dark: (row: number, column: number) => boolean
}

const levels: readonly Level[] = ['H', 'Q', 'M', 'L']

/** ISO/IEC 18004: version v has 17 + 4v modules a side. Up to 97 a phone reads them off a 320 px wide picture. */
const comfortable = 97

function tryLevel(text: string, level: Level): Qr | null {
  const qr = makeQr(0, level)
  qr.addData(text, 'Byte')
  try {
    qr.make()
  } catch {
    return null // more than version 40 holds
  }
  return { level, size: qr.getModuleCount(), dark: (row, column) => qr.isDark(row, column) }
}

/**
 * Chooses the code: the highest error correction that still scans with ease, else the smallest code that fits at all,
 * else null. Stopping at one level would refuse long configurations that a lower one holds.
 */
export function chooseQr(text: string): Qr | null {
  // oxlint-disable-next-line import/no-named-as-default-member -- the library is set by this property
  makeQr.stringToBytes = (s: string) => Array.from(new TextEncoder().encode(s))
  const fitting = levels.map((level) => tryLevel(text, level)).filter((qr) => qr !== null)
  return fitting.find((qr) => qr.size <= comfortable) ?? fitting.at(-1) ?? null
}
