import { fromBase64 } from './wireguard/keys'

/** SHA-256 of the first certificate in a PEM text (RFC 7468), as upper-case hex pairs with colons. */
export async function fingerprint(pem: string): Promise<string> {
  const body = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/.exec(pem)?.[1]
  if (!body) throw new Error('the file holds no certificate')
  const sum = await crypto.subtle.digest('SHA-256', Uint8Array.from(fromBase64(body.replace(/\s/g, ''))))
  return Array.from(new Uint8Array(sum), (b) => b.toString(16).padStart(2, '0').toUpperCase()).join(':')
}
