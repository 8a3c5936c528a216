import { expect, test } from 'vitest'
import { fill } from '../src/i18n'
import { de } from '../src/i18n/de'
import { en, type Key } from '../src/i18n/en'
import { bytes, clockOffset, duration, relative } from '../src/i18n/format'

const keys = Object.keys(en) as Key[]
const holes = (s: string) => [...s.matchAll(/\{\w+\}/g)].map((m) => m[0]).sort()

// A missing key fails tsc; what tsc can't see is below.
test('every sentence is translated, with the same words to fill in', () => {
  expect(Object.keys(de).sort()).toEqual([...keys].sort())
  for (const key of keys) {
    expect(de[key].trim(), key).not.toBe('')
    expect(holes(de[key]), key).toEqual(holes(en[key]))
  }
})

test('German is German', () => {
  // Names and words that both languages write alike.
  const alike = keys.filter((k) => de[k] === en[k])
  expect(alike.length / keys.length).toBeLessThan(0.1)
})

test('every sentence is said somewhere', () => {
  const files = import.meta.glob('../src/**/*.{ts,tsx}', { query: '?raw', import: 'default', eager: true }) as Record<string, string>
  const source = Object.entries(files)
    .filter(([path]) => !path.includes('/i18n/en.ts') && !path.includes('/i18n/de.ts'))
    .map(([, text]) => text)
    .join('\n')
  // Keys put together from parts: t(`peer.trust.${v}.text`).
  const made = [...source.matchAll(/`([a-z]\w*\.[\w.]*)\$\{[^}]+\}([\w.]*)`/g)].map(([, head = '', tail = '']) => ({ head, tail }))
  const silent = keys.filter((key) => {
    const spoken = key.replace(/_(one|other)$/, '')
    return !source.includes(`'${spoken}'`) && !made.some(({ head, tail }) => key.startsWith(head) && key.endsWith(tail) && !key.slice(head.length, key.length - tail.length).includes('.'))
  })
  expect(silent.filter((key) => !/^peers\.(online|offline|disabled|expired)$/.test(key))).toEqual([])
})

test('plurals come in pairs', () => {
  for (const key of keys) {
    if (key.endsWith('_one')) expect(keys).toContain(key.replace(/_one$/, '_other'))
    if (key.endsWith('_other')) expect(keys).toContain(key.replace(/_other$/, '_one'))
  }
})

test('filling in', () => {
  expect(fill('{a} and {b} and {a}', { a: 1, b: '$&' })).toBe('1 and $& and 1')
  expect(fill('{missing}')).toBe('{missing}')
})

test('numbers and times in words', () => {
  expect(bytes('en', 0)).toBe('0 B')
  expect(bytes('en', 1536)).toBe('1.5 KiB')
  expect(bytes('de', 1536)).toBe('1,5 KiB')
  expect(bytes('en', 734003200)).toBe('700 MiB')
  expect(duration('en', 90_061)).toBe('1d 1h')
  expect(duration('en', 0)).toBe('0s')
  expect(clockOffset('en', -0.000412)).toBe('-412 µs')
  expect(clockOffset('en', 1.25)).toBe('+1.3 s')
  const now = Date.parse('2026-11-24T14:00:00Z')
  expect(relative('en', now - 3 * 60_000, now)).toBe('3 minutes ago')
  expect(relative('de', now + 7_200_000, now)).toBe('in 2 Stunden')
})
