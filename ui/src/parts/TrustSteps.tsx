import { useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { client, read } from '../api/client'
import { fingerprint } from '../fingerprint'
import { useTranslation } from '../i18n'
import { Icon } from './Icon'

/** How each kind of device is told to trust the cell's authority, with the files. */
export function TrustSteps() {
  const { t } = useTranslation()
  const print = useQuery({
    queryKey: ['ca', 'fingerprint'],
    staleTime: Number.POSITIVE_INFINITY,
    queryFn: async ({ signal }) => fingerprint(await read<string>(() => client.GET('/api/vault/ca', { params: { query: { format: 'pem' } }, parseAs: 'text', signal }))),
  })
  const steps: [string, string[]][] = [
    [t('trust.apple'), [t('trust.apple.1'), t('trust.apple.2'), t('trust.apple.3')]],
    [t('trust.android'), [t('trust.android.1'), t('trust.android.2')]],
    [t('trust.windows'), [t('trust.windows.1'), t('trust.windows.2')]],
    [t('trust.linux'), [t('trust.linux.1'), t('trust.linux.2')]],
    [t('trust.firefox'), [t('trust.firefox.1')]],
  ]
  return (
    <div className="flex flex-col gap-4">
      {print.data && (
        <div className="card px-5 py-4">
          <h2 className="mb-1">{t('trust.fingerprint')}</h2>
          <code className="break-all">{print.data}</code>
          <p className="mt-1 text-[0.93rem] text-soft">{t('trust.check')}</p>
        </div>
      )}
      <div className="flex flex-wrap gap-2">
        <File format="mobileconfig">{t('trust.mobileconfig')}</File>
        <File format="der">{t('trust.der')}</File>
        <File format="pem">{t('trust.pem')}</File>
      </div>
      <div className="card divide-y divide-line">
        {steps.map(([device, list]) => (
          <details key={device} className="px-5 py-3">
            <summary className="cursor-pointer font-medium">{device}</summary>
            <ol className="mt-2 ml-5 list-decimal space-y-1 text-soft">
              {list.map((s) => (
                <li key={s} className="break-words">
                  {s}
                </li>
              ))}
            </ol>
          </details>
        ))}
      </div>
    </div>
  )
}

function File({ format, children }: { format: 'pem' | 'der' | 'mobileconfig'; children: ReactNode }) {
  return (
    <a href={`/api/vault/ca?format=${format}`} download className="btn">
      <Icon name="download" size={16} />
      {children}
    </a>
  )
}
