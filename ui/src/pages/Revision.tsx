import { useQuery } from '@tanstack/react-query'
import { Link, useParams, useSearchParams } from 'react-router'
import { revision, revisionDiff, status } from '../api/queries'
import type { RevisionInfo } from '../api/types'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { SelectField } from '../parts/Field'
import { Icon } from '../parts/Icon'
import { Loading, Page } from '../parts/Page'
import { PlanDiff } from '../parts/PlanDiff'
import { Time } from '../parts/Time'
import { Marks } from './History'
import { NotFound } from './NotFound'

export function Revision() {
  const { t } = useTranslation()
  const params = useParams()
  const n = Number(params.n)
  const valid = Number.isSafeInteger(n) && n > 0
  const info = useQuery({ ...revision(n), enabled: valid })
  if (!valid) return <NotFound />
  return (
    <Page
      title={t('revision.title', { n })}
      back={{ to: '/history', label: t('history.title') }}
      wide
      aside={
        info.data &&
        !info.data.current && (
          <Link to={`/history/${n}/rollback`} className="btn">
            <Icon name="history" size={16} />
            {t('revision.rollback')}
          </Link>
        )
      }
    >
      {info.error && <ErrorSummary error={info.error} onRetry={() => void info.refetch()} />}
      {info.isPending && <Loading />}
      {info.data && <Body info={info.data} />}
    </Page>
  )
}

function Body({ info: r }: { info: RevisionInfo }) {
  const { t } = useTranslation()
  const [search, setSearch] = useSearchParams()
  const now = useQuery(status)
  const against = search.get('against')
  const diff = useQuery(revisionDiff(r.number, against === null ? undefined : Number(against)))
  const running = now.data?.revision
  return (
    <div className="flex flex-col gap-6">
      <section className="card px-5 py-4">
        <p className="mb-3 flex flex-wrap items-center gap-2">
          <span className="font-medium break-words">{r.message || t('history.noMessage')}</span>
          <Marks revision={r} />
        </p>
        <dl className="dl">
          <dt>{t('history.time')}</dt>
          <dd>
            <Time at={r.time} absolute />
          </dd>
          <dt>{t('history.author')}</dt>
          <dd>{t('history.via', { name: r.author.name, via: r.author.via })}</dd>
          {r.author.address && (
            <>
              <dt>{t('revision.address')}</dt>
              <dd>{r.author.address}</dd>
            </>
          )}
        </dl>
      </section>
      <div className="max-w-72">
        <SelectField label={t('revision.against')} value={against ?? ''} onChange={(e) => setSearch(e.currentTarget.value ? { against: e.currentTarget.value } : {}, { replace: true })}>
          <option value="">{t('revision.parent', { n: r.parent })}</option>
          {running !== undefined && running !== r.number && <option value={running}>{t('revision.running', { n: running })}</option>}
          {against !== null && against !== String(running) && <option value={against}>{t('app.revision', { n: against })}</option>}
        </SelectField>
      </div>
      {diff.error && <ErrorSummary error={diff.error} onRetry={() => void diff.refetch()} />}
      {diff.isPending && <Loading />}
      {diff.data && <PlanDiff preview={diff.data} cuts={(diff.data.cuts ?? []).length > 0} />}
    </div>
  )
}
