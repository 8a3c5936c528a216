const units: [Intl.RelativeTimeFormatUnit, number][] = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
]

/** "3 minutes ago", in the largest unit that is at least one. */
export function relative(language: string, time: number, now: number): string {
  const seconds = Math.round((time - now) / 1000)
  const [unit, size] = units.find(([, s]) => Math.abs(seconds) >= s) ?? ['second', 1]
  return new Intl.RelativeTimeFormat(language, { numeric: 'auto' }).format(Math.trunc(seconds / size), unit)
}

/** The whole date with seconds and time zone: what a time's title shows. */
export function full(language: string, time: number): string {
  return new Intl.DateTimeFormat(language, { dateStyle: 'full', timeStyle: 'long' }).format(time)
}

export function short(language: string, time: number): string {
  return new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'short' }).format(time)
}

/** Bytes in binary units (IEC 80000-13): 1536 is "1.5 KiB". */
export function bytes(language: string, n: number): string {
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let i = 0
  let value = n
  while (value >= 1024 && i < names.length - 1) {
    value /= 1024
    i++
  }
  const digits = i === 0 || value >= 100 ? 0 : 1
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value)} ${names[i]}`
}

/** A length of time in its two largest units: "3 d 4 h". */
export function duration(language: string, seconds: number): string {
  const parts: string[] = []
  let rest = Math.max(0, Math.floor(seconds))
  for (const [unit, size] of [['day', 86_400], ['hour', 3_600], ['minute', 60], ['second', 1]] as const) {
    const n = Math.floor(rest / size)
    rest -= n * size
    if (n === 0) continue
    parts.push(new Intl.NumberFormat(language, { style: 'unit', unit, unitDisplay: 'narrow' }).format(n))
    if (parts.length === 2) break
  }
  return parts.length > 0 ? parts.join(' ') : new Intl.NumberFormat(language, { style: 'unit', unit: 'second', unitDisplay: 'narrow' }).format(0)
}

/** A clock's offset with a sign, in the unit that fits. */
export function clockOffset(language: string, seconds: number): string {
  const size = Math.abs(seconds)
  const [unit, factor] = size < 1e-3 ? (['µs', 1e6] as const) : size < 1 ? (['ms', 1e3] as const) : (['s', 1] as const)
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: 1, signDisplay: 'exceptZero' }).format(seconds * factor)} ${unit}`
}
