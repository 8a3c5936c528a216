import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect, useState } from 'react'
import { Navigate, NavLink, Outlet, useLocation } from 'react-router'
import { listen } from './api/events'
import { hasCode } from './api/problem'
import { me, status } from './api/queries'
import type { Me } from './api/types'
import { useTranslation, type Key } from './i18n'
import { AccountMenu } from './parts/AccountMenu'
import { CommitBar } from './parts/CommitBar'
import { ErrorSummary } from './parts/ErrorSummary'
import { Icon, Logo, type IconName } from './parts/Icon'
import { Loading } from './parts/Page'
import { RecoveredBanner, RecoveredPage } from './parts/Recovered'
import { session } from './session'

const pages: { to: string; label: Key & `nav.${string}`; icon: IconName; admin: boolean }[] = [
  { to: '/', label: 'nav.overview', icon: 'overview', admin: true },
  { to: '/peers', label: 'nav.peers', icon: 'peers', admin: true },
  { to: '/exits', label: 'nav.exits', icon: 'exits', admin: true },
  { to: '/firewall', label: 'nav.firewall', icon: 'firewall', admin: true },
  { to: '/history', label: 'nav.history', icon: 'history', admin: true },
  { to: '/account', label: 'nav.account', icon: 'account', admin: false },
]

/** The frame of every page behind the login. */
export function Shell() {
  const who = useQuery(me)
  const here = useLocation()

  if (hasCode(who.error, 'recovered')) return <RecoveredPage onRetry={who.refetch} />
  if (who.data) return <Frame me={who.data} />
  if (who.data === null) {
    const next = here.pathname + here.search
    return <Navigate to={next === '/' ? '/login' : `/login?next=${encodeURIComponent(next)}`} replace state={{ ended: session.seen() }} />
  }
  if (hasCode(who.error, 'setup_required')) return <Navigate to="/setup" replace />
  return (
    <main className="mx-auto max-w-3xl px-4 py-10">
      {who.error ? <ErrorSummary error={who.error} onRetry={() => void who.refetch()} /> : <Loading />}
    </main>
  )
}

/** Keeps people who administer nothing out of pages that the cell would refuse them. */
export function AdminOnly() {
  const { data } = useQuery(me)
  return data?.role === 'admin' ? <Outlet /> : <Navigate to="/account" replace />
}

function Frame({ me: who }: { me: Me }) {
  const { t } = useTranslation()
  const queries = useQueryClient()
  const [live, setLive] = useState(true)
  const admin = who.role === 'admin'
  const now = useQuery({ ...status, enabled: admin })
  const links = pages.filter((p) => admin || !p.admin)

  useEffect(() => {
    session.begin()
    return listen(queries, setLive)
  }, [queries])

  const cell = now.data?.cell
  const recovered = now.data?.source === 'recovered'
  return (
    <div className="flex min-h-dvh flex-col lg:grid lg:grid-cols-[14.5rem_minmax(0,1fr)]">
      <a href="#main" className="btn btn-primary skip">
        {t('app.skip')}
      </a>
      <div className="hidden border-r border-line bg-surface lg:block">
        <nav aria-label={t('app.primaryNav')} className="sticky top-0 flex h-dvh flex-col gap-6 px-3 py-4">
          <Brand name={cell?.name} domain={cell?.domain} />
          <div className="flex flex-col gap-0.5">
            {links.map((p) => (
              <NavLink key={p.to} to={p.to} end={p.to === '/'} className="nav-link">
                <Icon name={p.icon} />
                {t(p.label)}
              </NavLink>
            ))}
          </div>
          {now.data && (
            <p className="mt-auto px-3 text-[0.86rem] text-faint">
              {t('app.revision', { n: now.data.revision })}
              <br />
              {cell?.version}
            </p>
          )}
        </nav>
      </div>

      <div className="flex min-w-0 flex-1 flex-col">
        <header className="flex min-h-14 items-center gap-3 border-b border-line bg-surface px-4 lg:justify-end lg:px-8">
          <div className="min-w-0 flex-1 lg:hidden">
            <Brand name={cell?.name} domain={cell?.domain} />
          </div>
          {!live && (
            <span className="badge badge-warn">
              <Icon name="pending" size={13} />
              {t('app.reconnecting')}
            </span>
          )}
          <AccountMenu me={who} />
        </header>
        {recovered && <RecoveredBanner />}
        {admin && <CommitBar />}
        <main id="main" tabIndex={-1} className="flex-1 px-4 pt-6 pb-28 outline-none lg:px-8 lg:pb-12">
          {/* Whatever a page offers to do, the cell would refuse it. */}
          <fieldset disabled={recovered} className="contents">
            <Outlet />
          </fieldset>
        </main>
      </div>

      <nav aria-label={t('app.primaryNav')} className="fixed inset-x-0 bottom-0 z-20 flex border-t border-line bg-surface pb-[env(safe-area-inset-bottom)] lg:hidden">
        {links.map((p) => (
          <NavLink key={p.to} to={p.to} end={p.to === '/'} className="tab-link">
            <Icon name={p.icon} size={20} />
            {t(p.label)}
          </NavLink>
        ))}
      </nav>
    </div>
  )
}

function Brand({ name, domain }: { name: string | undefined; domain: string | undefined }) {
  const { t } = useTranslation()
  return (
    <div className="flex min-w-0 items-center gap-2.5 px-1">
      <Logo />
      <div className="min-w-0 leading-tight">
        <div className="truncate font-semibold">{name || t('app.name')}</div>
        {domain && (
          <div className="truncate text-[0.86rem] text-faint" title={domain}>
            {domain}
          </div>
        )}
      </div>
    </div>
  )
}
