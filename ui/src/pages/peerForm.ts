import type { Peer, PeerInput } from '../api/types'
import { label, z } from '../forms'
import { isKey } from '../wireguard/keys'

export const peerSchema = z
  .object({
    name: z.string().check(z.trim(), z.regex(label, 'peer.name.format')),
    keys: z.enum(['browser', 'own']),
    public_key: z.string().check(z.trim()),
    trust: z.enum(['owner', 'family', 'guest']),
    destinations: z.enum(['full', 'split']),
    grants: z.enum(['default', 'all', 'chosen']),
    services: z.array(z.string()),
    expires: z.string(),
    enabled: z.boolean(),
    exit: z.string(),
    preshared_key: z.boolean(),
    keepalive: z.string().check(
      z.trim(),
      z.refine((s) => /^\d{1,5}$/.test(s) && Number(s) <= 65535, 'peer.keepalive.format'),
    ),
    owner: z.string(),
    note: z.string().check(z.refine((s) => new TextEncoder().encode(s).length <= 500, 'peer.note.long')),
  })
  .check(
    z.refine((v) => v.keys !== 'own' || isKey(v.public_key), { error: 'peer.key.format', path: ['public_key'] }),
    z.refine((v) => v.expires === '' || Number.isFinite(new Date(v.expires).getTime()), { error: 'peer.expires.past', path: ['expires'] }),
  )

export type PeerValues = z.infer<typeof peerSchema>
export const peerFields = ['name', 'public_key', 'trust', 'destinations', 'services', 'expires', 'enabled', 'exit', 'preshared_key', 'keepalive', 'owner', 'note'] as const

export const newPeer: PeerValues = {
  name: '',
  keys: 'browser',
  public_key: '',
  trust: 'family',
  destinations: 'full',
  grants: 'default',
  services: [],
  expires: '',
  enabled: true,
  exit: 'direct',
  preshared_key: true,
  keepalive: '25',
  owner: '',
  note: '',
}

const two = (n: number) => String(n).padStart(2, '0')

/** The value of a datetime-local field, in this browser's time zone; "" for no moment. */
export function toLocalInput(time: string | null): string {
  if (!time) return ''
  const date = new Date(time)
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}`
}

export function fromPeer(p: Peer): PeerValues {
  const services = p.services ?? []
  return {
    name: p.name,
    keys: 'own',
    public_key: p.public_key,
    trust: p.trust,
    destinations: p.destinations,
    grants: services.includes('*') ? 'all' : 'chosen',
    services: services.filter((s) => s !== '*'),
    expires: toLocalInput(p.expires),
    enabled: p.enabled,
    exit: p.exit || 'direct',
    preshared_key: p.preshared_key,
    keepalive: String(p.keepalive),
    owner: p.owner,
    note: p.note,
  }
}

/** The body of a request. `kept` carries what the form has no field for, so that what was reviewed is what is sent. */
export function toInput(v: PeerValues, publicKey: string, kept?: Peer): PeerInput {
  return {
    name: v.name,
    public_key: publicKey,
    trust: v.trust,
    destinations: v.destinations,
    ...(v.grants === 'default' ? {} : { services: v.grants === 'all' ? ['*'] : v.services }),
    ...expiry(v.expires, kept),
    enabled: v.enabled,
    // Two words for the same: the one that was there stays.
    exit: v.exit === 'direct' && kept?.exit !== 'direct' ? '' : v.exit,
    preshared_key: v.preshared_key,
    keepalive: Number(v.keepalive),
    owner: v.owner,
    note: v.note,
    ...(kept ? { peers: kept.peers ?? [], lan: kept.lan ?? [] } : {}),
  }
}

/** A field that was not touched leaves the moment as it is: the field cuts off seconds. */
function expiry(field: string, kept?: Peer): Pick<PeerInput, 'expires' | 'never_expires'> {
  if (field === toLocalInput(kept?.expires ?? null)) return {}
  return field === '' ? { never_expires: true } : { expires: new Date(field).toISOString() }
}
