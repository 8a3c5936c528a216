import { useQuery } from '@tanstack/react-query'
import { Link } from 'react-router'
import { exits } from '../api/queries'
import type { Exit } from '../api/types'
import { useTranslation } from '../i18n'
import { bytes } from '../i18n/format'
import { ErrorSummary } from '../parts/ErrorSummary'
import { ExitState } from '../parts/ExitState'
import { Icon } from '../parts/Icon'
import { Empty, Loading, Page } from '../parts/Page'

export function Exits() {
  const { t } = useTranslation()
  const list = useQuery(exits)
  const add = (
    <Link to="/exits/new" className="btn btn-primary">
      <Icon name="plus" size={16} />
      {t('exits.add')}
    </Link>
  )
  return (
    <Page title={t('exits.title')} aside={add}>
      <p className="mb-5 text-soft">{t('exits.text')}</p>
      {list.error && !list.data && <ErrorSummary error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending && <Loading />}
      {list.data?.length === 0 && (
        <div className="card">
          <Empty title={t('exits.empty')} text={t('exits.emptyText')} action={add} />
        </div>
      )}
      <ul className="flex flex-col gap-3">
        {list.data?.map((e) => (
          <Row key={e.id} exit={e} />
        ))}
      </ul>
    </Page>
  )
}

function Row({ exit: e }: { exit: Exit }) {
  const { t, locale } = useTranslation()
  return (
    <li className="card flex flex-col gap-1.5 px-5 py-4">
      <div className="flex flex-wrap items-center justify-between gap-x-4 gap-y-1">
        <Link to={`/exits/${encodeURIComponent(e.id)}`} className="text-[1.05rem] font-semibold">
          {e.name || e.id}
        </Link>
        <ExitState exit={e} />
      </div>
      <p className="text-soft">
        {t(`exit.type.${e.type}`)}
        {e.public_address4 && (
          <>
            {' · '}
            <code>{e.public_address4}</code>
          </>
        )}
        {e.latency_ms > 0 && ` · ${Math.round(e.latency_ms)} ms`}
        {e.rx_bytes + e.tx_bytes > 0 && ` · ${t('exit.traffic', { rx: bytes(locale, e.rx_bytes), tx: bytes(locale, e.tx_bytes) })}`}
      </p>
      {e.reason && <p className={e.state === 'blocked' ? 'text-alarm' : 'text-soft'}>{e.reason}</p>}
      <p className="text-soft">{e.used_by.length > 0 ? t('exit.usedBy', { who: e.used_by.join(', ') }) : t('exit.unused')}</p>
    </li>
  )
}
