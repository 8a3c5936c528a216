import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useId, useState, type ReactNode } from 'react'
import type { CommitOptions, Outcome } from '../api/client'
import type { Preview } from '../api/types'
import { useTranslation } from '../i18n'
import { announce } from './announce'
import { ErrorSummary } from './ErrorSummary'
import { Choices, TextField } from './Field'
import { PlanDiff } from './PlanDiff'

type Mode = 'plain' | 'confirmed'

/**
 * The step between a form and the network: what will change, then a plain commit or one with a countdown. `onError` may
 * take an error back to the form (true: it did).
 */
export function Review<T>({
  preview,
  commit,
  onDone,
  onError,
  onBack,
  submit,
  danger = false,
  children,
}: {
  preview: Preview
  commit: (o: CommitOptions) => Promise<Outcome<T>>
  onDone: (outcome: Outcome<T>) => void
  onError?: (error: Error) => boolean
  onBack?: () => void
  submit?: string
  danger?: boolean
  children?: ReactNode
}) {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [mode, setMode] = useState<Mode>('plain')
  const [seconds, setSeconds] = useState('60')
  const name = useId()
  const within = Number(seconds)
  const bad = mode === 'confirmed' && !(Number.isInteger(within) && within >= 10 && within <= 3600)

  const run = useMutation({
    // Refused when what it changes has changed since the preview: nobody commits what they did not see.
    mutationFn: (o: CommitOptions) => commit({ ifMatch: `"${preview.base}"`, ...o }),
    onSuccess: (outcome) => {
      announce(outcome.confirmBy ? t('peer.committedPending', { n: outcome.revision }) : t('peer.committed', { n: outcome.revision }))
      // What no page shows is dropped, or the next one would start with the state before.
      queries.removeQueries({ type: 'inactive', predicate: ({ queryKey: [key] }) => key !== 'me' })
      void queries.invalidateQueries({ predicate: ({ queryKey: [key] }) => key !== 'me' && key !== 'preview' })
      onDone(outcome)
    },
    onError: (error) => {
      if (onError?.(error)) run.reset()
    },
  })

  return (
    <form
      className="flex flex-col gap-5"
      noValidate
      onSubmit={(e) => {
        e.preventDefault()
        if (!bad && !run.isPending) run.mutate(mode === 'confirmed' ? { confirmWithin: within } : {})
      }}
    >
      {children}
      <p className="text-soft">{t('review.base', { n: preview.base })}</p>
      <PlanDiff preview={preview} />
      <div className="card flex flex-col gap-4 p-5">
        <Choices<Mode>
          label={t('review.mode')}
          name={name}
          columns={2}
          selected={mode}
          onChange={(e) => setMode(e.currentTarget.value as Mode)}
          options={[
            { value: 'plain', label: t('review.plain'), text: t('review.plain.text') },
            { value: 'confirmed', label: t('review.confirmed'), text: t('review.confirmed.text') },
          ]}
        />
        {mode === 'confirmed' && (
          <div className="max-w-48">
            <TextField label={t('review.seconds')} inputMode="numeric" value={seconds} onChange={(e) => setSeconds(e.currentTarget.value)} error={bad ? t('review.seconds.format') : undefined} />
          </div>
        )}
        <ErrorSummary
          error={run.error}
          onConfirmed={() => {
            setMode('confirmed')
            setSeconds('60')
            run.mutate({ confirmWithin: 60 })
          }}
        />
        <div className="flex flex-wrap gap-3">
          <button type="submit" className={`btn ${danger ? 'btn-danger' : 'btn-primary'}`} disabled={run.isPending}>
            {run.isPending ? t('review.submitting') : (submit ?? t('review.submit'))}
          </button>
          {onBack && (
            <button type="button" className="btn" onClick={onBack} disabled={run.isPending}>
              {t('review.back')}
            </button>
          )}
        </div>
      </div>
    </form>
  )
}
