import type { FormEvent, ReactNode } from 'react'
import { useTranslation } from '../../i18n'
import { ErrorSummary } from '../../parts/ErrorSummary'
import type { FieldError } from '../../api/problem'
import { usePageTitle } from '../../parts/Page'

export function StepFrame({
  title,
  problem,
  busy,
  back,
  submit,
  onSubmit,
  children,
}: {
  title: string
  problem?: { error: unknown; rest?: FieldError[] } | null
  busy: boolean
  back?: () => void
  submit?: string
  onSubmit: (e: FormEvent) => void
  children: ReactNode
}) {
  const { t } = useTranslation()
  const heading = usePageTitle(title)
  return (
    <form className="flex flex-col gap-5" noValidate onSubmit={onSubmit}>
      <h1 ref={heading} tabIndex={-1}>
        {title}
      </h1>
      {problem?.error ? <ErrorSummary error={problem.error} rest={problem.rest} /> : null}
      <div className="card flex flex-col gap-5 p-6">{children}</div>
      <div className="flex gap-3">
        <button type="submit" className="btn btn-primary" disabled={busy}>
          {submit ?? t('app.continue')}
        </button>
        {back && (
          <button type="button" className="btn" onClick={back} disabled={busy}>
            {t('app.back')}
          </button>
        )}
      </div>
    </form>
  )
}
