import { useEffect, useMemo, useState } from 'react'
import { useBlocker } from 'react-router'
import type { PeerCreated } from '../api/types'
import { useTranslation } from '../i18n'
import { insertPrivateKey, safeFilename } from '../wireguard/config'
import { chooseQr } from '../wireguard/qr'
import { CopyButton } from './CopyButton'
import { Dialog } from './Dialog'
import { Icon } from './Icon'
import { QrCode, saveBlob, saveQrPng } from './QrCode'

/** The one showing of a new peer's configuration. */
export function PeerReady({ created, privateKey, pending, onDone }: { created: PeerCreated; privateKey: string; pending: boolean; onDone: () => void }) {
  const { t } = useTranslation()
  const [saved, setSaved] = useState(false)
  const name = created.peer.name
  const file = safeFilename(created.filename)
  const config = useMemo(() => (privateKey ? insertPrivateKey(created.config, privateKey) : created.config), [created, privateKey])
  const qr = useMemo(() => (privateKey ? chooseQr(config) : null), [config, privateKey])
  // Scanning leaves no trace here, so only a page without a code can know that nothing was kept.
  const risk = !saved && privateKey !== '' && qr === null
  const blocker = useBlocker(risk)

  useEffect(() => {
    if (saved || privateKey === '') return
    const ask = (e: BeforeUnloadEvent) => e.preventDefault()
    addEventListener('beforeunload', ask)
    return () => removeEventListener('beforeunload', ask)
  }, [saved, privateKey])

  return (
    <div className="flex flex-col gap-5">
      <div className="flex gap-3 rounded-lg border border-warn bg-warn-wash px-4 py-3">
        <Icon name="warning" className="mt-0.5 text-warn" />
        <div className="min-w-0">
          <p>{t(privateKey ? 'peer.ready.warning' : 'peer.ready.warningOwn')}</p>
          {pending && <p className="mt-1 font-medium">{t('peer.ready.pending')}</p>}
        </div>
      </div>

      <div className="card flex flex-col gap-6 p-5 md:flex-row">
        {privateKey !== '' && (
          <div className="flex flex-col items-center gap-3 md:w-80 md:shrink-0">
            {qr ? (
              <>
                <QrCode qr={qr} label={t('peer.ready.qr', { name })} className="w-full max-w-80" />
                <p className="text-center text-[0.93rem] text-soft">
                  {t('peer.ready.scan')}
                  <br />
                  <span className="text-faint">{t('peer.ready.ecc', { level: qr.level, n: qr.size })}</span>
                </p>
              </>
            ) : (
              <p className="text-soft">{t('peer.ready.noQr')}</p>
            )}
          </div>
        )}
        <div className="flex min-w-0 flex-1 flex-col gap-3">
          <h2>{t('peer.ready.config')}</h2>
          {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls, so it must be reachable by keyboard */}
          <pre tabIndex={0} role="region" aria-label={t('peer.ready.config')} className="overflow-x-auto rounded-lg bg-sunken p-3 leading-relaxed">
            {config}
          </pre>
          <div className="flex flex-wrap gap-2">
            <button
              type="button"
              className="btn btn-primary"
              onClick={() => {
                saveBlob(new Blob([config], { type: 'text/plain' }), file)
                setSaved(true)
              }}
            >
              <Icon name="download" size={16} />
              {t('peer.ready.download', { file })}
            </button>
            <CopyButton text={config} label={t('peer.ready.copy')} onCopied={() => setSaved(true)} />
            {qr && (
              <button type="button" className="btn" onClick={() => void saveQrPng(qr, file.replace(/\.conf$/, '.png')).then(() => setSaved(true))}>
                <Icon name="download" size={16} />
                {t('peer.ready.png')}
              </button>
            )}
          </div>
        </div>
      </div>

      <div>
        <button type="button" className="btn" onClick={onDone}>
          {t('peer.ready.done')}
        </button>
      </div>

      <Dialog title={t('peer.ready.leave.title')} open={blocker.state === 'blocked'} onClose={() => blocker.reset?.()}>
        <p>{t('peer.ready.leave.text')}</p>
        <div className="flex justify-end gap-3">
          <button type="button" className="btn" onClick={() => blocker.reset?.()}>
            {t('peer.ready.leave.stay')}
          </button>
          <button type="button" className="btn btn-danger" onClick={() => blocker.proceed?.()}>
            {t('peer.ready.leave.go')}
          </button>
        </div>
      </Dialog>
    </div>
  )
}
