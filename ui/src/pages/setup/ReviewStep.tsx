import type { ReactNode } from 'react'
import { languages, useTranslation, type Language } from '../../i18n'
import { domainOf, isMode } from './domain'
import type { StepName, StepProps } from './Setup'
import { StepFrame } from './StepFrame'

export function ReviewStep({ at, busy, error, back, complete, go }: StepProps & { complete: () => void; go: (to: StepName) => void }) {
  const { t } = useTranslation()
  const d = at.data
  const mode = isMode(d.domain_mode) ? d.domain_mode : 'lan'
  return (
    <StepFrame
      title={t('setup.review.title')}
      problem={{ error }}
      busy={busy}
      back={back}
      submit={t('setup.review.submit')}
      onSubmit={(e) => {
        e.preventDefault()
        complete()
      }}
    >
      <p className="text-soft">{t('setup.review.text')}</p>
      <div className="flex flex-col divide-y divide-line">
        <Row label={t('setup.identity.name')} onChange={() => go('identity')}>
          {d.cell_name}
        </Row>
        <Row label={t('setup.identity.mode')} onChange={() => go('identity')}>
          {t(`setup.mode.${mode}`)}
          <span className="block text-soft">{domainOf(d.cell_name, mode, d.domain)}</span>
        </Row>
        <Row label={t('setup.identity.timezone')} onChange={() => go('identity')}>
          {d.timezone}
        </Row>
        <Row label={t('setup.code.language')} onChange={() => go('identity')}>
          {languages[d.language as Language] ?? d.language}
        </Row>
        <Row label={t('setup.review.password')} onChange={() => go('admin')}>
          {d.has_password ? t('setup.review.passwordSet', { user: d.user }) : t('setup.review.passwordMissing')}
        </Row>
      </div>
    </StepFrame>
  )
}

function Row({ label, onChange, children }: { label: string; onChange: () => void; children: ReactNode }) {
  const { t } = useTranslation()
  return (
    <div className="flex items-start gap-4 py-3">
      <div className="min-w-0 flex-1">
        <p className="text-[0.93rem] text-soft">{label}</p>
        <div className="font-medium break-words">{children}</div>
      </div>
      <button type="button" className="btn btn-small" aria-label={`${t('setup.review.change')}: ${label}`} onClick={onChange}>
        {t('setup.review.change')}
      </button>
    </div>
  )
}
