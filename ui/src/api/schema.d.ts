/**
 * The shape that openapi-typescript gives the cell's OpenAPI file.
 * `npm run gen` replaces this file from openapi.json, which `pic openapi` writes.
 */

type Headers = { [name: string]: unknown }
type Json<T> = { headers: Headers; content: { 'application/json': T } }
type Text<M extends string> = { headers: Headers; content: { [media in M]: string } }
type Empty = { headers: Headers; content?: never }
type Failure = { headers: Headers; content: { 'application/problem+json': components['schemas']['Problem'] } }
type Body<T> = { content: { 'application/json': T } }
type None = { query?: never; header?: never; path?: never; cookie?: never }
type Op<P, R, B = never> = [B] extends [never]
  ? { parameters: P; requestBody?: never; responses: R & { default: Failure } }
  : { parameters: P; requestBody: Body<B>; responses: R & { default: Failure } }
type Mutation = { query?: { dry_run?: boolean }; header?: { 'If-Match'?: string; 'Confirm-Within'?: number }; path?: never; cookie?: never }
type MutationOf<P> = Omit<Mutation, 'path'> & { path: P }
type List<T> = { items: T[] | null }
type S = components['schemas']

export interface paths {
  '/health': { parameters: None; get: Op<None, { 200: Json<S['Health']> }> }
  '/api/setup/status': { parameters: None; get: Op<None, { 200: Json<S['SetupStatus']> }> }
  '/api/setup/step': {
    parameters: None
    get: Op<None, { 200: Json<S['SetupStep']> }>
    post: Op<None, { 200: Json<S['SetupStep']> }, S['SetupInput']>
  }
  '/api/setup/complete': { parameters: None; post: Op<None, { 201: Json<S['SetupDone']> }, Record<string, never>> }
  '/api/auth/login': { parameters: None; post: Op<None, { 200: Json<S['Me']> }, { user: string; password: string }> }
  '/api/auth/logout': { parameters: None; post: Op<None, { 204: Empty }, Record<string, never>> }
  '/api/auth/reauth': { parameters: None; post: Op<None, { 200: Json<S['Me']> }, { password: string }> }
  '/api/auth/change-password': { parameters: None; post: Op<None, { 204: Empty }, { current: string; new: string }> }
  '/api/auth/me': { parameters: None; get: Op<None, { 200: Json<S['Me']> }> }
  '/api/auth/csrf-token': { parameters: None; get: Op<None, { 200: Json<{ csrf_token: string }> }> }
  '/api/auth/users': { parameters: None; get: Op<None, { 200: Json<List<S['UserInfo']>> }> }
  '/api/auth/sessions': { parameters: None; get: Op<None, { 200: Json<List<S['Session']>> }> }
  '/api/auth/sessions/{id}': { parameters: None; delete: Op<{ query?: never; header?: never; path: { id: string }; cookie?: never }, { 204: Empty }> }
  '/api/status': { parameters: None; get: Op<None, { 200: Json<S['Status']> }> }
  '/api/revision': { parameters: None; get: Op<None, { 200: Json<{ revision: number; source: string }> }> }
  '/api/revisions': {
    parameters: None
    get: Op<{ query?: { limit?: number; before?: number }; header?: never; path?: never; cookie?: never }, { 200: Json<List<S['RevisionInfo']>> }>
  }
  '/api/revisions/{n}': {
    parameters: None
    get: Op<{ query?: never; header?: never; path: { n: number }; cookie?: never }, { 200: Json<S['RevisionInfo'] & { state: unknown }> }>
  }
  '/api/revisions/{n}/diff': {
    parameters: None
    get: Op<{ query?: { against?: number }; header?: never; path: { n: number }; cookie?: never }, { 200: Json<S['Preview']> }>
  }
  '/api/revisions/{n}/rollback': {
    parameters: None
    post: Op<MutationOf<{ n: number }>, { 200: Json<{ revision: number } | S['Preview']>; 202: Json<{ revision: number }> }, Record<string, never>>
  }
  '/api/commits/{n}/confirm': {
    parameters: None
    post: Op<{ query?: never; header?: never; path: { n: number }; cookie?: never }, { 200: Json<{ revision: number }> }, Record<string, never>>
  }
  '/api/commits/{n}/revert': {
    parameters: None
    post: Op<{ query?: never; header?: never; path: { n: number }; cookie?: never }, { 200: Json<{ revision: number }> }, Record<string, never>>
  }
  '/api/peers': {
    parameters: None
    get: Op<None, { 200: Json<List<S['Peer']>> }>
    post: Op<Mutation, { 200: Json<S['Preview']>; 201: Json<S['PeerCreated']>; 202: Json<S['PeerCreated']> }, S['PeerInput']>
  }
  '/api/peers/{name}': {
    parameters: None
    get: Op<{ query?: never; header?: never; path: { name: string }; cookie?: never }, { 200: Json<S['Peer']> }>
    put: Op<MutationOf<{ name: string }>, { 200: Json<S['Peer'] | S['Preview']>; 202: Json<S['Peer']> }, S['PeerInput']>
    delete: Op<MutationOf<{ name: string }>, { 200: Json<S['Preview']>; 202: Empty; 204: Empty }>
  }
  '/api/peers/{name}/config': {
    parameters: None
    get: Op<{ query?: never; header?: never; path: { name: string }; cookie?: never }, { 200: Text<'text/plain'> }>
  }
  '/api/services/active': { parameters: None; get: Op<None, { 200: Json<List<S['ActiveService']>> }> }
  '/api/vault/ca': {
    parameters: None
    get: Op<{ query?: { format?: 'pem' | 'der' | 'mobileconfig' }; header?: never; path?: never; cookie?: never }, { 200: Text<'application/x-pem-file'> }>
  }
}

