import { useMutation, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { FormProvider, useForm } from 'react-hook-form'
import { Link, useNavigate, useParams } from 'react-router'
import { peer, previewUpdatePeer, updatePeer } from '../api/queries'
import type { Peer, PeerInput, Preview } from '../api/types'
import { useProblem, zodResolver } from '../forms'
import { useTranslation } from '../i18n'
import { bytes } from '../i18n/format'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Icon } from '../parts/Icon'
import { Loading, Page } from '../parts/Page'
import { PeerFields } from '../parts/PeerFields'
import { PeerState } from '../parts/PeerState'
import { Review } from '../parts/Review'
import { Time } from '../parts/Time'
import { fromPeer, peerFields, peerSchema, toInput, type PeerValues } from './peerForm'

export function PeerEdit() {
  const { t } = useTranslation()
  const { name = '' } = useParams()
  const it = useQuery({ ...peer(name), refetchOnMount: 'always' })
  return (
    <Page
      title={name}
      back={{ to: '/peers', label: t('peers.title') }}
      aside={
        it.data && (
          <Link to={`/peers/${encodeURIComponent(name)}/remove`} className="btn text-alarm">
            <Icon name="trash" size={16} />
            {t('peer.remove')}
          </Link>
        )
      }
    >
      {it.error && !it.data && <ErrorSummary error={it.error} onRetry={() => void it.refetch()} />}
      {/* The form must not start from what a cache remembers of before. */}
      {!it.isFetchedAfterMount && <Loading />}
      {it.data && it.isFetchedAfterMount && <Body key={name} peer={it.data.data} etag={it.data.etag} />}
    </Page>
  )
}

function Body({ peer: p, etag }: { peer: Peer; etag: string }) {
  const { t } = useTranslation()
  const navigate = useNavigate()
  // The form starts from the peer as it was when the page opened; live numbers above it go on.
  const [base] = useState(p)
  const [ifMatch] = useState(etag)
  const form = useForm<PeerValues>({ resolver: zodResolver(peerSchema), defaultValues: fromPeer(base) })
  const { problem, show, clear } = useProblem(form, 'peers', peerFields)
  const [draft, setDraft] = useState<{ body: PeerInput; preview: Preview } | null>(null)

  const review = useMutation({
    mutationFn: async (v: PeerValues) => {
      const body = toInput(v, base.public_key, base)
      return { body, preview: (await previewUpdatePeer(base.name, body)).data }
    },
    onMutate: clear,
    onSuccess: setDraft,
    onError: show,
  })

  if (draft) {
    return (
      <Review
        preview={draft.preview}
        commit={(o) => updatePeer(base.name, draft.body, { ...o, ifMatch })}
        onDone={() => void navigate('/peers')}
        onError={(error) => {
          if (!show(error)) return false
          setDraft(null)
          return true
        }}
        onBack={() => setDraft(null)}
      />
    )
  }

  return (
    <div className="flex flex-col gap-6">
      <Stats peer={p} />
      <FormProvider {...form}>
        <form className="flex flex-col gap-6" noValidate onSubmit={(e) => void form.handleSubmit((v) => review.mutate(v))(e)}>
          {problem && <ErrorSummary error={problem.error} rest={problem.rest} />}
          <PeerFields creating={false} />
          <div>
            <button type="submit" className="btn btn-primary" disabled={review.isPending}>
              {t('peer.review')}
            </button>
          </div>
        </form>
      </FormProvider>
    </div>
  )
}

function Stats({ peer: p }: { peer: Peer }) {
  const { t, locale } = useTranslation()
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('peer.stats')}</h2>
        <PeerState peer={p} />
      </div>
      <dl className="dl px-5 py-4">
        <dt>{t('peers.address')}</dt>
        <dd>
          <code>{p.address4}</code>
          <br />
          <code>{p.address6}</code>
          <br />
          <span className="text-soft">{p.fqdn}</span>
        </dd>
        <dt>{t('peers.endpoint')}</dt>
        <dd>{p.endpoint ? <code>{p.endpoint}</code> : <span className="text-faint">{t('app.none')}</span>}</dd>
        <dt>{t('peers.handshake')}</dt>
        <dd>
          <Time at={p.last_handshake} />
        </dd>
        <dt>{t('overview.traffic')}</dt>
        <dd className="num">
          {bytes(locale, p.rx_bytes)} {t('overview.received')}, {bytes(locale, p.tx_bytes)} {t('overview.sent')}
        </dd>
        <dt>{t('peer.field.publicKey')}</dt>
        <dd>
          <code>{p.public_key}</code>
        </dd>
        <dt>{t('peer.created')}</dt>
        <dd>
          <Time at={p.created} absolute />
        </dd>
      </dl>
      <div className="border-t border-line px-5 py-3">
        <a href={`/api/peers/${encodeURIComponent(p.name)}/config`} download className="inline-flex items-center gap-2">
          <Icon name="download" size={16} />
          {t('peer.download')}
        </a>
      </div>
    </section>
  )
}
