// A cell in one small process, for driving the built UI without one: the HTTP contract in memory, with the real
// security headers. It keeps the rules that the UI must meet (CSRF, confirm-within, dry runs, one pending commit).
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { certificate } from './certificate.mjs'

export const csp =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' }
export const setupCode = 'amber canyon drift ember fable grove'

class Refusal extends Error {
  constructor(status, code, detail, more = {}, headers = {}) {
    super(detail)
    Object.assign(this, { status, body: { type: 'about:blank', title: code, status, code, detail, request_id: randomBytes(6).toString('hex'), ...more }, headers })
  }
}

/** @param {{dist: string, claimed?: boolean}} o */
/** An exit as the cell would make it of what was sent. */
const exitOf = (b) => ({
  id: (b.name ?? 'wg').toLowerCase(), name: b.name ?? 'wg', type: b.type, catalog_id: 'wireguard-ext', kind: 'routed', slot: 0, mark: 16, table: 110, relay_port: 0, socks_port: 10816, link_name: 'wg_ext0', enabled: true, socks: false, probes: [],
  created: new Date().toISOString(), wireguard: { public_key: '', peer_key: '', endpoint: 'vpn.example.net:51820', allowed_ips: ['0.0.0.0/0'], keepalive: 25, mtu: 0, dns: [], has_preshared_key: false }, address4: '10.64.0.2', address6: '', has_credentials: true, used_by: [],
  state: 'up', reason: '', since: new Date().toISOString(), latency_ms: 31, public_address4: '198.51.100.50', public_address6: '', rx_bytes: 18_874_368, tx_bytes: 2_201_600, leaked_packets: 0, connections: 0, pending_host_key: null, v6: false, udp: true, restarts: 0,
})

