import { MutationCache, QueryCache, QueryClient, queryOptions, infiniteQueryOptions } from '@tanstack/react-query'
import { change, client, commitHeaders, read, readTagged, setCsrfToken, type CommitOptions } from './client'
import { ApiError, hasCode } from './problem'
import type { Exit, ExitInput, ExitParsed, ExitTest, ExplainQuery, PeerCreated, PeerInput, Peer, PolicyResult, Preview } from './types'

function sessionEnded(error: unknown): void {
  // Recovered is what a cell can only become by a restart: the session is of before, and the shell shows the alarm.
  if (hasCode(error, 'unauthenticated', 'recovered')) void queryClient.invalidateQueries({ queryKey: me.queryKey })
}

export const queryClient = new QueryClient({
  // Not for the question itself, or it would be asked without end.
  queryCache: new QueryCache({ onError: (error, query) => query.queryKey[0] === me.queryKey[0] || sessionEnded(error) }),
  mutationCache: new MutationCache({ onError: sessionEnded }),
  defaultOptions: {
    queries: {
      staleTime: 10_000,
      retry: (failures, error) => failures < 2 && (!(error instanceof ApiError) || error.status === 0 || (error.status >= 500 && error.code !== 'recovered')),
      networkMode: 'always',
    },
    mutations: { networkMode: 'always' },
  },
})

/** Who is logged in; null for nobody. */
export const me = queryOptions({
  queryKey: ['me'],
  staleTime: 60_000,
  queryFn: async ({ signal }) => {
    try {
      const who = await read(() => client.GET('/api/auth/me', { signal }))
      setCsrfToken(who.csrf_token)
      return who
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) {
        setCsrfToken('')
        return null
      }
      throw error
    }
  },
})

export const status = queryOptions({
  queryKey: ['status'],
  // Events say when to look again; this is for the day that a proxy swallows them.
  refetchInterval: 30_000,
  queryFn: ({ signal }) => read(() => client.GET('/api/status', { signal })),
})

export const setupStep = queryOptions({
  queryKey: ['setup'],
  staleTime: 0,
  queryFn: async ({ signal }) => {
    const { claimed } = await read(() => client.GET('/api/setup/status', { signal }))
    if (claimed) return { claimed: true as const, at: null }
    return { claimed: false as const, at: await read(() => client.GET('/api/setup/step', { signal })) }
  },
})

export const peers = queryOptions({
  queryKey: ['peers'],
  refetchInterval: 15_000,
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/peers', { signal }))).items ?? [],
})

export const peer = (name: string) =>
  queryOptions({
    queryKey: ['peers', name],
    refetchInterval: 15_000,
    queryFn: ({ signal }) => readTagged(() => client.GET('/api/peers/{name}', { params: { path: { name } }, signal })),
  })

export const services = queryOptions({
  queryKey: ['services'],
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/services/active', { signal }))).items ?? [],
})

export const users = queryOptions({
  queryKey: ['users'],
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/auth/users', { signal }))).items ?? [],
})

export const sessions = queryOptions({
  queryKey: ['sessions'],
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/auth/sessions', { signal }))).items ?? [],
})

export const secondFactor = queryOptions({
  queryKey: ['second-factor'],
  queryFn: ({ signal }) => read(() => client.GET('/api/auth/second-factor', { signal })),
})

export const tokens = queryOptions({
  queryKey: ['tokens'],
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/auth/tokens', { signal }))).items ?? [],
})

export const exits = queryOptions({
  queryKey: ['exits'],
  refetchInterval: 15_000,
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/connectivity/exits', { signal }))).items,
})

export const exit = (id: string) =>
  queryOptions({
    queryKey: ['exits', id],
    refetchInterval: 10_000,
    queryFn: ({ signal }) => readTagged(() => client.GET('/api/connectivity/exits/{id}', { params: { path: { id } }, signal })),
  })

export const chains = queryOptions({
  queryKey: ['chains'],
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/connectivity/chains', { signal }))).items,
})

export const exitTypes = queryOptions({
  queryKey: ['exit-types'],
  staleTime: 60_000,
  queryFn: async ({ signal }) => (await read(() => client.GET('/api/connectivity/types', { signal }))).items,
})

/** What a pasted configuration means; nothing is stored, here neither. */
export const parseExit = (body: { type: ExitInput['type']; config: string }): Promise<ExitParsed> => read(() => client.POST('/api/connectivity/exits/parse', { body }))

export const testExit = (id: string): Promise<ExitTest> => read(() => client.POST('/api/connectivity/exits/{id}/test', { body: {}, params: { path: { id } } }))

/** The ETag goes with the policy tests, so the items stay in their envelope. */
export const policy = queryOptions({
  queryKey: ['policy'],
  queryFn: ({ signal }) => read(() => client.GET('/api/firewall/policy', { signal })),
})

export const explain = (body: ExplainQuery) => read(() => client.POST('/api/explain', { body }))

export const revisionPage = 50

export const revisions = infiniteQueryOptions({
  queryKey: ['revisions'],
  initialPageParam: 0,
  queryFn: async ({ signal, pageParam }) => {
    const query = pageParam > 0 ? { limit: revisionPage, before: pageParam } : { limit: revisionPage }
    return (await read(() => client.GET('/api/revisions', { params: { query }, signal }))).items ?? []
  },
  getNextPageParam: (page) => (page.length < revisionPage ? undefined : page.at(-1)?.number),
})

