import { useQuery } from '@tanstack/react-query'
import { client, read } from '../api/client'
import { fingerprint } from '../fingerprint'
import { useTranslation } from '../i18n'
import { Page } from '../parts/Page'
import { TrustSteps } from '../parts/TrustSteps'

export function Trust() {
  const { t } = useTranslation()
  const print = useQuery({
    queryKey: ['ca', 'fingerprint'],
    staleTime: Number.POSITIVE_INFINITY,
    queryFn: async ({ signal }) =>
      fingerprint(await read<string>(() => client.GET('/api/vault/ca', { params: { query: { format: 'pem' } }, parseAs: 'text', signal }))),
  })
  return (
    <Page title={t('trust.title')} back={{ to: '/account', label: t('account.title') }}>
      <div className="flex flex-col gap-4">
        <p className="text-soft">{t('trust.text')}</p>
        {print.data && (
          <div className="card px-5 py-4">
            <h2 className="mb-1">{t('trust.fingerprint')}</h2>
            <code className="break-all">{print.data}</code>
            <p className="mt-2 text-soft">{t('trust.check')}</p>
          </div>
        )}
        <TrustSteps />
      </div>
    </Page>
  )
}
