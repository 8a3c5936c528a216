import { expect, test } from 'vitest'
import { insertPrivateKey, safeFilename } from '../src/wireguard/config'

const key = '2CBtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo='
const config = (line: string) => `[Interface]\n# phone.peers.home.internal\n${line}\nAddress = 10.64.0.2/32\n\n[Peer]\nPublicKey = x\nPresharedKey = y\n`

test('the key goes into its line and nothing else changes', () => {
  expect(insertPrivateKey(config('PrivateKey = '), key)).toBe(config(`PrivateKey = ${key}`))
  expect(insertPrivateKey(config('PrivateKey ='), key)).toBe(config(`PrivateKey = ${key}`))
  // A $ in a replacement text has a meaning of its own; the key must go in as it is.
  expect(insertPrivateKey(config('PrivateKey = '), '$&$1')).toBe(config('PrivateKey = $&$1'))
})

test('the comment that asks for the key goes, others stay', () => {
  const ask = '# The private key exists only on the device that made it: put it here.\nPrivateKey = '
  expect(insertPrivateKey(config(ask), key)).toBe(config(`PrivateKey = ${key}`))
})

test('a configuration that is not as expected is refused', () => {
  for (const line of ['', 'PrivateKey = already', '#PrivateKey = ', 'PrivateKey = \nPrivateKey = ']) expect(() => insertPrivateKey(config(line), key), line).toThrow('PrivateKey')
})

test('file names suit wg-quick and the apps', () => {
  expect(safeFilename('phone.conf')).toBe('phone.conf')
  expect(safeFilename('a-very-long-name-of-a-peer.conf')).toBe('a-very-long-nam.conf')
  expect(safeFilename('../../etc/passwd')).toBe('etcpasswd.conf')
  expect(safeFilename('')).toBe('peer.conf')
})
