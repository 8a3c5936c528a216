export const modes = ['lan', 'pic_ngo', 'http01', 'cloudflare', 'duckdns', 'own'] as const
export type Mode = (typeof modes)[number]

export function isMode(text: string): text is Mode {
  return (modes as readonly string[]).includes(text)
}

export function takesDomain(mode: Mode): boolean {
  return mode === 'cloudflare' || mode === 'http01' || mode === 'own'
}

/** The domain that the cell will have, as far as the form is filled in; "" before. */
export function domainOf(name: string, mode: Mode, own: string): string {
  if (takesDomain(mode)) return own
  if (name === '') return ''
  return `${name}.${{ lan: 'internal', pic_ngo: 'pic.ngo', duckdns: 'duckdns.org' }[mode as 'lan' | 'pic_ngo' | 'duckdns']}`
}
