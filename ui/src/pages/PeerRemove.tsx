import { useQuery } from '@tanstack/react-query'
import { useNavigate, useParams } from 'react-router'
import { previewRemovePeer, removePeer } from '../api/queries'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Loading, Page } from '../parts/Page'
import { Review } from '../parts/Review'

export function PeerRemove() {
  const { t } = useTranslation()
  const { name = '' } = useParams()
  const navigate = useNavigate()
  // A preview is made for this visit: one from before would be of another base.
  const preview = useQuery({ queryKey: ['preview', 'remove', name], queryFn: () => previewRemovePeer(name), staleTime: 0, gcTime: 0 })
  return (
    <Page title={t('peer.remove.title', { name })} back={{ to: `/peers/${encodeURIComponent(name)}`, label: name }}>
      {preview.error && <ErrorSummary error={preview.error} onRetry={() => void preview.refetch()} />}
      {preview.isPending && <Loading />}
      {preview.data && (
        <Review preview={preview.data.data} commit={(o) => removePeer(name, o)} onDone={() => void navigate('/peers', { replace: true })} submit={t('peer.remove.submit', { name })} danger />
      )}
    </Page>
  )
}
