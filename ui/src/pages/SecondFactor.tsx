import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useMemo, useState, type FormEvent } from 'react'
import { client, read } from '../api/client'
import { hasCode } from '../api/problem'
import { secondFactor } from '../api/queries'
import { useTranslation } from '../i18n'
import { announce } from '../parts/announce'
import { CopyButton } from '../parts/CopyButton'
import { ErrorSummary } from '../parts/ErrorSummary'
import { TextField } from '../parts/Field'
import { QrCode } from '../parts/QrCode'
import { Time } from '../parts/Time'
import { chooseQr } from '../wireguard/qr'

/** Turns the code at login on and off. The secret and the recovery codes are shown once and kept nowhere. */
export function SecondFactor() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const state = useQuery(secondFactor)
  const [code, setCode] = useState('')
  const enrol = useMutation({ mutationFn: () => read(() => client.POST('/api/auth/second-factor', { body: {} })) })
  const confirm = useMutation({
    mutationFn: () => read(() => client.POST('/api/auth/second-factor/confirm', { body: { code } })),
    onSuccess: () => {
      enrol.reset()
      setCode('')
      announce(t('factor.on'))
      void queries.invalidateQueries({ queryKey: secondFactor.queryKey })
    },
  })
  const remove = useMutation({
    mutationFn: () => read(() => client.DELETE('/api/auth/second-factor')),
    onSuccess: () => {
      confirm.reset()
      announce(t('factor.off'))
      void queries.invalidateQueries({ queryKey: secondFactor.queryKey })
    },
  })
  const made = enrol.data
  const qr = useMemo(() => (made ? chooseQr(made.uri) : null), [made])
  const codes = confirm.data?.recovery_codes
  const wrong = hasCode(confirm.error, 'invalid')
  const submit = (e: FormEvent) => {
    e.preventDefault()
    confirm.mutate()
  }
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('factor.title')}</h2>
      </div>
      <div className="flex flex-col gap-4 p-5">
        <ErrorSummary error={state.error ?? enrol.error ?? remove.error ?? (wrong ? null : confirm.error)} />
        {codes && (
          <div className="flex flex-col gap-3">
            <p className="font-medium">{t('factor.codes')}</p>
            <ul className="grid max-w-md grid-cols-1 gap-1 sm:grid-cols-2">
              {codes.map((c) => (
                <li key={c}>
                  <code>{c}</code>
                </li>
              ))}
            </ul>
            <div>
              <CopyButton text={codes.join('\n')} />
            </div>
          </div>
        )}
        {state.data?.enabled && (
          <>
            <p>
              {t('factor.on')} <Time at={state.data.since ?? ''} absolute />
            </p>
            <p className="text-soft">{t('factor.left', { count: state.data.recovery_left })}</p>
            <div>
              <button type="button" className="btn" disabled={remove.isPending} onClick={() => remove.mutate()}>
                {t('factor.remove')}
              </button>
            </div>
          </>
        )}
        {state.data && !state.data.enabled && !made && (
          <>
            <p className="text-soft">{t('factor.text')}</p>
            <div>
              <button type="button" className="btn btn-primary" disabled={enrol.isPending} onClick={() => enrol.mutate()}>
                {t('factor.begin')}
              </button>
            </div>
          </>
        )}
        {made && (
          <form className="flex max-w-md flex-col gap-4" onSubmit={submit} noValidate>
            <p className="text-soft">{t('factor.scan')}</p>
            {qr && <QrCode qr={qr} label={t('factor.qr')} className="max-w-60" />}
            <p>
              <code className="break-all">{made.secret}</code>
            </p>
            <TextField label={t('factor.code')} inputMode="numeric" autoComplete="one-time-code" required value={code} onChange={(e) => setCode(e.currentTarget.value)} error={wrong ? t('factor.wrong') : undefined} />
            <div>
              <button type="submit" className="btn btn-primary" disabled={confirm.isPending || code === ''}>
                {t('factor.confirm')}
              </button>
            </div>
          </form>
        )}
      </div>
    </section>
  )
}
