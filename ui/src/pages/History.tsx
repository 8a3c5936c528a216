import { useInfiniteQuery } from '@tanstack/react-query'
import { Link } from 'react-router'
import { revisions } from '../api/queries'
import type { RevisionInfo } from '../api/types'
import { useTranslation } from '../i18n'
import { RevisionBadge } from '../parts/ConditionBadge'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Icon } from '../parts/Icon'
import { Empty, Loading, Page } from '../parts/Page'
import { Time } from '../parts/Time'

export function History() {
  const { t } = useTranslation()
  const list = useInfiniteQuery(revisions)
  const rows = list.data?.pages.flat() ?? []
  return (
    <Page title={t('history.title')} wide>
      {list.error && !list.data && <ErrorSummary error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending && <Loading />}
      {list.data && (
        <div className="card overflow-hidden">
          {rows.length === 0 ? <Empty title={t('history.empty')} text={t('history.emptyText')} /> : <Table rows={rows} />}
        </div>
      )}
      {list.hasNextPage && (
        <div className="mt-4 text-center">
          <button type="button" className="btn" disabled={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
            {t('history.older')}
          </button>
        </div>
      )}
    </Page>
  )
}

function Table({ rows }: { rows: RevisionInfo[] }) {
  const { t } = useTranslation()
  return (
    <table className="table">
      <thead>
        <tr>
          <th scope="col">{t('history.number')}</th>
          <th scope="col">{t('history.message')}</th>
          <th scope="col" className="hidden sm:table-cell">
            {t('history.author')}
          </th>
          <th scope="col" className="hidden sm:table-cell">
            {t('history.time')}
          </th>
          <th scope="col" className="hidden sm:table-cell">
            {t('history.status')}
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map((r) => (
          <tr key={r.number} className="go">
            <th scope="row" className="num !py-2.5 !text-[1rem]">
              <Link to={`/history/${r.number}`} className="font-semibold">
                {r.number}
              </Link>
            </th>
            <td className="w-full">
              <span className="break-words">{r.message || <span className="text-faint">{t('history.noMessage')}</span>}</span>
              <span className="mt-1 flex flex-wrap items-center gap-x-2 gap-y-1 text-[0.93rem] text-soft sm:hidden">
                <Time at={r.time} /> · {r.author.name}
                <Marks revision={r} />
              </span>
            </td>
            <td className="hidden whitespace-nowrap sm:table-cell">{t('history.via', { name: r.author.name, via: r.author.via })}</td>
            <td className="hidden whitespace-nowrap sm:table-cell">
              <Time at={r.time} />
            </td>
            <td className="hidden sm:table-cell">
              <span className="flex gap-1.5">
                <Marks revision={r} />
              </span>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

export function Marks({ revision: r }: { revision: RevisionInfo }) {
  const { t } = useTranslation()
  return (
    <>
      {r.current && (
        <span className="badge badge-accent">
          <Icon name="check" size={13} />
          {t('history.current')}
        </span>
      )}
      {(!r.current || r.status !== 'committed') && <RevisionBadge revision={r} />}
    </>
  )
}
