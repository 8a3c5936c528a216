import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useCallback, useState } from 'react'
import { useForm } from 'react-hook-form'
import { Navigate, useLocation, useSearchParams } from 'react-router'
import { client, read, setCsrfToken } from '../api/client'
import { ApiError, hasCode } from '../api/problem'
import { me } from '../api/queries'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { PasswordField, TextField } from '../parts/Field'
import { Gate } from '../parts/Gate'
import { usePageTitle } from '../parts/Page'
import { RecoveredPage } from '../parts/Recovered'
import { safeNext } from './next'

export function Login() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const who = useQuery(me)
  const [search] = useSearchParams()
  const from = useLocation().state as { ended?: boolean } | null
  const [error, setError] = useState<unknown>(null)
  const heading = usePageTitle(t('login.title'))
  const form = useForm({ defaultValues: { user: '', password: '', totp: '' } })
  const [step, setStep] = useState<'password' | 'code'>('password')
  const refetch = who.refetch
  const retry = useCallback(() => void refetch().then(() => setError(null)), [refetch])

  if (hasCode(who.error, 'recovered') || hasCode(error, 'recovered')) return <RecoveredPage onRetry={retry} />
  if (who.data) return <Navigate to={safeNext(search.get('next'))} replace />
  if (hasCode(who.error, 'setup_required') || hasCode(error, 'setup_required')) return <Navigate to="/setup" replace />

  const submit = form.handleSubmit(async ({ totp, ...rest }) => {
    setError(null)
    const body = step === 'code' ? { ...rest, totp } : rest
    try {
      const data = await read(() => client.POST('/api/auth/login', { body }))
      setCsrfToken(data.csrf_token)
      queries.clear()
      queries.setQueryData(me.queryKey, data)
    } catch (cause) {
      if (hasCode(cause, 'totp_required')) {
        setStep('code') // the password stays in the form: the cell asks for both at once
        return
      }
      form.resetField('totp')
      if (hasCode(cause, 'totp_wrong')) {
        setError(new ApiError(401, { detail: t('login.codeWrong') }))
        return
      }
      form.resetField('password')
      setStep('password')
      setError(cause instanceof ApiError && cause.status === 401 ? new ApiError(401, { detail: t('error.unauthenticated') }) : cause)
    }
  })

  return (
    <Gate>
      <h1 ref={heading} tabIndex={-1} className="mb-4">
        {t('login.title')}
      </h1>
      {!error && from?.ended && <p className="mb-4 text-soft">{t('login.ended')}</p>}
      {!error && search.has('out') && <p className="mb-4 text-soft">{t('login.loggedOut')}</p>}
      <form className="card flex flex-col gap-4 p-6" onSubmit={(e) => void submit(e)} noValidate>
        <ErrorSummary error={error} />
        <TextField label={t('login.user')} autoComplete="username" required {...form.register('user', { required: true })} />
        <PasswordField label={t('login.password')} autoComplete="current-password" required {...form.register('password', { required: true })} />
        {step === 'code' && (
          <TextField label={t('login.code')} hint={t('login.codeHint')} autoComplete="one-time-code" required {...form.register('totp', { required: true })} />
        )}
        <button type="submit" className="btn btn-primary" disabled={form.formState.isSubmitting}>
          {t('login.submit')}
        </button>
      </form>
      <p className="mt-4 text-[0.93rem] text-soft">{t('login.forgot')}</p>
    </Gate>
  )
}
