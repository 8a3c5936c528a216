import { useEffect, useId, useRef, useState } from 'react'
import { change, client } from '../api/client'
import type { Me } from '../api/types'
import { useTranslation } from '../i18n'
import { LanguageSelect, ThemeSelect } from '../theme'
import { ErrorSummary } from './ErrorSummary'
import { Icon } from './Icon'

export function AccountMenu({ me: who }: { me: Me }) {
  const { t } = useTranslation()
  const [open, setOpen] = useState(false)
  const [error, setError] = useState<unknown>(null)
  const box = useRef<HTMLDivElement>(null)
  const button = useRef<HTMLButtonElement>(null)
  const id = useId()

  useEffect(() => {
    if (!open) return
    const outside = (e: Event) => {
      if (e.target instanceof Node && !box.current?.contains(e.target)) setOpen(false)
    }
    const escape = (e: KeyboardEvent) => {
      if (e.key !== 'Escape') return
      setOpen(false)
      button.current?.focus()
    }
    document.addEventListener('pointerdown', outside)
    document.addEventListener('focusin', outside)
    document.addEventListener('keydown', escape)
    return () => {
      document.removeEventListener('pointerdown', outside)
      document.removeEventListener('focusin', outside)
      document.removeEventListener('keydown', escape)
    }
  }, [open])

  const logout = async () => {
    try {
      await change(() => client.POST('/api/auth/logout', { body: {} }))
    } catch (cause) {
      setError(cause)
      return
    }
    // A new page: nothing that was fetched for this person is left in memory for the next one.
    location.replace('/login?out=1')
  }

  return (
    <div ref={box} className="relative">
      <button ref={button} type="button" className="btn btn-quiet" aria-expanded={open} aria-controls={id} aria-label={t('menu.open', { user: who.user })} onClick={() => setOpen(!open)}>
        <Icon name="account" />
        <span className="max-w-32 truncate">{who.user}</span>
        <Icon name="chevron" size={14} />
      </button>
      <div id={id} hidden={!open} className="pop absolute top-full right-0 z-40 mt-1.5 w-64 p-4">
        <div className="flex flex-col gap-4">
          <p>
            <span className="block truncate font-semibold">{who.user}</span>
            <span className="text-soft">{t(who.role === 'admin' ? 'menu.admin' : 'menu.peer')}</span>
          </p>
          <ThemeSelect />
          <LanguageSelect />
          <ErrorSummary error={error} />
          <button type="button" className="btn" onClick={() => void logout()}>
            <Icon name="logout" size={16} />
            {t('menu.logout')}
          </button>
        </div>
      </div>
    </div>
  )
}
