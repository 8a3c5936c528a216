import { useState } from 'react'
import { languages, useTranslation, type Language } from './i18n'
import { SelectField } from './parts/Field'

export type Theme = 'auto' | 'light' | 'dark'

function currentTheme(): Theme {
  const chosen = document.documentElement.dataset.theme
  return chosen === 'light' || chosen === 'dark' ? chosen : 'auto'
}

function setTheme(theme: Theme): void {
  if (theme === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
  try {
    if (theme === 'auto') localStorage.removeItem('pic-theme')
    else localStorage.setItem('pic-theme', theme) // read by public/theme.js before the first paint
  } catch {
    // Storage is off: it holds for this visit.
  }
}

export function ThemeSelect() {
  const { t } = useTranslation()
  const [theme, set] = useState(currentTheme)
  return (
    <SelectField
      label={t('menu.theme')}
      value={theme}
      onChange={(e) => {
        const next = e.currentTarget.value as Theme
        setTheme(next)
        set(next)
      }}
    >
      <option value="auto">{t('menu.theme.auto')}</option>
      <option value="light">{t('menu.theme.light')}</option>
      <option value="dark">{t('menu.theme.dark')}</option>
    </SelectField>
  )
}

export function LanguageSelect() {
  const { t, language, setLanguage } = useTranslation()
  return (
    <SelectField label={t('menu.language')} value={language} onChange={(e) => setLanguage(e.currentTarget.value as Language)}>
      {Object.entries(languages).map(([tag, name]) => (
        <option key={tag} value={tag} lang={tag}>
          {name}
        </option>
      ))}
    </SelectField>
  )
}
