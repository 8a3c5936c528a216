import { useMemo } from 'react'
import { Link } from 'react-router'
import type { SetupDone } from '../../api/types'
import { useTranslation } from '../../i18n'
import { usePageTitle } from '../../parts/Page'
import { QrCode } from '../../parts/QrCode'
import { TrustSteps } from '../../parts/TrustSteps'
import { chooseQr } from '../../wireguard/qr'

export function DoneStep({ done }: { done: SetupDone }) {
  const { t } = useTranslation()
  const heading = usePageTitle(t('setup.done.title'))
  const qr = useMemo(() => chooseQr(done.url), [done.url])
  return (
    <div className="flex flex-col gap-5">
      <h1 ref={heading} tabIndex={-1}>
        {t('setup.done.title')}
      </h1>
      <p>{t('setup.done.text', { domain: done.domain })}</p>
      <div className="card flex flex-col gap-5 p-5 sm:flex-row">
        {qr && (
          <figure className="flex w-44 shrink-0 flex-col gap-2 self-center">
            <QrCode qr={qr} label={done.url} className="w-full" />
            <figcaption className="text-center text-[0.93rem] text-soft">{t('setup.done.phone')}</figcaption>
          </figure>
        )}
        <div className="flex min-w-0 flex-1 flex-col gap-3">
          <p>
            <a href={done.url} className="break-all">
              {done.url}
            </a>
          </p>
          <div>
            <h2 className="mb-1">{t('setup.done.fingerprint')}</h2>
            <code className="break-all">{done.fingerprint}</code>
            <p className="mt-1 text-[0.93rem] text-soft">{t('setup.done.compare')}</p>
          </div>
          <p className="text-soft">{t('trust.text')}</p>
        </div>
      </div>
      <TrustSteps />
      <div>
        <Link to="/" replace className="btn btn-primary">
          {t('setup.done.open')}
        </Link>
      </div>
    </div>
  )
}
