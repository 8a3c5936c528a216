import { isRouteErrorResponse, Link, useRouteError } from 'react-router'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Page } from '../parts/Page'

export function NotFound() {
  const { t } = useTranslation()
  return (
    <Page title={t('notFound.title')}>
      <p className="mb-4 text-soft">{t('notFound.text')}</p>
      <Link to="/" className="btn">
        {t('notFound.home')}
      </Link>
    </Page>
  )
}

/** Where a page that threw, or whose code did not arrive, ends up. */
export function Failure() {
  const { t } = useTranslation()
  const error = useRouteError()
  if (isRouteErrorResponse(error) && error.status === 404) return <NotFound />
  return (
    <main className="mx-auto max-w-3xl px-4 py-10">
      <h1 className="mb-4">{t('error.title')}</h1>
      <ErrorSummary error={error} onRetry={() => location.reload()} />
    </main>
  )
}
