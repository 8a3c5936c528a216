import { useId, useState, type ComponentProps, type ReactNode } from 'react'
import type { Key } from '../i18n'
import { useTranslation } from '../i18n'
import { en } from '../i18n/en'
import { Icon } from './Icon'

/** An error is a key of the dictionary (from a schema of ours) or the cell's own words. */
export function useErrorText() {
  const { t } = useTranslation()
  return (message: string | undefined) => (message && message in en ? t(message as Exclude<Key, WithValues>) : message)
}
type WithValues = { [K in Key]: (typeof en)[K] extends `${string}{${string}}${string}` ? K : never }[Key]

type FieldProps = {
  label: string
  hint?: ReactNode
  error?: string | undefined
  optional?: boolean
}

function Frame({ id, label, hint, error, optional, children }: FieldProps & { id: string; children: ReactNode }) {
  const { t } = useTranslation()
  const text = useErrorText()
  return (
    <div className="flex flex-col gap-1.5">
      <label htmlFor={id} className="font-medium">
        {label}
        {optional && <span className="ml-2 font-normal text-faint">{t('app.optional')}</span>}
      </label>
      {children}
      {hint && (
        <p id={`${id}-hint`} className="text-[0.93rem] text-soft">
          {hint}
        </p>
      )}
      {error && (
        <p id={`${id}-error`} className="text-[0.93rem] font-medium text-alarm">
          {text(error)}
        </p>
      )}
    </div>
  )
}

function described(id: string, hint: unknown, error: unknown) {
  return [error ? `${id}-error` : '', hint ? `${id}-hint` : ''].filter(Boolean).join(' ') || undefined
}

export function TextField({ label, hint, error, optional, className = '', ...input }: FieldProps & ComponentProps<'input'>) {
  const id = useId()
  return (
    <Frame id={id} label={label} hint={hint} error={error} optional={optional}>
      <input id={id} className={`input ${className}`} aria-invalid={error ? true : undefined} aria-describedby={described(id, hint, error)} autoCapitalize="none" spellCheck={false} {...input} />
    </Frame>
  )
}

export function TextArea({ label, hint, error, optional, ...input }: FieldProps & ComponentProps<'textarea'>) {
  const id = useId()
  return (
    <Frame id={id} label={label} hint={hint} error={error} optional={optional}>
      <textarea id={id} className="input" aria-invalid={error ? true : undefined} aria-describedby={described(id, hint, error)} {...input} />
    </Frame>
  )
}

export function SelectField({ label, hint, error, optional, className = '', children, ...select }: FieldProps & ComponentProps<'select'>) {
  const id = useId()
  return (
    <Frame id={id} label={label} hint={hint} error={error} optional={optional}>
      <div className={`relative ${className}`}>
        <select id={id} className="input" aria-invalid={error ? true : undefined} aria-describedby={described(id, hint, error)} {...select}>
          {children}
        </select>
        <Icon name="chevron" size={15} className="pointer-events-none absolute top-1/2 right-2.5 -translate-y-1/2 text-soft" />
      </div>
    </Frame>
  )
}

export function PasswordField(props: FieldProps & ComponentProps<'input'>) {
  const { t } = useTranslation()
  const [shown, setShown] = useState(false)
  return (
    <div className="flex flex-col gap-2">
      <TextField {...props} type={shown ? 'text' : 'password'} />
      <Check label={t('password.show')} checked={shown} onChange={(e) => setShown(e.currentTarget.checked)} />
    </div>
  )
}

export function Check({ label, hint, ...input }: { label: string; hint?: string } & ComponentProps<'input'>) {
  const id = useId()
  return (
    <div className="flex gap-2.5">
      <input id={id} type="checkbox" className="mt-[0.2rem]" aria-describedby={hint ? `${id}-hint` : undefined} {...input} />
      <div>
        <label htmlFor={id}>{label}</label>
        {hint && (
          <p id={`${id}-hint`} className="text-[0.93rem] text-soft">
            {hint}
          </p>
        )}
      </div>
    </div>
  )
}

export type Choice<V extends string> = { value: V; label: string; text?: string }

/** Radio buttons with a sentence each: by `selected` and onChange, or by what react-hook-form's register gives. */
export function Choices<V extends string>({ label, hint, error, options, selected, columns = 1, ...input }: Omit<FieldProps, 'optional'> & { options: Choice<V>[]; selected?: V; columns?: 1 | 2 | 3 } & ComponentProps<'input'>) {
  const id = useId()
  const text = useErrorText()
  const grid = { 1: '', 2: 'sm:grid-cols-2', 3: 'sm:grid-cols-3' }[columns]
  return (
    <fieldset aria-describedby={described(id, hint, error)}>
      <legend className="mb-1.5 font-medium">{label}</legend>
      <div className={`grid gap-2 ${grid}`}>
        {options.map((o) => (
          <label key={o.value} className="choice">
            <input type="radio" value={o.value} aria-labelledby={`${id}-${o.value}-name`} aria-describedby={o.text ? `${id}-${o.value}` : undefined} {...(selected === undefined ? {} : { checked: selected === o.value })} {...input} />
            <span className="min-w-0">
              <span id={`${id}-${o.value}-name`} className="block font-medium">
                {o.label}
              </span>
              {o.text && (
                <span id={`${id}-${o.value}`} className="block text-[0.93rem] text-soft">
                  {o.text}
                </span>
              )}
            </span>
          </label>
        ))}
      </div>
      {hint && (
        <p id={`${id}-hint`} className="mt-1.5 text-[0.93rem] text-soft">
          {hint}
        </p>
      )}
      {error && (
        <p id={`${id}-error`} className="mt-1.5 text-[0.93rem] font-medium text-alarm">
          {text(error)}
        </p>
      )}
    </fieldset>
  )
}
