export type KeyPair = {
  /** base64, 44 characters */
  privateKey: string
  publicKey: string
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
}

/** Sets the bits that RFC 7748 §5 fixes, as `wg genkey` does. The public key stays the same. */
export function clamp(secret: Uint8Array): Uint8Array {
  const out = Uint8Array.from(secret)
  out[0] = (out[0] ?? 0) & 248
  out[31] = ((out[31] ?? 0) & 127) | 64
  return out
}

/** By WebCrypto; rejects where the browser has no X25519 (NotSupportedError). */
export async function webCryptoKeys(): Promise<KeyPair> {
  const pair = (await crypto.subtle.generateKey({ name: 'X25519' }, true, ['deriveBits'])) as CryptoKeyPair
  // RFC 8410 §7: in this PKCS #8 form the secret is the last 32 of 48 bytes.
  const pkcs8 = new Uint8Array(await crypto.subtle.exportKey('pkcs8', pair.privateKey))
  if (pkcs8.length !== 48) throw new Error('the browser exported an X25519 key of an unknown form')
  const raw = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey))
  return { privateKey: base64(clamp(pkcs8.slice(16))), publicKey: base64(raw) }
}

/** In JavaScript, from the browser's random source. */
export async function nobleKeys(random: (into: Uint8Array<ArrayBuffer>) => Uint8Array = (into) => crypto.getRandomValues(into)): Promise<KeyPair> {
  const { x25519 } = await import('@noble/curves/ed25519.js')
  const secret = clamp(random(new Uint8Array(32)))
  return { privateKey: base64(secret), publicKey: base64(x25519.getPublicKey(secret)) }
}

/** Makes a WireGuard key pair in this browser. */
export async function generateKeys(): Promise<KeyPair> {
  try {
    return await webCryptoKeys()
  } catch {
    return nobleKeys()
  }
}

/** Whether the text is base64 of 32 bytes in its one canonical form. */
export function isKey(text: string): boolean {
  return /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/.test(text)
}
