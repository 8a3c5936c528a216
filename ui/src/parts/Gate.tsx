import type { ReactNode } from 'react'
import { useTranslation } from '../i18n'
import { LanguageSelect, ThemeSelect } from '../theme'
import { Logo } from './Icon'

/** The frame of pages before the login: one card, and how they look. */
export function Gate({ children, wide = false, settings = true }: { children: ReactNode; wide?: boolean; settings?: boolean }) {
  const { t } = useTranslation()
  return (
    <div className="flex min-h-dvh flex-col px-4 py-8 sm:py-14">
      <main className={`mx-auto flex w-full flex-1 flex-col ${wide ? 'max-w-2xl' : 'max-w-sm'}`}>
        <div className="mb-6 flex items-center gap-2.5">
          <Logo size={30} />
          <span className="text-[1.07rem] font-semibold">{t('app.name')}</span>
        </div>
        {children}
      </main>
      {settings && (
        <footer className={`mx-auto mt-10 grid w-full grid-cols-2 gap-4 ${wide ? 'max-w-2xl' : 'max-w-sm'}`}>
          <ThemeSelect />
          <LanguageSelect />
        </footer>
      )}
    </div>
  )
}
