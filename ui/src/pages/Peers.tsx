import { useQuery } from '@tanstack/react-query'
import { Link, useSearchParams } from 'react-router'
import { peers } from '../api/queries'
import type { Peer } from '../api/types'
import { useTranslation } from '../i18n'
import { bytes } from '../i18n/format'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Icon } from '../parts/Icon'
import { Empty, Loading, Page } from '../parts/Page'
import { PeerState } from '../parts/PeerState'
import { Time } from '../parts/Time'

function matches(p: Peer, query: string): boolean {
  const q = query.trim().toLowerCase()
  return q === '' || [p.name, p.fqdn, p.address4, p.address6, p.owner, p.note, p.endpoint, p.public_key].some((s) => s?.toLowerCase().includes(q))
}

export function Peers() {
  const { t, plural } = useTranslation()
  const list = useQuery(peers)
  const [search, setSearch] = useSearchParams()
  const query = search.get('q') ?? ''
  const shown = list.data?.filter((p) => matches(p, query)) ?? []

  return (
    <Page
      title={t('peers.title')}
      wide
      aside={
        <Link to="/peers/new" className="btn btn-primary">
          <Icon name="plus" size={16} />
          {t('peers.add')}
        </Link>
      }
    >
      {list.error && !list.data && <ErrorSummary error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending && <Loading />}
      {list.data?.length === 0 && (
        <div className="card">
          <Empty
            title={t('peers.empty')}
            text={t('peers.emptyText')}
            action={
              <Link to="/peers/new" className="btn btn-primary">
                {t('peers.add')}
              </Link>
            }
          />
        </div>
      )}
      {list.data && list.data.length > 0 && (
        <div className="card overflow-hidden">
          <div className="flex flex-wrap items-center gap-3 border-b border-line px-4 py-3">
            <div className="relative max-w-72 flex-1">
              <Icon name="search" size={16} className="pointer-events-none absolute top-1/2 left-2.5 -translate-y-1/2 text-faint" />
              <input
                type="search"
                className="input pl-8"
                aria-label={t('peers.search')}
                placeholder={t('peers.search')}
                value={query}
                onChange={(e) => setSearch(e.currentTarget.value ? { q: e.currentTarget.value } : {}, { replace: true })}
              />
            </div>
            <span role="status" className="num text-soft">
              {plural('peers.count', shown.length)}
            </span>
          </div>
          {shown.length === 0 ? <p className="px-5 py-8 text-center text-soft">{t('peers.noMatch', { query })}</p> : <PeerTable list={shown} />}
        </div>
      )}
    </Page>
  )
}

function PeerTable({ list }: { list: Peer[] }) {
  const { t, locale } = useTranslation()
  return (
    <table className="table">
      <thead>
        <tr>
          <th scope="col">{t('peers.name')}</th>
          <th scope="col">{t('peers.state')}</th>
          <th scope="col" className="hidden md:table-cell">
            {t('peers.address')}
          </th>
          <th scope="col" className="hidden lg:table-cell">
            {t('peers.trust')}
          </th>
          <th scope="col">{t('peers.handshake')}</th>
          <th scope="col" className="hidden text-right sm:table-cell">
            {t('peers.rx')}
          </th>
          <th scope="col" className="hidden text-right sm:table-cell">
            {t('peers.tx')}
          </th>
        </tr>
      </thead>
      <tbody>
        {list.map((p) => (
          <tr key={p.name} className="go">
            <th scope="row" className="max-w-40 truncate !py-2.5 !text-[1rem] !text-ink">
              <Link to={`/peers/${encodeURIComponent(p.name)}`} className="font-semibold no-underline hover:underline" title={p.fqdn}>
                {p.name}
              </Link>
            </th>
            <td>
              <PeerState peer={p} />
            </td>
            <td className="num hidden md:table-cell">
              <code>{p.address4}</code>
            </td>
            <td className="hidden lg:table-cell">{t(`peer.trust.${p.trust}`)}</td>
            <td>
              <Time at={p.last_handshake} />
            </td>
            <td className="num hidden text-right sm:table-cell">{bytes(locale, p.rx_bytes)}</td>
            <td className="num hidden text-right sm:table-cell">{bytes(locale, p.tx_bytes)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}
