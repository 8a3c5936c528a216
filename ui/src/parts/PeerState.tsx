import type { Peer } from '../api/types'
import { useTranslation, type Key } from '../i18n'
import { serverNow } from '../api/clock'

export type PeerCondition = 'online' | 'offline' | 'disabled' | 'expired'

export function peerCondition(p: Peer, now: number): PeerCondition {
  if (!p.enabled) return 'disabled'
  if (p.expires && Date.parse(p.expires) <= now) return 'expired'
  return p.online ? 'online' : 'offline'
}

const shapes: Record<PeerCondition, string> = {
  online: 'bg-ok',
  offline: 'border-2 border-line-strong',
  disabled: 'bg-line-strong',
  expired: 'bg-warn',
}

/** A dot and the word: the colour is never the only sign. */
export function PeerState({ peer }: { peer: Peer }) {
  const { t } = useTranslation()
  const state = peerCondition(peer, serverNow())
  const words: Record<PeerCondition, Key & `peers.${PeerCondition}`> = { online: 'peers.online', offline: 'peers.offline', disabled: 'peers.disabled', expired: 'peers.expired' }
  return (
    <span className="inline-flex items-center gap-2 whitespace-nowrap">
      <span aria-hidden="true" className={`size-2.5 rounded-full ${shapes[state]}`} />
      <span className={state === 'online' ? 'font-medium text-ok' : 'text-soft'}>{t(words[state])}</span>
    </span>
  )
}
