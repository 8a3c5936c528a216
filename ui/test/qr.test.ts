import { expect, test } from 'vitest'
import { chooseQr } from '../src/wireguard/qr'

// Capacity in bytes (ISO/IEC 18004, table 7), version 20 (97 modules): H 382, Q 482, M 666, L 858;
// version 18 (89 modules): Q 394; version 40: L 2953.
test.each([
  [30, 'H', 33],
  [382, 'H', 97],
  [383, 'Q', 89],
  [482, 'Q', 97],
  [483, 'M', 85],
  [667, 'L', 89],
  [858, 'L', 97],
  [859, 'L', 101],
  [2953, 'L', 177],
])('%i bytes: level %s, %i modules', (bytes, level, size) => {
  const qr = chooseQr('x'.repeat(bytes))
  expect([qr?.level, qr?.size]).toEqual([level, size])
})

test('too long for any level', () => expect(chooseQr('x'.repeat(2954))).toBeNull())

test('bytes are counted in UTF-8', () => expect(chooseQr('ü'.repeat(191))?.level).toBe('H'))
test('bytes are counted in UTF-8: one more', () => expect(chooseQr('ü'.repeat(192))?.level).toBe('Q'))

test('the finder patterns stand in three corners', () => {
  const qr = chooseQr('hello')
  if (!qr) throw new Error('no code')
  const finder = (row: number, column: number) => [0, 1, 2, 3, 4, 5, 6].map((i) => (qr.dark(row + i, column + i) ? '#' : '.')).join('')
  const edge = qr.size - 7
  expect([finder(0, 0), finder(0, edge), finder(edge, 0)]).toEqual(['#.###.#', '#.###.#', '#.###.#'])
})