export interface components {
  schemas: {
    Problem: {
      type?: string
      title?: string
      status?: number
      detail?: string
      code?: string
      link?: string
      request_id?: string
      errors?: { pointer: string; message: string }[] | null
    }
    Health: { status: 'ok' | 'degraded' | 'recovered'; version: string }
    SetupStatus: { claimed: boolean; step: 'code' | 'identity' | 'admin' | 'review' | 'done'; unlocked: boolean }
    SetupStep: {
      step: 'code' | 'identity' | 'admin' | 'review' | 'done'
      unlocked: boolean
      data: {
        cell_name: string
        domain_mode: string
        domain: string
        timezone: string
        language: string
        user: string
        has_password: boolean
      }
    }
    SetupInput: {
      step: 'code' | 'identity' | 'admin'
      code?: string
      cell_name?: string
      domain_mode?: string
      domain?: string
      timezone?: string
      language?: string
      user?: string
      password?: string
    }
    SetupDone: { revision: number; domain: string; url: string; fingerprint: string }
    Me: { user: string; role: 'admin' | 'peer'; csrf_token: string; expires: string; reauth_until: string | null }
    UserInfo: { name: string; role: 'admin' | 'peer'; created: string; peers: string[] | null }
    Session: { id: string; user: string; created: string; last_seen: string; address: string; current: boolean }
    Author: { name: string; via: string; address: string }
    Pending: { revision: number; author: components['schemas']['Author']; message: string; confirm_by: string }
    Condition: { stage: string; state: 'in-sync' | 'pending' | 'failed'; revision: number; reason: string; since: string }
    Notice: { code: string; subject: string; severity: 'info' | 'warning' | 'alarm'; text: string }
    Status: {
      cell: { name: string; domain: string; domain_mode: string; version: string; started: string; claimed: boolean }
      revision: number
      source: 'current' | 'recovered'
      pending: components['schemas']['Pending'] | null
      conditions: components['schemas']['Condition'][] | null
      notices: components['schemas']['Notice'][] | null
      peers: { total: number; online: number; rx_bytes: number; tx_bytes: number }
      clock: { synchronised: boolean; stratum: number; offset_seconds: number }
      wireguard: { backend: 'kernel' | 'userspace'; listen_port: number; public_key: string }
      resources: { memory_bytes: number; goroutines: number; uptime_seconds: number }
    }
    RevisionInfo: {
      number: number
      parent: number
      time: string
      author: components['schemas']['Author']
      message: string
      status: 'committed' | 'pending' | 'failed' | 'reverted' | 'auto-reverted'
      current: boolean
    }
    StageDiff: { stage: string; diff: string }
    SettingChange: { pointer: string; op: 'add' | 'remove' | 'replace'; before?: unknown; after?: unknown }
    Cut: { kind: string; subject: string; text: string }
    Preview: {
      dry_run?: boolean
      base: number
      plans: components['schemas']['StageDiff'][] | null
      settings: components['schemas']['SettingChange'][] | null
      cuts: components['schemas']['Cut'][] | null
    }
    Peer: {
      name: string
      public_key: string
      address4: string
      address6: string
      destinations: 'full' | 'split'
      keepalive: number
      exit: string
      expires: string | null
      enabled: boolean
      note: string
      owner: string
      trust: 'owner' | 'family' | 'guest'
      services: string[] | null
      peers: string[] | null
      lan: string[] | null
      created: string
      preshared_key: boolean
      fqdn: string
      online: boolean
      endpoint: string
      last_handshake: string | null
      rx_bytes: number
      tx_bytes: number
    }
    PeerInput: {
      name: string
      public_key?: string
      generate_key?: boolean
      preshared_key?: boolean
      destinations?: 'full' | 'split'
      keepalive?: number
      exit?: string
      expires?: string | null
      enabled?: boolean
      note?: string
      owner?: string
      trust?: 'owner' | 'family' | 'guest'
      services?: string[]
      peers?: string[]
      lan?: string[]
    }
    PeerCreated: { peer: components['schemas']['Peer']; config: string; filename: string; private_key: string }
    ActiveService: { id: string; name: string; subdomain: string; url: string; capabilities: string[] | null; access: string }
  }
}
