import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { FormProvider, useForm } from 'react-hook-form'
import { Link } from 'react-router'
import { change, client } from '../api/client'
import { hasCode } from '../api/problem'
import { me, sessions } from '../api/queries'
import type { Session } from '../api/types'
import { useProblem, z, zodResolver } from '../forms'
import { useTranslation } from '../i18n'
import { announce } from '../parts/announce'
import { ErrorSummary } from '../parts/ErrorSummary'
import { PasswordField } from '../parts/Field'
import { Icon } from '../parts/Icon'
import { Page } from '../parts/Page'
import { PasswordPair, passwordPair, passwordsMatch } from '../parts/PasswordPair'
import { Time } from '../parts/Time'
import { SecondFactor } from './SecondFactor'
import { Tokens } from './Tokens'
import { LanguageSelect, ThemeSelect } from '../theme'

export function Account() {
  const { t } = useTranslation()
  const who = useQuery(me)
  return (
    <Page title={t('account.title')}>
      <div className="flex flex-col gap-5">
        <section className="card">
          <div className="card-head">
            <h2>{t('account.appearance')}</h2>
          </div>
          <div className="grid gap-4 p-5 sm:grid-cols-2">
            <ThemeSelect />
            <LanguageSelect />
          </div>
        </section>
        <Link to="/account/trust" className="card flex items-center gap-4 p-5 text-ink no-underline hover:bg-hover">
          <Icon name="shield" size={22} className="text-accent" />
          <span className="min-w-0">
            <span className="block font-semibold">{t('account.trust')}</span>
            <span className="text-soft">{t('account.trustText')}</span>
          </span>
        </Link>
        {who.data && <Password user={who.data.user} />}
        {who.data && <SecondFactor />}
        {who.data && <Tokens />}
        {who.data?.role === 'admin' && <Sessions />}
      </div>
    </Page>
  )
}

const schema = z.object({ ...passwordPair, current: z.string().check(z.minLength(1)) }).check(passwordsMatch)
type Values = z.infer<typeof schema>
const fields = ['current', 'password'] as const

function Password({ user }: { user: string }) {
  const { t } = useTranslation()
  const form = useForm<Values>({ resolver: zodResolver(schema), defaultValues: { current: '', password: '', repeat: '' } })
  const { problem, show, clear } = useProblem(form, '', fields)
  const save = useMutation({
    mutationFn: (v: Values) => change(() => client.POST('/api/auth/change-password', { body: { current: v.current, new: v.password } })),
    onMutate: clear,
    onSuccess: () => {
      form.reset()
      announce(t('account.changed'))
    },
    onError: (error) => {
      if (hasCode(error, 'unauthenticated')) form.setError('current', { message: 'reauth.wrong' }, { shouldFocus: true })
      else show(error)
    },
  })
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('account.password')}</h2>
      </div>
      <FormProvider {...form}>
        <form className="flex max-w-md flex-col gap-4 p-5" noValidate onSubmit={(e) => void form.handleSubmit((v) => save.mutate(v))(e)}>
          {problem && <ErrorSummary error={problem.error} rest={problem.rest} />}
          {save.isSuccess && (
            <p className="flex items-center gap-2 font-medium text-ok">
              <Icon name="check" />
              {t('account.changed')}
            </p>
          )}
          <input type="text" autoComplete="username" value={user} readOnly hidden />
          <PasswordField label={t('account.current')} autoComplete="current-password" required error={form.formState.errors.current?.message} {...form.register('current')} />
          <PasswordPair label={t('account.new')} names={[user]} />
          <div>
            <button type="submit" className="btn btn-primary" disabled={save.isPending}>
              {t('account.change')}
            </button>
          </div>
        </form>
      </FormProvider>
    </section>
  )
}

function Sessions() {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const list = useQuery(sessions)
  const end = useMutation({
    mutationFn: (s: Session) => change(() => client.DELETE('/api/auth/sessions/{id}', { params: { path: { id: s.id } } })),
    onSuccess: () => {
      announce(t('account.session.ended'))
      void queries.invalidateQueries({ queryKey: sessions.queryKey })
    },
  })
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('account.sessions')}</h2>
      </div>
      {(list.error ?? end.error) && (
        <div className="p-4">
          <ErrorSummary error={list.error ?? end.error} />
        </div>
      )}
      <ul className="divide-y divide-line">
        {(list.data ?? []).map((s) => (
          <li key={s.id} className="flex flex-wrap items-center gap-x-4 gap-y-2 px-5 py-3">
            <div className="min-w-0 flex-1 basis-48">
              <p className="flex flex-wrap items-center gap-2 font-medium">
                {s.user}
                <code className="font-normal break-all text-soft">{s.address}</code>
                {s.current && <span className="badge badge-accent pl-[0.55rem]">{t('account.session.this')}</span>}
              </p>
              <p className="text-[0.93rem] text-soft">
                {t('account.session.created')} <Time at={s.created} absolute />, {t('account.session.seen')} <Time at={s.last_seen} />
              </p>
            </div>
            {!s.current && (
              <button type="button" className="btn btn-small" aria-label={t('account.session.endOf', { user: s.user, address: s.address })} disabled={end.isPending} onClick={() => end.mutate(s)}>
                {t('account.session.end')}
              </button>
            )}
          </li>
        ))}
      </ul>
    </section>
  )
}
