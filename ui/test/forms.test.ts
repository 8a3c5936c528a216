import { expect, test } from 'vitest'
import type { Peer } from '../src/api/types'
import { z } from '../src/forms'
import { safeNext } from '../src/pages/next'
import { fromPeer, newPeer, peerSchema, toInput } from '../src/pages/peerForm'
import { codeFromHash, words } from '../src/pages/setup/code'
import { domainOf } from '../src/pages/setup/domain'
import { strength } from '../src/password'

const key = 'hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo='
const peer: Peer = {
  name: 'phone', public_key: key, address4: '10.64.0.2', address6: 'fd00::2', destinations: 'split', keepalive: 0, exit: 'tor', exit_until: null, exit_then: '', exit_choice: [], socks: [], expires: '2027-01-02T03:04:05Z', enabled: false, note: 'n', owner: 'eve',
  trust: 'guest', services: ['files'], peers: ['laptop'], lan: ['lan'], created: '2026-01-01T00:00:00Z', preshared_key: true, fqdn: 'phone.peers.home.internal', online: false, endpoint: '', last_handshake: null, rx_bytes: 0, tx_bytes: 0,
}

test('editing nothing sends the peer as it was, and leaves its expiry alone', () => {
  const { name, destinations, keepalive, exit, enabled, note, owner, trust, services, peers, lan, preshared_key } = peer
  expect(toInput(fromPeer(peer), key, peer)).toEqual({ name, public_key: key, destinations, keepalive, exit, enabled, note, owner, trust, services, peers, lan, preshared_key })
  expect(toInput(fromPeer({ ...peer, services: ['*'] }), key, peer).services).toEqual(['*'])
})

test('a new peer leaves its grants to its trust', () => {
  expect(toInput({ ...newPeer, name: 'tv' }, key)).not.toHaveProperty('services')
})

test('an expiry is set, changed or cleared only when its field was touched', () => {
  const sent = (expires: string, kept?: Peer) => {
    const { expires: at, never_expires } = toInput({ ...newPeer, name: 'tv', expires }, key, kept)
    return [at, never_expires]
  }
  expect(sent('')).toEqual([undefined, undefined])
  expect(sent('2027-03-01T12:00')).toEqual([new Date('2027-03-01T12:00').toISOString(), undefined])
  expect(sent('', peer)).toEqual([undefined, true])
  expect(sent('2027-03-01T12:00', peer)).toEqual([new Date('2027-03-01T12:00').toISOString(), undefined])
})

test('the schema', () => {
  const errors = (v: object) => (z.safeParse(peerSchema, { ...newPeer, name: 'tv', ...v }).error?.issues ?? []).map((i) => [i.path.join('.'), i.message])
  expect(errors({})).toEqual([])
  expect(errors({ name: ' tv ' })).toEqual([])
  for (const name of ['', 'TV', '-tv', 'tv-', 'a.b', 'x'.repeat(64)]) expect(errors({ name }), name).toEqual([['name', 'peer.name.format']])
  expect(errors({ keys: 'own', public_key: 'nonsense' })).toEqual([['public_key', 'peer.key.format']])
  expect(errors({ keys: 'own', public_key: key })).toEqual([])
  for (const keepalive of ['', '-1', '65536', '1.5', 'x']) expect(errors({ keepalive }), keepalive).toEqual([['keepalive', 'peer.keepalive.format']])
  expect(errors({ note: 'ü'.repeat(251) })).toEqual([['note', 'peer.note.long']])
})

test('after the login one stays on this site', () => {
  for (const ok of ['/peers', '/peers?q=a#b', '/']) expect(safeNext(ok)).toBe(ok)
  for (const bad of [null, '', '//evil.example', '/\\evil.example', 'https://evil.example', 'javascript:alert(1)', '/\t/evil.example', '/a\\b', '/login?next=/login']) expect(safeNext(bad), String(bad)).toBe('/')
})

test('a setup code is six words, however written', () => {
  expect(words(' Amber-canyon, DRIFT\tember  fable_grove ')).toEqual(['amber', 'canyon', 'drift', 'ember', 'fable', 'grove'])
  expect(codeFromHash('#code=amber-canyon-drift-ember-fable-grove')).toBe('amber canyon drift ember fable grove')
  expect(codeFromHash('#code=amber')).toBe('')
  expect(codeFromHash('')).toBe('')
})

test('the domain that a cell will have', () => {
  expect(domainOf('home', 'lan', '')).toBe('home.internal')
  expect(domainOf('home', 'pic_ngo', 'x')).toBe('home.pic.ngo')
  expect(domainOf('home', 'own', 'home.example.org')).toBe('home.example.org')
  expect(domainOf('', 'lan', '')).toBe('')
})

test('strength is no gate but tells poor passwords from good ones', () => {
  expect(strength('short', []).hint).toBe('short')
  expect(strength('aaaaaaaaaaaaaaaa', []).score).toBe(0)
  expect(strength('123456789012', []).score).toBe(0)
  expect(strength('qwertyuiopasdf', []).score).toBe(0)
  expect(strength('homehomehome', ['home']).hint).toBe('name')
  expect(strength('seven quiet lanterns drift', []).score).toBe(3)
})
