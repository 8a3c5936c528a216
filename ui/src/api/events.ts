import type { QueryClient } from '@tanstack/react-query'
import { me, setupStep, status } from './queries'

const firstDelay = 1_000
const longestDelay = 30_000
const quiet = 250 // events come in bursts; one look answers all of them

/** How long to wait before the attempt after n failures, in milliseconds: doubling, at most 30 s. */
export function backoff(failures: number): number {
  return Math.min(longestDelay, firstDelay * 2 ** Math.max(0, failures - 1))
}

/**
 * Listens to /api/events and makes the queries look again. The events carry no news themselves. After a gap everything
 * is fetched again, since events may have been missed. Returns what stops it.
 */
export function listen(queries: QueryClient, onState: (live: boolean) => void, open: (url: string) => EventSource = (url) => new EventSource(url)): () => void {
  let source: EventSource | null = null
  let retry: ReturnType<typeof setTimeout> | undefined
  let look: ReturnType<typeof setTimeout> | undefined
  let everything = false
  let failures = 0
  let revision = 0
  let stopped = false

  const lookAgain = (all: boolean) => {
    everything ||= all
    look ??= setTimeout(() => {
      const wide = everything
      look = undefined
      everything = false
      void queries.invalidateQueries({
        predicate: ({ queryKey: [key] }) =>
          key !== me.queryKey[0] && key !== setupStep.queryKey[0] && (wide || key === 'status' || key === 'peers'),
      })
    }, quiet)
  }

  const connect = () => {
    source = open('/api/events')
    source.addEventListener('open', () => {
      if (failures > 0) lookAgain(true)
      failures = 0
      onState(true)
    })
    source.addEventListener('revision', (event) => {
      let n = 0
      try {
        n = (JSON.parse((event as MessageEvent<string>).data) as { revision: number }).revision
      } catch {
        // An event that can't be read is still a reason to look.
      }
      // The first event of a connection tells where the cell is, which may be nothing new.
      const known = revision || queries.getQueryData(status.queryKey)?.revision
      revision = n
      if (n !== 0 && n === known) return
      lookAgain(true)
    })
    source.addEventListener('status', () => lookAgain(false))
    source.addEventListener('error', () => {
      // The browser would retry by itself, but never after an error status and without backing off.
      source?.close()
      if (stopped) return
      failures++
      onState(false)
      // A lost session looks the same as a lost network from here; asking who we are tells them apart.
      void queries.invalidateQueries({ queryKey: me.queryKey })
      retry = setTimeout(connect, backoff(failures))
    })
  }
  connect()

  return () => {
    stopped = true
    clearTimeout(retry)
    clearTimeout(look)
    source?.close()
  }
}
