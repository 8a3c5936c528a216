import { QueryClient } from '@tanstack/react-query'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { backoff, listen } from '../src/api/events'

class FakeSource extends EventTarget {
  closed = false
  close() {
    this.closed = true
  }
}

let sources: FakeSource[]
let queries: QueryClient
const open = () => {
  const source = new FakeSource()
  sources.push(source)
  return source as unknown as EventSource
}
const stale = () =>
  queries
    .getQueryCache()
    .getAll()
    .filter((q) => q.state.isInvalidated)
    .map((q) => q.queryKey[0])
const send = (type: string, data: string) => sources.at(-1)?.dispatchEvent(new MessageEvent(type, { data }))

beforeEach(() => {
  vi.useFakeTimers()
  sources = []
  queries = new QueryClient()
  for (const key of ['me', 'status', 'peers', 'revisions']) queries.setQueryData([key], 1)
})
afterEach(() => vi.useRealTimers())

test('a revision makes everything but the session stale, once for a burst', () => {
  const look = vi.spyOn(queries, 'invalidateQueries')
  const stop = listen(queries, () => {}, open)
  send('revision', '{"revision":7}')
  send('revision', '{"revision":7}')
  send('status', '{}')
  vi.advanceTimersByTime(300)
  expect(stale()).toEqual(['status', 'peers', 'revisions'])
  expect(look).toHaveBeenCalledOnce()
  stop()
})

test('a status event looks at what lives', () => {
  const stop = listen(queries, () => {}, open)
  send('status', '{}')
  vi.advanceTimersByTime(300)
  expect(stale()).toEqual(['status', 'peers'])
  stop()
})

test('after a gap everything is fetched again, with a growing pause between attempts', () => {
  const states: boolean[] = []
  const stop = listen(queries, (live) => states.push(live), open)
  sources[0]?.dispatchEvent(new Event('open'))
  sources[0]?.dispatchEvent(new Event('error'))
  expect(sources[0]?.closed).toBe(true)
  expect(stale()).toEqual(['me']) // a lost session ends the page, not the retries
  vi.advanceTimersByTime(999)
  expect(sources.length).toBe(1)
  vi.advanceTimersByTime(1)
  expect(sources.length).toBe(2)
  sources[1]?.dispatchEvent(new Event('error'))
  vi.advanceTimersByTime(1_999)
  expect(sources.length).toBe(2)
  vi.advanceTimersByTime(1)
  sources[2]?.dispatchEvent(new Event('open'))
  vi.advanceTimersByTime(300)
  expect(stale()).toContain('revisions')
  expect(states).toEqual([true, false, false, true])
  stop()
})

test('stopped is stopped', () => {
  const stop = listen(queries, () => {}, open)
  sources[0]?.dispatchEvent(new Event('error'))
  stop()
  vi.advanceTimersByTime(60_000)
  expect(sources.length).toBe(1)
})

test('the pause doubles up to 30 s', () => expect([1, 2, 3, 6, 60].map(backoff)).toEqual([1_000, 2_000, 4_000, 30_000, 30_000]))
