import type { Problem } from './types'

export type FieldError = { pointer: string; message: string }

/** What the cell answered when it didn't do what was asked (RFC 9457). Status 0 means that no answer came. */
export class ApiError extends Error {
  readonly status: number
  readonly code: string
  readonly detail: string
  readonly errors: FieldError[]
  readonly requestId: string
  /** Seconds, from Retry-After; 0 when the cell named none. */
  readonly retryAfter: number

  constructor(status: number, problem: Problem, retryAfter = 0) {
    super(problem.detail || problem.title || problem.code || `HTTP ${status}`)
    this.name = 'ApiError'
    this.status = status
    this.code = problem.code ?? ''
    this.detail = problem.detail || problem.title || ''
    this.errors = problem.errors ?? []
    this.requestId = problem.request_id ?? ''
    this.retryAfter = retryAfter
  }
}

export function apiError(response: Response, body: unknown): ApiError {
  const problem = typeof body === 'object' && body !== null ? (body as Problem) : {}
  const seconds = Number(response.headers.get('Retry-After'))
  return new ApiError(response.status, problem, Number.isFinite(seconds) && seconds > 0 ? seconds : 0)
}

export function offline(cause: unknown): ApiError {
  const error = new ApiError(0, { code: 'offline' })
  error.cause = cause
  return error
}

export function hasCode(error: unknown, ...codes: string[]): error is ApiError {
  return error instanceof ApiError && codes.includes(error.code)
}

/**
 * Finds the form field that a JSON pointer (RFC 6901) of an error speaks of. The pointer may be of the request body
 * (/name, /services/0) or of the state document (/peers/3/name); undefined when it is of neither.
 */
export function fieldOf<F extends string>(pointer: string, collection: string, fields: readonly F[]): F | undefined {
  let segments = pointer.split('/').slice(1).map((s) => s.replaceAll('~1', '/').replaceAll('~0', '~'))
  if (segments[0] === 'body') segments = segments.slice(1)
  if (segments.length > 2 && segments[0] === collection && /^\d+$/.test(segments[1] ?? '')) segments = segments.slice(2)
  return fields.find((f) => f === segments[0])
}

/** Splits the errors of a problem into those that stand beside a field and those that don't. */
export function splitErrors<F extends string>(error: unknown, collection: string, fields: readonly F[]) {
  const beside: { field: F; message: string }[] = []
  const rest: FieldError[] = []
  for (const e of error instanceof ApiError ? error.errors : []) {
    const field = fieldOf(e.pointer, collection, fields)
    if (field) beside.push({ field, message: e.message })
    else rest.push(e)
  }
  return { beside, rest }
}
