import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState, type ReactNode } from 'react'
import { Navigate } from 'react-router'
import { change, client, read } from '../../api/client'
import { ApiError, hasCode } from '../../api/problem'
import { me, setupStep } from '../../api/queries'
import type { SetupDone, SetupInput, SetupStep } from '../../api/types'
import { useTranslation } from '../../i18n'
import { ErrorSummary } from '../../parts/ErrorSummary'
import { Gate } from '../../parts/Gate'
import { Loading } from '../../parts/Page'
import { RecoveredPage } from '../../parts/Recovered'
import { AdminStep } from './AdminStep'
import { CodeStep } from './CodeStep'
import { DoneStep } from './DoneStep'
import { IdentityStep } from './IdentityStep'
import { ReviewStep } from './ReviewStep'

const order = ['code', 'identity', 'admin', 'review'] as const
export type StepName = (typeof order)[number]

/** The first step that is not done. */
function reachedStep(at: SetupStep): StepName {
  if (!at.unlocked) return 'code'
  if (at.step === 'code') return 'identity'
  return order.find((s) => s === at.step) ?? 'review'
}

/** What each step gets: what the cell knows so far, and a way to send more. */
export type StepProps = {
  at: SetupStep
  busy: boolean
  error: unknown
  send: (input: SetupInput) => void
  back?: () => void
}

/** The wizard. Its steps live in the cell, so that a reload goes on where it was. */
export function Setup() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const now = useQuery(setupStep)
  const [shown, setShown] = useState<StepName | null>(null)
  const [done, setDone] = useState<SetupDone | null>(null)

  const post = useMutation({
    mutationFn: (input: SetupInput) => read(() => client.POST('/api/setup/step', { body: input })),
    onSuccess: (at) => {
      queries.setQueryData(setupStep.queryKey, { claimed: false as const, at })
      setShown(null)
    },
    onError: (error) => {
      // The code was renewed or the wizard started again elsewhere: look where it stands.
      if (error instanceof ApiError && error.status === 403) void queries.invalidateQueries({ queryKey: setupStep.queryKey })
    },
  })

  const complete = useMutation({
    mutationFn: () => change<SetupDone>(() => client.POST('/api/setup/complete', { body: {} })),
    onSuccess: ({ data }) => {
      setDone(data)
      void queries.resetQueries({ queryKey: me.queryKey })
    },
  })

  if (done) {
    return (
      <Gate wide>
        <DoneStep done={done} />
      </Gate>
    )
  }
  if (hasCode(now.error, 'recovered')) return <RecoveredPage onRetry={now.refetch} />
  if (now.data?.claimed) return <Navigate to="/" replace />
  if (!now.data) return <Gate wide>{now.error ? <ErrorSummary error={now.error} onRetry={() => void now.refetch()} /> : <Loading />}</Gate>

  const at = now.data.at
  const reached = reachedStep(at)
  const step = shown && order.indexOf(shown) < order.indexOf(reached) ? shown : reached
  const index = order.indexOf(step)
  const go = (to: StepName) => {
    post.reset()
    complete.reset()
    setShown(to)
  }
  const previous = index > 1 ? order[index - 1] : undefined
  const props: StepProps = {
    at,
    busy: post.isPending || complete.isPending,
    error: post.error,
    send: (input) => post.mutate(input),
    ...(previous ? { back: () => go(previous) } : {}),
  }

  let body: ReactNode
  switch (step) {
    case 'code':
      body = <CodeStep {...props} />
      break
    case 'identity':
      body = <IdentityStep {...props} />
      break
    case 'admin':
      body = <AdminStep {...props} />
      break
    case 'review':
      body = <ReviewStep {...props} error={complete.error} complete={() => complete.mutate()} go={go} />
      break
  }

  return (
    <Gate wide settings={step !== 'code'}>
      <p className="text-soft">
        {t('setup.title')} · {t('setup.step', { n: index + 1, of: order.length + 1 })}
      </p>
      <div aria-hidden="true" className="mt-2 mb-6 grid grid-cols-5 gap-1.5">
        {[0, 1, 2, 3, 4].map((n) => (
          <span key={n} className={`h-1 rounded-full ${n <= index ? 'bg-accent' : 'bg-line'}`} />
        ))}
      </div>
      {body}
    </Gate>
  )
}
