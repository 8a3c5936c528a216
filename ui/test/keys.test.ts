// @vitest-environment node
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { afterEach, expect, test, vi } from 'vitest'
import { clamp, fromBase64, generateKeys, isKey, nobleKeys, webCryptoKeys } from '../src/wireguard/keys'

const hex = (s: string) => Uint8Array.from(s.match(/../g) ?? [], (b) => Number.parseInt(b, 16))
const base64 = (b: Uint8Array) => Buffer.from(b).toString('base64')

/** The public key by OpenSSL: an opinion of neither library. */
function openssl(privateKey: string): string {
  const der = Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), Buffer.from(privateKey, 'base64')])
  const spki = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({ format: 'der', type: 'spki' })
  return spki.subarray(-32).toString('base64')
}

afterEach(() => vi.restoreAllMocks())

test('RFC 7748 §6.1', async () => {
  const alice = await nobleKeys((into) => {
    into.set(hex('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'))
    return into
  })
  expect(alice.publicKey).toBe(base64(hex('8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a')))
})

test('WebCrypto, noble and OpenSSL agree on the public key', async () => {
  for (const make of [webCryptoKeys, nobleKeys]) {
    for (let i = 0; i < 20; i++) {
      const pair = await make()
      expect(isKey(pair.privateKey) && isKey(pair.publicKey)).toBe(true)
      expect(openssl(pair.privateKey)).toBe(pair.publicKey)
      const again = await nobleKeys((into) => {
        into.set(fromBase64(pair.privateKey))
        return into
      })
      expect(again).toEqual(pair)
    }
  }
})

test('private keys are clamped, as wg genkey makes them', async () => {
  const raw = clamp(new Uint8Array(32).fill(0xff))
  expect([raw[0], raw[31]]).toEqual([0xf8, 0x7f])
  for (const make of [webCryptoKeys, nobleKeys]) {
    const secret = fromBase64((await make()).privateKey)
    expect(clamp(secret)).toEqual(secret)
  }
})

test('a browser without X25519 gets its keys from noble', async () => {
  const web = vi.spyOn(crypto.subtle, 'generateKey').mockRejectedValue(new DOMException('no', 'NotSupportedError'))
  const pair = await generateKeys()
  expect(web).toHaveBeenCalledOnce()
  expect(openssl(pair.privateKey)).toBe(pair.publicKey)
})

test('isKey takes canonical base64 of 32 bytes only', () => {
  const good = base64(hex('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'))
  expect(isKey(good)).toBe(true)
  // The last character before = holds 4 bits of the key: others would not decode to the same text.
  for (const bad of ['', good.slice(0, -1), `${good}=`, ` ${good}`, good.replace('o=', 'p='), `${good.slice(0, 42)}B=`, good.replace('d', '-')]) expect(isKey(bad), bad).toBe(false)
})
