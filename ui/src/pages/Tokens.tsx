import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { client, read } from '../api/client'
import { tokens } from '../api/queries'
import { useTranslation } from '../i18n'
import { announce } from '../parts/announce'
import { CopyButton } from '../parts/CopyButton'
import { ErrorSummary } from '../parts/ErrorSummary'
import { TextArea, TextField } from '../parts/Field'
import { Time } from '../parts/Time'

/** One scope a line, as the command line writes it: GET /api/peers */
export function parseScopes(text: string): { method: string; path: string }[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map((line) => {
      const [method = '', path = ''] = line.split(/\s+/, 2)
      return { method: method.toUpperCase(), path }
    })
}

/** API tokens for programs. A token is shown once, right after it was made. */
export function Tokens() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const list = useQuery(tokens)
  const [name, setName] = useState('')
  const [scopes, setScopes] = useState('GET /api/status')
  const again = () => void queries.invalidateQueries({ queryKey: tokens.queryKey })
  const add = useMutation({
    mutationFn: () => read(() => client.POST('/api/auth/tokens', { body: { name, scopes: parseScopes(scopes) } })),
    onSuccess: () => {
      setName('')
      announce(t('token.made'))
      again()
    },
  })
  const revoke = useMutation({
    mutationFn: (id: string) => read(() => client.DELETE('/api/auth/tokens/{id}', { params: { path: { id } } })),
    onSuccess: () => {
      add.reset()
      announce(t('token.revoked'))
      again()
    },
  })
  const submit = (e: FormEvent) => {
    e.preventDefault()
    add.mutate()
  }
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('token.title')}</h2>
      </div>
      <div className="flex flex-col gap-4 p-5">
        <p className="text-soft">{t('token.text')}</p>
        <ErrorSummary error={list.error ?? add.error ?? revoke.error} />
        {add.data && (
          <div className="flex flex-col gap-2">
            <p className="font-medium">{t('token.once')}</p>
            <code className="break-all">{add.data.token}</code>
            <div>
              <CopyButton text={add.data.token} />
            </div>
          </div>
        )}
        <form className="flex max-w-md flex-col gap-4" onSubmit={submit} noValidate>
          <TextField label={t('token.name')} required maxLength={64} value={name} onChange={(e) => setName(e.currentTarget.value)} />
          <TextArea label={t('token.scopes')} hint={t('token.scopesHint')} rows={3} required value={scopes} onChange={(e) => setScopes(e.currentTarget.value)} />
          <div>
            <button type="submit" className="btn" disabled={add.isPending || name === '' || parseScopes(scopes).length === 0}>
              {t('token.make')}
            </button>
          </div>
        </form>
      </div>
      <ul className="divide-y divide-line">
        {(list.data ?? []).map((x) => (
          <li key={x.id} className="flex flex-wrap items-center gap-x-4 gap-y-2 px-5 py-3">
            <div className="min-w-0 flex-1 basis-48">
              <p className="font-medium">
                {x.name} <span className="font-normal text-soft">{x.user}</span>
              </p>
              <p className="text-[0.93rem] break-words text-soft">{x.scopes.map((s) => `${s.method} ${s.path}`).join(', ')}</p>
              <p className="text-[0.93rem] text-soft">
                {t('token.expires')} <Time at={x.expires} absolute />, {t('token.used')} {x.last_used ? <Time at={x.last_used} /> : t('token.never')}
              </p>
            </div>
            <button type="button" className="btn btn-small" aria-label={t('token.revokeOf', { name: x.name })} disabled={revoke.isPending} onClick={() => revoke.mutate(x.id)}>
              {t('token.revoke')}
            </button>
          </li>
        ))}
      </ul>
    </section>
  )
}