export function startCell({ dist, claimed = false }) {
  const started = new Date().toISOString()
  const key = (n) => createHash('sha256').update(n).digest('base64')
  const author = (name = 'admin') => ({ name, via: 'api', address: '10.64.0.2' })
  const cell = {
    claimed,
    setup: { step: 'code', unlocked: false, tries: 5, data: { cell_name: '', domain_mode: '', domain: '', timezone: '', language: '', user: '', has_password: false } },
    password: claimed ? 'correct horse battery' : '',
    sessions: new Map(),
    reauth: false,
    identity: claimed ? { name: 'home', domain: 'home.internal', domain_mode: 'lan' } : { name: '', domain: 'cell.internal', domain_mode: '' },
    peers: [],
    exits: [],
    policy: [{ assertion: 'phone cannot reach files', pointer: '/network/policy/0', result: 'holds', text: '' }, { assertion: 'tv leaves by nl', pointer: '/network/policy/1', result: 'unknown', text: 'the uplink is not known' }],
    revisions: [{ number: 1, parent: 0, time: started, author: { name: 'pic', via: 'local', address: '' }, message: 'new cell', status: 'committed', peers: [] }],
    running: 1,
    pending: null,
    events: new Set(),
    refuseNext: null,
    recovered: false,
  }
  const tell = (event, data) => {
    for (const out of cell.events) out.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }

  const lines = (peers) => ({
    firewall: peers.flatMap((p) => [`\t\t${p.address4} : 0x00000002,`, `\t\t${p.address6} : 0x00000002,`]),
    tunnel: peers.flatMap((p) => ['[Peer]', `PublicKey = ${p.public_key}`, `AllowedIPs = ${p.address4}/32, ${p.address6}/128`]),
    dns: peers.map((p) => `${p.name}.peers.${cell.identity.domain}.\t300\tIN\tA\t${p.address4}`),
  })
  const head = { firewall: ['table inet pic {', '\tmap mark4 {', '\t\ttype ipv4_addr : mark'], tunnel: ['[Interface]', 'ListenPort = 51820'], dns: ['; view tunnel'] }
  const unified = (stage, before, after) => {
    const same = head[stage].map((l) => ` ${l}`)
    const gone = before.filter((l) => !after.includes(l)).map((l) => `-${l}`)
    const come = after.filter((l) => !before.includes(l)).map((l) => `+${l}`)
    const kept = after.filter((l) => before.includes(l)).map((l) => ` ${l}`)
    if (gone.length + come.length === 0) return ''
    const n = same.length + kept.length
    return `--- ${stage}\n+++ ${stage}\n@@ -1,${n + gone.length} +1,${n + come.length} @@\n${[...same, ...kept, ...gone, ...come].join('\n')}\n`
  }
  const preview = (from, to, base) => {
    const [a, b] = [lines(from), lines(to)]
    const settings = []
    for (const p of to) if (!from.some((q) => q.name === p.name)) settings.push({ pointer: `/peers/${to.indexOf(p)}`, op: 'add', after: { name: p.name, trust: p.trust, address4: p.address4 } })
    for (const p of from) {
      const q = to.find((x) => x.name === p.name)
      if (!q) settings.push({ pointer: `/peers/${from.indexOf(p)}`, op: 'remove', before: { name: p.name } })
      else for (const f of ['trust', 'enabled', 'note', 'keepalive']) if (p[f] !== q[f]) settings.push({ pointer: `/peers/${from.indexOf(p)}/${f}`, op: 'replace', before: p[f], after: q[f] })
    }
    const cuts = from.filter((p) => !to.some((q) => q.name === p.name)).map((p) => ({ kind: 'peer', subject: p.name, text: `${p.name} loses the tunnel: its key is no longer accepted` }))
    return { dry_run: true, base, plans: Object.keys(a).map((stage) => ({ stage, diff: unified(stage, a[stage], b[stage]) })).filter((p) => p.diff), settings, cuts }
  }

  const settle = (state, status) => {
    const info = cell.revisions.find((r) => r.number === state.number)
    info.status = status
    if (status !== 'committed') {
      cell.peers = state.before
      cell.running = info.parent
    }
    clearTimeout(state.timer)
    cell.pending = null
    tell('revision', { revision: cell.running })
  }
  /** Commits or previews, by the request's own wish. */
  const commit = (req, url, who, message, peers, made) => {
    if (url.searchParams.get('dry_run') === '1') return { status: 200, body: preview(cell.peers, peers, cell.running) }
    if (cell.refuseNext) {
      const refusal = cell.refuseNext
      cell.refuseNext = null
      throw refusal
    }
    if (cell.pending) throw new Refusal(409, 'commit_pending', `revision ${cell.pending.number} waits for confirmation`)
    const within = Number(req.headers['confirm-within'] ?? 0)
    const number = Math.max(...cell.revisions.map((r) => r.number)) + 1
    const before = cell.peers
    cell.revisions.push({ number, parent: cell.running, time: new Date().toISOString(), author: author(who), message, status: within ? 'pending' : 'committed', peers })
    cell.peers = peers
    cell.running = number
    const headers = { 'Pic-Revision': String(number) }
    if (within) {
      const by = new Date(Date.now() + within * 1000).toISOString()
      const state = { number, before, by, who, message }
      state.timer = setTimeout(() => settle(state, 'auto-reverted'), within * 1000)
      cell.pending = state
      Object.assign(headers, { 'Pic-Confirm-By': by, Connection: 'close' })
    }
    tell('revision', { revision: number })
    return { status: within ? 202 : (made?.status ?? 200), body: made?.body ?? { revision: number }, headers }
  }

  const info = ({ peers: _peers, ...r }) => ({ ...r, current: r.number === cell.running })
  const me = (s) => ({ user: 'admin', role: 'admin', csrf_token: s.csrf, expires: new Date(Date.now() + 3.6e6).toISOString(), reauth_until: null })
  const login = () => {
    const s = { id: randomBytes(8).toString('hex'), csrf: randomBytes(16).toString('base64url'), created: new Date().toISOString() }
    cell.sessions.set(s.id, s)
    return { s, headers: { 'Set-Cookie': `pic=${s.id}; HttpOnly; SameSite=Lax; Path=/` } }
  }
  const changedAt = (name) => {
    const mine = (r) => JSON.stringify(r?.peers.find((x) => x.name === name)?.note) + JSON.stringify(r?.peers.find((x) => x.name === name)?.trust)
    let at = cell.running
    for (let r = cell.revisions.find((x) => x.number === at); r && r.parent; r = cell.revisions.find((x) => x.number === r.parent)) {
      if (mine(r) !== mine(cell.revisions.find((x) => x.number === r.parent))) return r.number
      at = r.parent
    }
    return at
  }
  const makePeer = ({ never_expires: never, ...body }, old) => {
    const errors = []
    for (const [field, value] of Object.entries(body)) if (value === null) errors.push({ pointer: `/${field}`, message: 'expected a value, not null' })
    if (never) body.expires = null
    if (!/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(body.name ?? '')) errors.push({ pointer: '/peers/0/name', message: 'is no label' })
    if (!old && cell.peers.some((p) => p.name === body.name)) throw new Refusal(409, 'conflict', `there is already a peer "${body.name}"`)
    if (errors.length > 0) throw new Refusal(422, 'invalid', 'the peer is not valid', { errors })
    const n = old ? 0 : cell.peers.length + 2
    return {
      exit: '', expires: null, note: '', owner: '', services: [], peers: [], lan: [], created: new Date().toISOString(), online: false, endpoint: '', last_handshake: null, rx_bytes: 0, tx_bytes: 0,
      address4: `10.64.0.${n}`, address6: `fd4a:17c2:9b01::${n.toString(16)}`,
      ...old, ...body,
      fqdn: `${body.name}.peers.${cell.identity.domain}`, public_key: body.public_key ?? old?.public_key,
    }
  }
  const config = (p) =>
    `# ${p.fqdn}\n[Interface]\n# The private key exists only on the device that made it: put it here.\nPrivateKey = \nAddress = ${p.address4}/32, ${p.address6}/128\nDNS = 10.64.0.1, fd4a:17c2:9b01::1, ${cell.identity.domain}\nMTU = 1420\n\n[Peer]\nPublicKey = ${key('cell')}\nPresharedKey = ${key(`psk${p.name}`)}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = ${cell.identity.domain}:51820\nPersistentKeepalive = ${p.keepalive}\n`

  const routes = [
    ['GET', '/health', 'public', () => ({ body: { status: 'ok', version: '0.1.0' } })],
    ['GET', '/api/setup/status', 'setup', () => ({ body: { claimed: cell.claimed, step: cell.setup.step, unlocked: cell.setup.unlocked } })],
    ['GET', '/api/setup/step', 'setup', () => ({ body: { step: cell.setup.step, unlocked: cell.setup.unlocked, data: cell.setup.data } })],
    ['POST', '/api/setup/step', 'setup', ({ body: b }) => {
      const s = cell.setup
      if (b.step === 'code') {
        if (b.code !== setupCode) throw new Refusal(403, 'wrong_code', `${--s.tries} tries left`)
        Object.assign(s, { unlocked: true, step: 'identity' })
      } else if (!s.unlocked) throw new Refusal(403, 'wrong_code', 'the setup code comes first')
      else if (b.step === 'identity') {
        if (b.cell_name === 'taken') throw new Refusal(422, 'invalid', 'the identity is not valid', { errors: [{ pointer: '/cell_name', message: 'this name is taken' }] })
        Object.assign(s.data, { cell_name: b.cell_name, domain_mode: b.domain_mode, domain: b.domain, timezone: b.timezone, language: b.language })
        s.step = s.data.has_password ? 'review' : 'admin'
      } else {
        Object.assign(s.data, { user: b.user, has_password: true })
        cell.password = b.password
        s.step = 'review'
      }
      return { body: { step: s.step, unlocked: s.unlocked, data: s.data } }
    }],
    ['POST', '/api/setup/complete', 'setup', () => {
      if (cell.claimed) throw new Refusal(409, 'conflict', 'this cell is claimed')
      cell.claimed = true
      const d = cell.setup.data
      cell.identity = { name: d.cell_name, domain: `${d.cell_name}.internal`, domain_mode: d.domain_mode }
      cell.revisions.push({ number: 2, parent: 1, time: new Date().toISOString(), author: { name: 'admin', via: 'setup', address: '10.0.0.7' }, message: 'claim the cell', status: 'committed', peers: [] })
      cell.running = 2
      return { status: 201, body: { revision: 2, domain: cell.identity.domain, url: `https://${cell.identity.domain}/`, fingerprint: createHash('sha256').update('ca').digest('hex').toUpperCase().match(/../g).join(':') }, headers: login().headers }
    }],
    ['POST', '/api/auth/login', 'public', ({ body: b }) => {
      if (b.user !== 'admin' || b.password !== cell.password) throw new Refusal(401, 'unauthenticated', 'wrong')
      const { s, headers } = login()
      return { body: me(s), headers }
    }],
    ['POST', '/api/auth/logout', 'user', ({ s }) => (cell.sessions.delete(s.id), { status: 204 })],
    ['POST', '/api/auth/reauth', 'user', ({ s, body: b }) => {
      if (b.password !== cell.password) throw new Refusal(401, 'unauthenticated', 'wrong')
      cell.reauth = false
      return { body: me(s) }
    }],
    ['POST', '/api/auth/change-password', 'user', ({ body: b }) => {
      if (b.current !== cell.password) throw new Refusal(401, 'unauthenticated', 'user or password is wrong')
      cell.password = b.new
      return { status: 204 }
    }],
    ['GET', '/api/auth/me', 'user', ({ s }) => ({ body: me(s) })],
    ['GET', '/api/auth/csrf-token', 'user', ({ s }) => ({ body: { csrf_token: s.csrf } })],
    ['GET', '/api/auth/users', 'user', () => ({ body: { items: [{ name: 'admin', role: 'admin', created: started, peers: [] }] } })],
    ['GET', '/api/auth/sessions', 'user', ({ s }) => ({ body: { items: [...cell.sessions.values()].map((x) => ({ id: x.id, user: 'admin', created: x.created, last_seen: new Date().toISOString(), address: '10.0.0.7', current: x.id === s.id })) } })],
    ['GET', '/api/auth/second-factor', 'user', () => ({ body: { enabled: false, since: null, recovery_left: 0 } })],
    ['GET', '/api/auth/tokens', 'user', () => ({
      body: { items: [{ id: 'a1b2c3d4e5f60718293a4b5c', user: 'admin', name: 'backup script', scopes: [{ method: 'GET', path: '/api/**' }], created: '2026-01-02T03:04:05Z', expires: '2027-01-02T03:04:05Z', last_used: null }] },
    })],
    ['DELETE', '/api/auth/sessions/:id', 'user', ({ p }) => (cell.sessions.delete(p.id), { status: 204 })],
    ['GET', '/api/status', 'user', () => ({ body: {
      cell: { ...cell.identity, version: '0.1.0', started: new Date(Date.now() - 3 * 864e5).toISOString(), claimed: true },
      revision: cell.running, source: 'current',
      pending: cell.pending && { revision: cell.pending.number, author: author(cell.pending.who), message: cell.pending.message, confirm_by: cell.pending.by },
      conditions: ['firewall', 'tunnel', 'dns', 'proxy', 'certs'].map((stage) => ({ stage, revision: cell.running, since: started, ...(stage === 'certs' ? { state: 'pending', reason: 'waiting for the certificate of home.internal: the authority signs it in the background' } : { state: 'in-sync', reason: '' }) })),
      notices: [
        { code: 'port_taken', subject: '123/udp', severity: 'warning', text: 'Another program (chronyd) holds port 123. Stop it with: systemctl disable --now chrony' },
        { code: 'userspace', subject: 'WireGuard', severity: 'info', text: 'The kernel has no WireGuard. Load it with: modprobe wireguard' },
      ],
      peers: { total: cell.peers.length, online: cell.peers.filter((p) => p.online).length, rx_bytes: 734003200, tx_bytes: 91226112 },
      clock: { synchronised: true, stratum: 3, offset_seconds: -0.000412 },
      wireguard: { backend: 'kernel', listen_port: 51820, public_key: key('cell') },
      resources: { memory_bytes: 24117248, goroutines: 61, uptime_seconds: 273912 },
    } })],
    ['GET', '/api/revisions', 'user', ({ url }) => {
      const before = Number(url.searchParams.get('before') ?? Infinity)
      return { body: { items: cell.revisions.filter((r) => r.number < before).sort((a, b) => b.number - a.number).slice(0, Number(url.searchParams.get('limit') ?? 50)).map(info) } }
    }],
    ['GET', '/api/revisions/:n', 'user', ({ p }) => {
      const r = cell.revisions.find((x) => x.number === Number(p.n))
      if (!r) throw new Refusal(404, 'not_found', `there is no revision ${p.n}`)
      return { body: { ...info(r), state: {} } }
    }],
    ['GET', '/api/revisions/:n/diff', 'user', ({ p, url }) => {
      const r = cell.revisions.find((x) => x.number === Number(p.n))
      const a = cell.revisions.find((x) => x.number === Number(url.searchParams.get('against') ?? r.parent))
      const { dry_run: _, ...diff } = preview(a?.peers ?? [], r.peers, a?.number ?? 0)
      return { body: diff }
    }],
    ['POST', '/api/revisions/:n/rollback', 'user', ({ req, url, p }) => commit(req, url, 'admin', `roll back to revision ${p.n}`, cell.revisions.find((x) => x.number === Number(p.n)).peers)],
    ['POST', '/api/commits/:n/confirm', 'user', ({ p }) => {
      if (cell.pending?.number !== Number(p.n)) throw new Refusal(404, 'not_found', `revision ${p.n} does not wait for confirmation`)
      settle(cell.pending, 'committed')
      return { body: { revision: Number(p.n) } }
    }],
    ['POST', '/api/commits/:n/revert', 'user', () => {
      settle(cell.pending, 'reverted')
      return { body: { revision: cell.running } }
    }],
    ['GET', '/api/peers', 'user', () => ({ body: { items: cell.peers } })],
    ['POST', '/api/peers', 'user', ({ req, url, body }) => {
      if (!body.public_key === !body.generate_key) throw new Refusal(422, 'invalid', 'exactly one of public_key and generate_key')
      const made = makePeer(body)
      return commit(req, url, 'admin', `add peer ${made.name}`, [...cell.peers, made], { status: 201, body: { peer: made, config: config(made), filename: `${made.name}.conf`, private_key: '' } })
    }],
    ['GET', '/api/peers/:name', 'user', ({ p }) => {
      const it = cell.peers.find((x) => x.name === p.name)
      if (!it) throw new Refusal(404, 'not_found', `there is no peer "${p.name}"`)
      return { body: it, headers: { ETag: `"${changedAt(it.name)}"` } }
    }],
    ['PUT', '/api/peers/:name', 'user', ({ req, url, p, body }) => {
      const old = cell.peers.find((x) => x.name === p.name)
      if (!url.searchParams.has('dry_run') && req.headers['if-match'] !== `"${changedAt(p.name)}"`) throw new Refusal(412, 'precondition_failed', 'somebody changed this in the meantime')
      const made = makePeer(body, old)
      return commit(req, url, 'admin', `change peer ${p.name}`, cell.peers.map((x) => (x === old ? made : x)), { status: 200, body: made })
    }],
    ['DELETE', '/api/peers/:name', 'user', ({ req, url, p }) => commit(req, url, 'admin', `remove peer ${p.name}`, cell.peers.filter((x) => x.name !== p.name), { status: 204 })],
    ['GET', '/api/peers/:name/config', 'user', ({ p }) => ({ text: config(cell.peers.find((x) => x.name === p.name)), headers: { 'Content-Disposition': `attachment; filename="${p.name}.conf"` } })],
    ['GET', '/api/services/active', 'user', () => ({ body: { items: [{ id: 'files', name: 'Files', subdomain: 'files', url: 'https://files.home.internal/', capabilities: ['webdav'], access: 'granted' }] } })],
    ['GET', '/api/connectivity/exits', 'user', () => ({ body: { items: cell.exits } })],
    ['GET', '/api/connectivity/chains', 'user', () => ({ body: { items: [] } })],
    ['GET', '/api/connectivity/types', 'user', () => ({ body: { items: ['wireguard_ext', 'openvpn', 'tor', 'sshuttle', 'proxy'].map((type) => ({ type, catalog_id: type, enabled: false, program: type === 'tor' ? 'tor' : '', installed: type !== 'tor', install_command: type === 'tor' ? 'apt install tor' : '', count: 0, max: 10 })) } })],
    ['POST', '/api/connectivity/exits/parse', 'user', ({ body: b }) => ({ body: {
      ok: !b.config.includes('PostUp'), name: 'wg', address4: '10.64.0.2', address6: '', asks: [],
      refused: b.config.includes('PostUp') ? [{ line: 4, text: 'PostUp runs a command on the cell, which a configuration may not: remove the line' }] : [],
      warnings: [{ line: 3, text: 'a search domain is ignored' }],
    } })],
    ['POST', '/api/connectivity/exits', 'user', ({ req, url, body: b }) => {
      if (b.config.includes('PostUp')) throw new Refusal(422, 'validation', 'line 4: PostUp runs a command on the cell')
      const made = exitOf(b)
      const out = commit(req, url, 'admin', `add exit ${made.id}`, cell.peers, { status: 201, body: made })
      if (!url.searchParams.has('dry_run')) cell.exits.push(made)
      return out
    }],
    ['GET', '/api/connectivity/exits/:id', 'user', ({ p }) => {
      const found = cell.exits.find((x) => x.id === p.id)
      if (!found) throw new Refusal(404, 'not_found', `there is no exit "${p.id}"`)
      return { body: found, headers: { ETag: `"${cell.running}"` } }
    }],
    ['PUT', '/api/connectivity/exits/:id', 'user', ({ req, url, p, body: b }) => {
      const found = cell.exits.find((x) => x.id === p.id)
      const out = commit(req, url, 'admin', `change exit ${p.id}`, cell.peers, { body: found })
      if (!url.searchParams.has('dry_run')) Object.assign(found, b, { state: b.enabled ? 'connecting' : 'disabled', reason: '' })
      return out
    }],
    ['DELETE', '/api/connectivity/exits/:id', 'user', ({ req, url, p }) => {
      const out = commit(req, url, 'admin', `remove exit ${p.id}`, cell.peers, { status: 204 })
      if (!url.searchParams.has('dry_run')) cell.exits = cell.exits.filter((x) => x.id !== p.id)
      return out
    }],
    ['POST', '/api/connectivity/exits/:id/host-key', 'user', ({ req, url, p }) => {
      const found = cell.exits.find((x) => x.id === p.id)
      const out = commit(req, url, 'admin', `accept the host key of ${p.id}`, cell.peers, { body: found })
      if (!url.searchParams.has('dry_run')) Object.assign(found, { pending_host_key: null, state: 'up', reason: '' })
      return out
    }],
    ['POST', '/api/connectivity/exits/:id/test', 'user', () => ({ body: { ok: true, time: new Date().toISOString(), public_address4: '198.51.100.50', public_address6: '', latency_ms: 31.4, dns: true, checks: [{ name: 'connection', ok: true, text: '' }, { name: 'IPv6', ok: false, text: 'the exit carries no IPv6' }] } })],
    ['GET', '/api/firewall/policy', 'user', () => ({ body: { items: cell.policy } })],
    ['PUT', '/api/firewall/policy', 'user', ({ req, url, body: b }) => {
      const out = commit(req, url, 'admin', 'change the policy tests', cell.peers)
      if (!url.searchParams.has('dry_run')) cell.policy = b.items.map((assertion, i) => ({ assertion, pointer: `/network/policy/${i}`, result: 'holds', text: '' }))
      return url.searchParams.has('dry_run') ? out : { ...out, body: { items: cell.policy } }
    }],
    ['POST', '/api/explain', 'user', ({ body: b }) => {
      if (b.to === 'nowhere') throw new Refusal(422, 'validation', 'there is no "nowhere"')
      const passes = b.to !== 'files'
      const step = (kind, text, pointer = '') => ({ kind, text, pointer })
      return { body: {
        revision: cell.running, passes, verdict: passes ? 'accepted' : 'dropped', reason: passes ? 'peer to internet: by its mark\'s own interface' : 'peer to prefix of ours: not granted', pointer: '/peers/0/exit', line: '"exit": "nl"',
        names: passes ? [step('name', `${b.to} is 203.0.113.80`)] : [],
        paths: [{ source: '10.17.0.2', destination: passes ? '203.0.113.80' : '172.20.1.2', protocol: b.protocol ?? 'tcp', port: b.port ?? 443, passes, verdict: passes ? 'accepted' : 'dropped', reason: 'peer to prefix of ours: not granted', pointer: '', line: '', out: passes ? 'wg_ext0' : '', steps: [
          step('ingress', 'it comes in by pic0'), step('mark', 'its source 10.17.0.2 has the mark 0x10', '/peers/0/exit'), step('table', 'policy rule 1032: table 110: to 203.0.113.80 by wg_ext0'), step('nat', 'its source becomes the cell\'s address on wg_ext0 (masquerade)'),
        ] }],
      } }
    }],
    ['GET', '/api/vault/ca', 'user', () => ({ text: certificate })],
    ['GET', '/api/events', 'user', ({ res }) => {
      res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
      res.write(`retry: 2000\nevent: revision\ndata: {"revision":${cell.running}}\n\n`)
      cell.events.add(res)
      res.on('close', () => cell.events.delete(res))
      return null
    }],
  ]

  const find = (method, path) => {
    for (const [m, pattern, access, handle] of routes) {
      if (m !== method) continue
      const names = []
      const match = new RegExp(`^${pattern.replace(/:(\w+)/g, (_, n) => (names.push(n), '([^/]+)'))}$`).exec(path)
      if (match) return { access, handle, p: Object.fromEntries(names.map((n, i) => [n, decodeURIComponent(match[i + 1])])) }
    }
    throw new Refusal(404, 'not_found', 'no such path')
  }

  const api = async (req, res, url) => {
    const route = find(req.method, url.pathname)
    if (cell.recovered && url.pathname !== '/health') throw new Refusal(503, 'recovered', 'the stored state was damaged: changes are closed until an administrator runs `pic recover` on the cell')
    if (!cell.claimed && route.access !== 'setup' && url.pathname !== '/health') throw new Refusal(428, 'setup_required', 'this cell is not set up', { link: '/setup' })
    const s = cell.sessions.get(/pic=(\w+)/.exec(req.headers.cookie ?? '')?.[1])
    if (route.access === 'user' && !s) throw new Refusal(401, 'unauthenticated', 'log in first')
    const mutation = req.method !== 'GET'
    if (mutation && req.headers['content-type'] !== 'application/json') throw new Refusal(415, 'invalid', 'JSON only')
    if (mutation && route.access === 'user' && req.headers['x-csrf-token'] !== s.csrf) throw new Refusal(403, 'csrf', 'the token is missing')
    let raw = ''
    for await (const chunk of req) raw += chunk
    if (!url.pathname.startsWith('/api/connectivity/exits') && raw.includes('PrivateKey') || raw.includes('private_key')) throw new Refusal(500, 'leak', 'a private key left the page')
    if (mutation && cell.reauth && route.access === 'user' && url.pathname !== '/api/auth/reauth' && url.pathname !== '/api/auth/logout' && !url.searchParams.has('dry_run')) throw new Refusal(401, 'reauth_required', 'the password again, please')
    return route.handle({ req, res, url, p: route.p, s, body: raw ? JSON.parse(raw) : {} })
  }

  const server = createServer((req, res) => {
    const url = new URL(req.url, 'http://cell')
    res.setHeader('Content-Security-Policy', csp)
    res.setHeader('X-Content-Type-Options', 'nosniff')
    if (!url.pathname.startsWith('/api/') && url.pathname !== '/health') {
      const path = normalize(url.pathname)
      let file = join(dist, extname(path) ? path : 'index.html')
      try {
        const content = readFileSync(file)
        res.writeHead(200, { 'Content-Type': types[extname(file)] ?? 'application/octet-stream' }).end(content)
      } catch {
        res.writeHead(404).end()
      }
      return
    }
    api(req, res, url).then(
      (answer) => {
        if (!answer) return
        const { status = 200, body, text, headers = {} } = answer
        res.writeHead(status, { 'Content-Type': text === undefined ? 'application/json' : 'text/plain', 'Cache-Control': 'no-store', ...headers })
        res.end(text ?? (status === 204 ? undefined : JSON.stringify(body)))
      },
      (error) => {
        const refusal = error instanceof Refusal ? error : new Refusal(500, 'internal', String(error))
        res.writeHead(refusal.status, { 'Content-Type': 'application/problem+json', ...refusal.headers }).end(JSON.stringify(refusal.body))
      },
    )
  })

  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () =>
      resolve({
        cell,
        Refusal,
        url: `http://127.0.0.1:${server.address().port}`,
        endSessions: () => cell.sessions.clear(),
        stop: () => {
          clearTimeout(cell.pending?.timer)
          for (const out of cell.events) out.end()
          server.closeAllConnections()
          return new Promise((done) => server.close(done))
        },
      }),
    )
  })
}
