import { expect, test } from 'vitest'
import { ApiError, apiError, fieldOf, hasCode, splitErrors } from '../src/api/problem'

const fields = ['name', 'public_key', 'services', 'peers'] as const

test.each([
  ['/name', 'name'],
  ['/body/name', 'name'],
  ['/peers/3/name', 'name'],
  ['/peers/3/services/0', 'services'],
  ['/services/0', 'services'],
  ['/peers/0', 'peers'], // a field of the body, not the third peer of the state
  ['/peers/3/peers/0', 'peers'],
  ['/network/tunnel/mtu', undefined],
  ['/peers/3/address4', undefined],
  ['', undefined],
])('%s stands beside %s', (pointer, field) => expect(fieldOf(pointer, 'peers', fields)).toBe(field))

test('escapes of RFC 6901', () => expect(fieldOf('/a~1b~0c', '', ['a/b~c'] as const)).toBe('a/b~c'))

test('errors are split into those beside fields and the rest; none is lost', () => {
  const error = new ApiError(422, {
    code: 'invalid',
    errors: [
      { pointer: '/peers/2/name', message: 'taken' },
      { pointer: '/network/tunnel/prefix4', message: 'full' },
    ],
  })
  expect(splitErrors(error, 'peers', fields)).toEqual({ beside: [{ field: 'name', message: 'taken' }], rest: [{ pointer: '/network/tunnel/prefix4', message: 'full' }] })
  expect(splitErrors(new Error('other'), 'peers', fields)).toEqual({ beside: [], rest: [] })
})

test('a problem document becomes an error; anything else does too', () => {
  const limited = apiError(new Response(null, { status: 429, headers: { 'Retry-After': '17' } }), { code: 'too_many', detail: 'slow down', request_id: 'r1' })
  expect([limited.status, limited.code, limited.detail, limited.retryAfter, limited.requestId]).toEqual([429, 'too_many', 'slow down', 17, 'r1'])
  expect(hasCode(limited, 'conflict', 'too_many')).toBe(true)
  expect(hasCode(new Error('too_many'), 'too_many')).toBe(false)
  for (const body of [undefined, null, 'gateway', {}]) {
    const error = apiError(new Response(null, { status: 502 }), body)
    expect([error.status, error.code, error.errors, error.retryAfter]).toEqual([502, '', [], 0])
  }
})
