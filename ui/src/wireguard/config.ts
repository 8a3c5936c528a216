/**
 * Puts the page's private key into the wg-quick text that the cell made, whose line is `PrivateKey = ` with no value.
 * The comment above it that tells people to insert the key goes. Throws unless there is exactly one such line: a configuration with a wrong key must not be shown.
 */
export function insertPrivateKey(config: string, privateKey: string): string {
  const empty = /^(?:# The private key [^\n]*\n)?(PrivateKey[ \t]*=)[ \t]*$/gm
  const found = config.match(empty)?.length ?? 0
  if (found !== 1) throw new Error(`the configuration has ${found} empty PrivateKey lines, want one`)
  return config.replace(empty, (_, line: string) => `${line} ${privateKey}`)
}

/** A file name that wg-quick and the apps accept (interface name of at most 15 bytes plus .conf), whatever was sent. */
export function safeFilename(name: string): string {
  const stem = name.replace(/\.conf$/, '').replace(/[^A-Za-z0-9_=+.-]/g, '').replace(/^\.+/, '').slice(0, 15)
  return `${stem || 'peer'}.conf`
}
