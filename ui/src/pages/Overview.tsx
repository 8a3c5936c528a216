import { useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { Link } from 'react-router'
import { status } from '../api/queries'
import type { Condition, Notice, Status } from '../api/types'
import { useTranslation } from '../i18n'
import { bytes, clockOffset, duration } from '../i18n/format'
import { ConditionBadge, SeverityMark } from '../parts/ConditionBadge'
import { CopyButton } from '../parts/CopyButton'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Icon } from '../parts/Icon'
import { Loading, Page } from '../parts/Page'
import { Time } from '../parts/Time'

export function Overview() {
  const { t } = useTranslation()
  const now = useQuery(status)
  return (
    <Page title={t('overview.title')} wide>
      {now.error && !now.data && <ErrorSummary error={now.error} onRetry={() => void now.refetch()} />}
      {now.isPending && <Loading />}
      {now.data && <Body status={now.data} />}
    </Page>
  )
}

function worst(conditions: Condition[], notices: Notice[], recovered: boolean): 'ok' | 'warn' | 'alarm' {
  if (recovered || conditions.some((c) => c.state === 'failed') || notices.some((n) => n.severity === 'alarm')) return 'alarm'
  if (conditions.some((c) => c.state === 'pending') || notices.some((n) => n.severity === 'warning')) return 'warn'
  return 'ok'
}

function Body({ status: s }: { status: Status }) {
  const { t, locale } = useTranslation()
  const conditions = s.conditions ?? []
  const notices = s.notices ?? []
  const recovered = s.source === 'recovered'
  const health = worst(conditions, notices, recovered)
  const look = {
    ok: ['check', 'text-ok bg-ok-wash', t('overview.healthy')],
    warn: ['warning', 'text-warn bg-warn-wash', t('overview.attention')],
    alarm: ['alarm', 'text-alarm bg-alarm-wash', t('overview.broken')],
  } as const
  const [icon, style, title] = look[health]
  const backend =
    s.wireguard.backend === 'kernel' ? t('overview.wireguard.kernel') : s.wireguard.backend === 'userspace' ? t('overview.wireguard.userspace') : <span className="text-warn">{t('app.none')}</span>

  return (
    <div className="flex flex-col gap-5">
      <section className="card flex flex-wrap items-center gap-x-4 gap-y-3 p-5">
        <span className={`inline-flex size-11 items-center justify-center rounded-full ${style}`}>
          <Icon name={icon} size={22} />
        </span>
        <div className="min-w-0 flex-1">
          <h2 className="text-[1.15rem]">{title}</h2>
          <p className="text-soft">
            <Link to={`/history/${s.revision}`}>{t('app.revision', { n: s.revision })}</Link>
            {' · '}
            {t('overview.since')} <Time at={s.cell.started} />
          </p>
          {recovered && <p className="mt-1 font-medium text-alarm">{t('overview.recovered')}</p>}
        </div>
      </section>

      <div className="grid grid-cols-2 gap-3 xl:grid-cols-4">
        <Figure label={t('overview.peers')} value={t('overview.peersOf', { online: s.peers.online, total: s.peers.total })} note={<Link to="/peers">{t('nav.peers')}</Link>} />
        <Figure
          label={t('overview.traffic')}
          value={bytes(locale, s.peers.rx_bytes + s.peers.tx_bytes)}
          note={`${bytes(locale, s.peers.rx_bytes)} ${t('overview.received')}, ${bytes(locale, s.peers.tx_bytes)} ${t('overview.sent')}`}
        />
        <Figure
          label={t('overview.clock')}
          value={
            <span className={s.clock.synchronised ? '' : 'text-warn'}>
              {t(s.clock.synchronised ? 'overview.clock.ok' : 'overview.clock.bad')}
            </span>
          }
          note={t('overview.clock.stratum', { n: s.clock.stratum, offset: clockOffset(locale, s.clock.offset_seconds) })}
        />
        <Figure
          label={t('overview.wireguard')}
          value={backend}
          note={`${t('overview.wireguard.port', { port: s.wireguard.listen_port })}${s.wireguard.backend === 'userspace' ? `. ${t('overview.wireguard.userspaceNote')}` : ''}`}
        />
      </div>

      <div className="grid items-start gap-5 lg:grid-cols-2">
        <section className="card">
          <div className="card-head">
            <h2>{t('overview.notices')}</h2>
          </div>
          {notices.length === 0 ? (
            <p className="px-5 py-4 text-soft">{t('overview.noNotices')}</p>
          ) : (
            <ul className="divide-y divide-line">
              {notices.map((n) => (
                <li key={n.code + n.subject} className="flex gap-3 px-5 py-3">
                  <SeverityMark notice={n} />
                  <div className="min-w-0">
                    {n.subject && <span className="block font-medium break-words">{n.subject}</span>}
                    <span className="break-words">{n.text}</span>
                  </div>
                </li>
              ))}
            </ul>
          )}
        </section>

        <section className="card">
          <div className="card-head">
            <h2>{t('overview.conditions')}</h2>
          </div>
          <ul className="divide-y divide-line">
            {conditions.map((c) => (
              <li key={c.stage} className="grid grid-cols-[minmax(5rem,8rem)_minmax(0,1fr)] gap-3 px-5 py-2.5">
                <span className="font-medium">{c.stage}</span>
                <ConditionBadge condition={c} />
              </li>
            ))}
          </ul>
        </section>

        <section className="card">
          <div className="card-head">
            <h2>{t('overview.cell')}</h2>
          </div>
          <dl className="dl px-5 py-4">
            <dt>{t('overview.domain')}</dt>
            <dd>{s.cell.domain}</dd>
            <dt>{t('overview.version')}</dt>
            <dd>{s.cell.version}</dd>
            <dt>{t('overview.publicKey')}</dt>
            <dd>
              <code className="mr-2 text-[0.86rem]">{s.wireguard.public_key}</code>
              <CopyButton text={s.wireguard.public_key} small />
            </dd>
          </dl>
        </section>

        <section className="card">
          <div className="card-head">
            <h2>{t('overview.resources')}</h2>
          </div>
          <dl className="dl px-5 py-4">
            <dt>{t('overview.memory')}</dt>
            <dd className="num">{bytes(locale, s.resources.memory_bytes)}</dd>
            <dt>{t('overview.goroutines')}</dt>
            <dd className="num">{s.resources.goroutines}</dd>
            <dt>{t('overview.uptime')}</dt>
            <dd className="num">{duration(locale, s.resources.uptime_seconds)}</dd>
          </dl>
        </section>
      </div>
    </div>
  )
}

function Figure({ label, value, note }: { label: string; value: ReactNode; note: ReactNode }) {
  return (
    <section className="card px-4 py-3.5 sm:px-5 sm:py-4">
      <h2 className="text-[0.93rem] font-medium text-soft">{label}</h2>
      <p className="num mt-1 text-[1.2rem] leading-tight break-words sm:text-[1.43rem] font-semibold tracking-tight">{value}</p>
      <p className="num mt-1.5 text-[0.93rem] text-soft">{note}</p>
    </section>
  )
}
