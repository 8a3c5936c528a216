import { useMutation } from '@tanstack/react-query'
import { useState } from 'react'
import { FormProvider, useForm } from 'react-hook-form'
import { useNavigate } from 'react-router'
import { hasCode } from '../api/problem'
import { createPeer, previewCreatePeer } from '../api/queries'
import type { PeerCreated, PeerInput, Preview } from '../api/types'
import { useProblem, zodResolver } from '../forms'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Page } from '../parts/Page'
import { PeerFields } from '../parts/PeerFields'
import { PeerReady } from '../parts/PeerReady'
import { Review } from '../parts/Review'
import { generateKeys } from '../wireguard/keys'
import { newPeer, peerFields, peerSchema, toInput, type PeerValues } from './peerForm'

/** The private key is held here and nowhere else: not in a query, the history, the storage or a request. */
type Draft = { body: PeerInput; privateKey: string; preview: Preview }

export function PeerNew() {
  const { t } = useTranslation()
  const navigate = useNavigate()
  const form = useForm<PeerValues>({ resolver: zodResolver(peerSchema), defaultValues: newPeer })
  const { problem, show, clear } = useProblem(form, 'peers', peerFields)
  const [draft, setDraft] = useState<Draft | null>(null)
  const [ready, setReady] = useState<{ created: PeerCreated; confirmBy: string } | null>(null)

  const refuse = (error: Error) => {
    if (!hasCode(error, 'conflict')) return show(error)
    form.setError('name', { message: error.detail }, { shouldFocus: true }) // the only thing a new peer can collide with
    return true
  }

  const review = useMutation({
    mutationFn: async (v: PeerValues): Promise<Draft> => {
      const keys = v.keys === 'browser' ? await generateKeys() : { publicKey: v.public_key, privateKey: '' }
      const body = toInput(v, keys.publicKey)
      return { body, privateKey: keys.privateKey, preview: (await previewCreatePeer(body)).data }
    },
    onMutate: clear,
    onSuccess: setDraft,
    onError: refuse,
  })

  if (ready && draft) {
    return (
      <Page key="ready" title={t('peer.ready.title', { name: ready.created.peer.name })} wide back={{ to: '/peers', label: t('peers.title') }}>
        <PeerReady created={ready.created} privateKey={draft.privateKey} pending={ready.confirmBy !== ''} onDone={() => void navigate('/peers')} />
      </Page>
    )
  }

  if (draft) {
    return (
      <Page key="review" title={`${t('peer.new')}: ${draft.body.name}`} back={{ to: '/peers', label: t('peers.title') }}>
        <Review
          preview={draft.preview}
          commit={(o) => createPeer(draft.body, o)}
          onDone={({ data, confirmBy }) => setReady({ created: data, confirmBy })}
          onError={(error) => {
            if (!refuse(error)) return false
            setDraft(null)
            return true
          }}
          onBack={() => setDraft(null)}
        />
      </Page>
    )
  }

  return (
    <Page key="form" title={t('peer.new')} back={{ to: '/peers', label: t('peers.title') }}>
      <FormProvider {...form}>
        <form className="flex flex-col gap-6" noValidate onSubmit={(e) => void form.handleSubmit((v) => review.mutate(v))(e)}>
          {problem && <ErrorSummary error={problem.error} rest={problem.rest} />}
          <PeerFields creating />
          <div>
            <button type="submit" className="btn btn-primary" disabled={review.isPending}>
              {t('peer.review')}
            </button>
          </div>
        </form>
      </FormProvider>
    </Page>
  )
}
