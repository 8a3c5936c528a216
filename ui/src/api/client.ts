import createClient from 'openapi-fetch'
import { noteServerTime } from './clock'
import { ApiError, apiError, offline } from './problem'
import type { paths } from './schema'

/** What a session needs on each request; empty when nobody is logged in. */
let csrfToken = ''
/** Asks a person for their password again; resolves to false when they decline. */
let askPassword: (() => Promise<boolean>) | null = null

export function setCsrfToken(token: string): void {
  csrfToken = token
}

export function onReauth(ask: (() => Promise<boolean>) | null): void {
  askPassword = ask
}

function serialiseQuery(query: unknown): string {
  const out = new URLSearchParams()
  for (const [key, value] of Object.entries(query as Record<string, unknown>)) {
    if (value === undefined || value === null || value === false) continue
    out.append(key, value === true ? '1' : String(value))
  }
  return out.toString()
}

export const client = createClient<paths>({
  baseUrl: globalThis.location?.origin ?? '',
  credentials: 'same-origin',
  headers: { Accept: 'application/json, application/problem+json' },
  querySerializer: serialiseQuery,
})

client.use({
  onRequest({ request }) {
    if (request.method !== 'GET') {
      request.headers.set('Content-Type', 'application/json')
      if (csrfToken) request.headers.set('X-CSRF-Token', csrfToken)
    }
    return request
  },
  onResponse({ response }) {
    noteServerTime(response.headers.get('Date'))
  },
})

type Raw<D> = { data?: D; error?: unknown; response: Response }

/** Sends a request; a stale CSRF token is renewed once, and a demand for the password is answered by asking for it. */
async function send<D>(request: () => Promise<Raw<D>>): Promise<Raw<D>> {
  let renewed = false
  for (let tries = 0; tries < 3; tries++) {
    let raw: Raw<D>
    try {
      raw = await request()
    } catch (cause) {
      if (cause instanceof DOMException && cause.name === 'AbortError') throw cause
      throw offline(cause)
    }
    if (raw.response.ok) return raw
    const error = apiError(raw.response, raw.error)
    if (error.code === 'csrf' && !renewed) {
      renewed = true
      const { data } = await client.GET('/api/auth/csrf-token')
      if (data) {
        csrfToken = data.csrf_token
        continue
      }
    }
    if (error.code === 'reauth_required' && askPassword && (await askPassword())) continue
    throw error
  }
  throw new ApiError(401, { code: 'reauth_required' })
}

/** The body of a GET. */
export async function read<D>(request: () => Promise<Raw<D>>): Promise<D> {
  return (await send(request)).data as D
}

export type Tagged<D> = {
  data: D
  /** The ETag, for If-Match. */
  etag: string
}

/** The body of a GET with its ETag. */
export async function readTagged<D>(request: () => Promise<Raw<D>>): Promise<Tagged<D>> {
  const { data, response } = await send(request)
  return { data: data as D, etag: response.headers.get('ETag') ?? '' }
}

/** How a change of state is asked for. */
export type CommitOptions = {
  /** Seconds after which the cell reverts unless someone confirms; none means a plain commit. */
  confirmWithin?: number
  /** The ETag of what is changed, as it was read: 412 when someone changed it since. */
  ifMatch?: string
}

export function commitHeaders(o: CommitOptions): Record<string, string> {
  return {
    ...(o.confirmWithin ? { 'Confirm-Within': String(o.confirmWithin) } : {}),
    ...(o.ifMatch ? { 'If-Match': o.ifMatch } : {}),
  }
}

export type Outcome<T> = {
  data: T
  revision: number
  /** RFC 3339; empty unless the commit waits for confirmation. */
  confirmBy: string
}

/**
 * The outcome of a change. The answer's type is named by the caller: with ?dry_run=1 the same operation answers with a
 * Preview, which the OpenAPI file can't tie to the parameter.
 */
export async function change<T>(request: () => Promise<Raw<unknown>>): Promise<Outcome<T>> {
  const { data, response } = await send(request)
  return {
    data: data as T,
    revision: Number(response.headers.get('Pic-Revision') ?? 0),
    confirmBy: response.headers.get('Pic-Confirm-By') ?? '',
  }
}
