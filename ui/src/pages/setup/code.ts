/** The words of a setup code, however they were separated or capitalised. */
export function words(code: string): string[] {
  return code.toLowerCase().split(/[^a-z]+/).filter(Boolean)
}

/** The code that the QR on the console carries in the fragment, which never reaches a server log: #code=six-words. */
export function codeFromHash(hash: string): string {
  const code = new URLSearchParams(hash.replace(/^#/, '')).get('code') ?? ''
  const list = words(code)
  return list.length === 6 ? list.join(' ') : ''
}
