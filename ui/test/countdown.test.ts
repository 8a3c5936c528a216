import { expect, test } from 'vitest'
import { noteServerTime, serverNow } from '../src/api/clock'
import { passedMark, secondsLeft } from '../src/countdown'

test('whole seconds, rounded up, never negative', () => {
  const end = '2026-11-24T14:00:10Z'
  const at = Date.parse(end)
  expect(secondsLeft(end, at - 10_000)).toBe(10)
  expect(secondsLeft(end, at - 9_001)).toBe(10)
  expect(secondsLeft(end, at - 9_000)).toBe(9)
  expect(secondsLeft(end, at)).toBe(0)
  expect(secondsLeft(end, at + 5_000)).toBe(0)
  expect(secondsLeft('nonsense', at)).toBe(0)
})

test('a 70 s countdown speaks at the start, at each mark once, and not in between', () => {
  const spoken: number[] = []
  let before: number | null = null
  for (let left = 70; left >= 0; left--) {
    const mark = passedMark(before, left)
    if (mark !== null) spoken.push(mark)
    before = left
  }
  expect(spoken).toEqual([70, 60, 30, 20, 10, 5])
})

test('a reading that jumps over marks speaks the lowest', () => expect(passedMark(90, 8)).toBe(10))

test("the cell's clock counts, not this machine's", () => {
  const now = Date.parse('2026-11-24T14:00:00Z')
  noteServerTime('Tue, 24 Nov 2026 13:00:00 GMT', now)
  expect(serverNow(now)).toBe(now - 3_600_000 + 500)
  noteServerTime('Tue, 24 Nov 2026 14:00:01 GMT', now)
  expect(serverNow(now)).toBe(now) // the header's coarseness
  noteServerTime('rubbish', now)
  noteServerTime(null, now)
  expect(serverNow(now)).toBe(now)
})
