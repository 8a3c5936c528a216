import { useId } from 'react'
import { useFormContext, useWatch } from 'react-hook-form'
import { z } from '../forms'
import { useTranslation } from '../i18n'
import { longestBytes, shortest, strength } from '../password'
import { PasswordField } from './Field'

/** Schema of a new password, typed twice. */
export const passwordPair = {
  password: z.string().check(
    z.minLength(shortest, 'password.tooShort'),
    z.refine((s) => new TextEncoder().encode(s).length <= longestBytes, 'password.tooLong'),
  ),
  repeat: z.string(),
}

export const passwordsMatch = z.refine<{ password: string; repeat: string }>((v) => v.password === v.repeat, { error: 'password.mismatch', path: ['repeat'] })

type Pair = { password: string; repeat: string }

export function PasswordPair({ label, names }: { label: string; names: string[] }) {
  const { t } = useTranslation()
  const form = useFormContext<Pair>()
  const { errors } = form.formState
  const password = useWatch({ control: form.control, name: 'password' })
  const bytes = new TextEncoder().encode(password).length
  const error = errors.password?.message
  return (
    <>
      <PasswordField
        label={label}
        hint={t('setup.admin.hint')}
        autoComplete="new-password"
        required
        error={error === 'password.tooLong' ? t('password.tooLong', { n: bytes }) : error}
        {...form.register('password')}
      />
      <Meter password={password} names={names} />
      <PasswordField label={t('setup.admin.repeat')} autoComplete="new-password" required error={errors.repeat?.message} {...form.register('repeat')} />
    </>
  )
}

function Meter({ password, names }: { password: string; names: string[] }) {
  const { t } = useTranslation()
  const id = useId()
  const s = strength(password, names)
  const left = Math.max(0, shortest - password.length)
  const hint = s.hint === 'short' ? t('password.hint.short', { n: left }) : s.hint ? t(`password.hint.${s.hint}`) : ''
  const level = password === '' ? 0 : s.score + 1
  const fill = ['', 'bg-alarm', 'bg-warn', 'bg-accent', 'bg-ok'][level]
  return (
    <div className="flex flex-col gap-1.5" aria-live="polite">
      <div aria-hidden="true" className="grid grid-cols-4 gap-1">
        {[1, 2, 3, 4].map((n) => (
          <span key={n} className={`h-1.5 rounded-full ${n <= level ? fill : 'bg-line'}`} />
        ))}
      </div>
      <p id={id} className="min-h-[1.5em] text-[0.93rem] text-soft">
        {password !== '' && (
          <>
            {t('password.strength')}: <strong className="font-semibold text-ink">{t(s.label as 'password.weak')}</strong>. {hint}
          </>
        )}
      </p>
    </div>
  )
}
