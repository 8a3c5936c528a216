import { useTranslation } from '../i18n'
import { Page } from '../parts/Page'
import { TrustSteps } from '../parts/TrustSteps'

export function Trust() {
  const { t } = useTranslation()
  return (
    <Page title={t('trust.title')} back={{ to: '/account', label: t('account.title') }}>
      <div className="flex flex-col gap-4">
        <p className="text-soft">{t('trust.text')}</p>
        <TrustSteps />
      </div>
    </Page>
  )
}
