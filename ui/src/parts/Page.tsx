import { useEffect, useRef, type ReactNode } from 'react'
import { Link } from 'react-router'
import { useTranslation } from '../i18n'
import { Icon } from './Icon'

let firstPage = true

/** Names the page in the tab and, after a navigation, moves the focus to its heading, which also announces it. */
export function usePageTitle(title: string) {
  const heading = useRef<HTMLHeadingElement>(null)
  const { t } = useTranslation()
  useEffect(() => {
    document.title = `${title} · ${t('app.name')}`
  }, [title, t])
  useEffect(() => {
    if (firstPage) {
      firstPage = false
      return
    }
    window.scrollTo(0, 0)
    heading.current?.focus({ preventScroll: true })
  }, [])
  return heading
}

export function Page({ title, aside, back, wide = false, children }: { title: string; aside?: ReactNode; back?: { to: string; label: string }; wide?: boolean; children: ReactNode }) {
  const heading = usePageTitle(title)
  return (
    <div className={`mx-auto w-full ${wide ? 'max-w-6xl' : 'max-w-3xl'}`}>
      {back && (
        <Link to={back.to} className="mb-2 inline-flex items-center gap-1.5 text-soft no-underline hover:text-ink">
          <Icon name="back" size={15} />
          {back.label}
        </Link>
      )}
      <header className="mb-5 flex flex-wrap items-center justify-between gap-x-4 gap-y-3">
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        {aside}
      </header>
      {children}
    </div>
  )
}

export function Loading() {
  const { t } = useTranslation()
  return (
    <div role="status" className="flex flex-col gap-3 py-2">
      <span className="sr-only">{t('app.loading')}</span>
      <div className="skeleton h-5 w-48" />
      <div className="skeleton h-24 w-full" />
      <div className="skeleton h-24 w-full" />
    </div>
  )
}

export function Empty({ title, text, action }: { title: string; text?: string; action?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-2 px-6 py-12 text-center">
      <h2>{title}</h2>
      {text && <p className="max-w-md text-soft">{text}</p>}
      {action && <div className="mt-3">{action}</div>}
    </div>
  )
}