export const revision = (n: number) =>
  queryOptions({
    queryKey: ['revisions', n],
    queryFn: async ({ signal }) => {
      const { state: _, ...info } = await read(() => client.GET('/api/revisions/{n}', { params: { path: { n } }, signal }))
      return info
    },
  })

export const revisionDiff = (n: number, against?: number) =>
  queryOptions({
    queryKey: ['revisions', n, 'diff', against ?? null],
    queryFn: ({ signal }) =>
      read(() => client.GET('/api/revisions/{n}/diff', { params: { path: { n }, query: against === undefined ? {} : { against } }, signal })),
  })

// Changes. Each has a preview of the same request.

export const createPeer = (body: PeerInput, o: CommitOptions) =>
  change<PeerCreated>(() => client.POST('/api/peers', { body, headers: commitHeaders(o) }))

export const previewCreatePeer = (body: PeerInput) =>
  change<Preview>(() => client.POST('/api/peers', { body, params: { query: { dry_run: true } } }))

export const updatePeer = (name: string, body: PeerInput, o: CommitOptions) =>
  change<Peer>(() => client.PUT('/api/peers/{name}', { body, params: { path: { name } }, headers: commitHeaders(o) }))

export const previewUpdatePeer = (name: string, body: PeerInput) =>
  change<Preview>(() => client.PUT('/api/peers/{name}', { body, params: { path: { name }, query: { dry_run: true } } }))

export const removePeer = (name: string, o: CommitOptions) =>
  change<undefined>(() => client.DELETE('/api/peers/{name}', { params: { path: { name } }, headers: commitHeaders(o) }))

export const previewRemovePeer = (name: string) =>
  change<Preview>(() => client.DELETE('/api/peers/{name}', { params: { path: { name }, query: { dry_run: true } } }))

export const addExit = (body: ExitInput, o: CommitOptions) =>
  change<Exit>(() => client.POST('/api/connectivity/exits', { body, headers: commitHeaders(o) }))

export const previewAddExit = (body: ExitInput) =>
  change<Preview>(() => client.POST('/api/connectivity/exits', { body, params: { query: { dry_run: true } } }))

export const updateExit = (id: string, body: { enabled: boolean }, o: CommitOptions) =>
  change<Exit>(() => client.PUT('/api/connectivity/exits/{id}', { body, params: { path: { id } }, headers: commitHeaders(o) }))

export const previewUpdateExit = (id: string, body: { enabled: boolean }) =>
  change<Preview>(() => client.PUT('/api/connectivity/exits/{id}', { body, params: { path: { id }, query: { dry_run: true } } }))

export const removeExit = (id: string, moveTo: string | undefined, o: CommitOptions) =>
  change<undefined>(() => client.DELETE('/api/connectivity/exits/{id}', { params: { path: { id }, query: moveTo ? { move_to: moveTo } : {} }, headers: commitHeaders(o) }))

export const previewRemoveExit = (id: string, moveTo: string | undefined) =>
  change<Preview>(() => client.DELETE('/api/connectivity/exits/{id}', { params: { path: { id }, query: { dry_run: true, ...(moveTo ? { move_to: moveTo } : {}) } } }))

export const acceptHostKey = (id: string, key: string, o: CommitOptions) =>
  change<Exit>(() => client.POST('/api/connectivity/exits/{id}/host-key', { body: { key }, params: { path: { id } }, headers: commitHeaders(o) }))

export const previewHostKey = (id: string, key: string) =>
  change<Preview>(() => client.POST('/api/connectivity/exits/{id}/host-key', { body: { key }, params: { path: { id }, query: { dry_run: true } } }))

export const putPolicy = (items: string[], o: CommitOptions) =>
  change<{ items: PolicyResult[] }>(() => client.PUT('/api/firewall/policy', { body: { items }, headers: commitHeaders(o) }))

export const previewPolicy = (items: string[]) =>
  change<Preview>(() => client.PUT('/api/firewall/policy', { body: { items }, params: { query: { dry_run: true } } }))

export const rollback = (n: number, o: CommitOptions) =>
  change<{ revision: number }>(() => client.POST('/api/revisions/{n}/rollback', { body: {}, params: { path: { n } }, headers: commitHeaders(o) }))

export const previewRollback = (n: number) =>
  change<Preview>(() => client.POST('/api/revisions/{n}/rollback', { body: {}, params: { path: { n }, query: { dry_run: true } } }))

/**
 * Confirms a pending commit. It has to arrive on a connection made after the change, or it would prove nothing: a page
 * can only ask (no cache, no keepalive); the cell closes the connection that carried the 202, so that this one is new.
 */
export const confirmCommit = (n: number) =>
  change<{ revision: number }>(() => client.POST('/api/commits/{n}/confirm', { body: {}, params: { path: { n } }, cache: 'no-store', keepalive: false }))

export const revertCommit = (n: number) =>
  change<{ revision: number }>(() => client.POST('/api/commits/{n}/revert', { body: {}, params: { path: { n } }, cache: 'no-store', keepalive: false }))
