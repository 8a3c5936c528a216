import { useEffect } from 'react'
import { useTranslation } from '../i18n'
import { CopyButton } from './CopyButton'
import { Gate } from './Gate'
import { Icon } from './Icon'
import { usePageTitle } from './Page'

const again = 5_000

/**
 * All that there is to see while the cell's stored state is damaged: it answers nobody on the web (code recovered) until
 * somebody at the machine has adopted a revision. Looks again by itself.
 */
export function RecoveredPage({ onRetry }: { onRetry: () => void }) {
  const { t } = useTranslation()
  const heading = usePageTitle(t('recovered.title'))
  useEffect(() => {
    const timer = setInterval(onRetry, again)
    return () => clearInterval(timer)
  }, [onRetry])
  return (
    <Gate wide>
      <section role="alert" className="rounded-lg border border-alarm bg-alarm-wash px-4 py-3">
        <h1 ref={heading} tabIndex={-1} className="flex gap-2.5 text-alarm">
          <Icon name="alarm" size={22} className="mt-1" />
          <span className="min-w-0">{t('recovered.title')}</span>
        </h1>
        <p className="mt-2">{t('recovered.kept')}</p>
        <p className="mt-2">{t('recovered.closed')}</p>
      </section>
      <h2 className="mt-6 mb-3">{t('recovered.do')}</h2>
      <ol className="card flex flex-col gap-4 p-6">
        <Step text={t('recovered.look')} command="sudo pic status" />
        <Step text={t('recovered.adopt')} command="sudo pic recover" />
        <li className="text-soft">{t('recovered.then')}</li>
      </ol>
    </Gate>
  )
}

function Step({ text, command }: { text: string; command: string }) {
  return (
    <li className="flex flex-wrap items-center justify-between gap-3">
      <div className="min-w-0">
        <p>{text}</p>
        <code>{command}</code>
      </div>
      <CopyButton small text={command} />
    </li>
  )
}

/** Says the same above a page that still has something to show. */
export function RecoveredBanner() {
  const { t } = useTranslation()
  return (
    <div role="alert" className="border-b border-alarm bg-alarm-wash px-4 py-3 lg:px-8">
      <p className="flex gap-2.5 font-medium text-alarm">
        <Icon name="alarm" className="mt-0.5" />
        <span className="min-w-0">{t('recovered.title')}</span>
      </p>
      <p className="mt-1">{t('recovered.closed')}</p>
      <p className="mt-1">
        {t('recovered.adopt')} <code>sudo pic recover</code>
      </p>
    </div>
  )
}
