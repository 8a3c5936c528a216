import { useEffect, useState, type FormEvent } from 'react'
import { client, onReauth, read, setCsrfToken } from '../api/client'
import { ApiError } from '../api/problem'
import { me, queryClient } from '../api/queries'
import { useTranslation } from '../i18n'
import { Dialog } from './Dialog'
import { ErrorSummary } from './ErrorSummary'
import { PasswordField } from './Field'

/** Asks for the password when the cell demands it for an act; the act then goes on by itself. */
export function Reauth() {
  const { t } = useTranslation()
  const [answer, setAnswer] = useState<((ok: boolean) => void) | null>(null)
  const [password, setPassword] = useState('')
  const [error, setError] = useState<unknown>(null)
  const [busy, setBusy] = useState(false)

  useEffect(() => {
    onReauth(
      () =>
        new Promise<boolean>((resolve) => {
          setPassword('')
          setError(null)
          setAnswer(() => resolve)
        }),
    )
    return () => onReauth(null)
  }, [])

  const finish = (ok: boolean) => {
    answer?.(ok)
    setAnswer(null)
    setPassword('')
  }

  const submit = async (e: FormEvent) => {
    e.preventDefault()
    setBusy(true)
    try {
      const who = await read(() => client.POST('/api/auth/reauth', { body: { password } }))
      setCsrfToken(who.csrf_token)
      queryClient.setQueryData(me.queryKey, who)
      finish(true)
    } catch (cause) {
      setError(cause)
    } finally {
      setBusy(false)
    }
  }

  const wrong = error instanceof ApiError && (error.status === 401 || error.status === 403)
  return (
    <Dialog title={t('reauth.title')} open={answer !== null} onClose={() => finish(false)}>
      <form className="flex flex-col gap-4" onSubmit={(e) => void submit(e)}>
        <p className="text-soft">{t('reauth.text')}</p>
        <PasswordField label={t('login.password')} autoComplete="current-password" required value={password} onChange={(e) => setPassword(e.currentTarget.value)} error={wrong ? t('reauth.wrong') : undefined} />
        {!wrong && <ErrorSummary error={error} />}
        <div className="flex justify-end gap-3">
          <button type="button" className="btn" onClick={() => finish(false)}>
            {t('app.cancel')}
          </button>
          <button type="submit" className="btn btn-primary" disabled={busy || password === ''}>
            {t('reauth.submit')}
          </button>
        </div>
      </form>
    </Dialog>
  )
}
