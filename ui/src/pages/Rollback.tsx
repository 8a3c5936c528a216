import { useQuery } from '@tanstack/react-query'
import { useNavigate, useParams } from 'react-router'
import { previewRollback, rollback } from '../api/queries'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Loading, Page } from '../parts/Page'
import { Review } from '../parts/Review'
import { NotFound } from './NotFound'

export function Rollback() {
  const { t } = useTranslation()
  const navigate = useNavigate()
  const n = Number(useParams().n)
  const valid = Number.isSafeInteger(n) && n > 0
  const preview = useQuery({ queryKey: ['preview', 'rollback', n], queryFn: () => previewRollback(n), enabled: valid, staleTime: 0, gcTime: 0 })
  if (!valid) return <NotFound />
  return (
    <Page title={t('rollback.title', { n })} back={{ to: `/history/${n}`, label: t('revision.title', { n }) }} wide>
      {preview.error && <ErrorSummary error={preview.error} onRetry={() => void preview.refetch()} />}
      {preview.isPending && <Loading />}
      {preview.data && (
        <Review preview={preview.data.data} commit={(o) => rollback(n, o)} onDone={() => void navigate('/history')} submit={t('revision.rollback')}>
          <p>{t('rollback.text')}</p>
        </Review>
      )}
    </Page>
  )
}
