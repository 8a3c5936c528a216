import { createContext, use, useCallback, useEffect, useMemo, useState, type ReactNode } from 'react'
import { en, type Dictionary, type Key } from './en'

export type { Key } from './en'

type Placeholders<S extends string> = S extends `${string}{${infer P}}${infer Rest}` ? P | Placeholders<Rest> : never
/** What a sentence needs to be filled in with: nothing, or each {word} of its English text. */
export type Values<K extends Key> = [Placeholders<(typeof en)[K]>] extends [never] ? [] : [Record<Placeholders<(typeof en)[K]>, string | number>]
type PluralOf<K> = K extends `${infer P}_other` ? P : never
export type PluralKey = PluralOf<Key>

export const languages = { en: 'English', de: 'Deutsch' } as const
export type Language = keyof typeof languages

const storageKey = 'pic-language'

export function fill(sentence: string, values: Record<string, string | number> = {}): string {
  return sentence.replace(/\{(\w+)\}/g, (whole, word: string) => String(values[word] ?? whole))
}

function isLanguage(tag: string | null | undefined): tag is Language {
  return tag === 'en' || tag === 'de'
}

function preferred(): Language {
  try {
    const chosen = localStorage.getItem(storageKey)
    if (isLanguage(chosen)) return chosen
  } catch {
    // Storage is off: ask the browser.
  }
  for (const tag of navigator.languages) {
    const language = tag.slice(0, 2)
    if (isLanguage(language)) return language
  }
  return 'en'
}

async function load(language: Language): Promise<Dictionary> {
  return language === 'de' ? (await import('./de')).de : en
}

/** Loads the language before the first paint, so that none flashes. */
export async function firstLanguage(): Promise<{ language: Language; words: Dictionary }> {
  const language = preferred()
  try {
    return { language, words: await load(language) }
  } catch {
    return { language: 'en', words: en }
  }
}

type Translation = {
  language: Language
  /** BCP 47, for numbers and times: the browser's region where it speaks the same language. */
  locale: string
  setLanguage: (language: Language) => void
  t: <K extends Key>(key: K, ...values: Values<K>) => string
  /** A sentence that depends on a number, which fills {n}. */
  plural: (key: PluralKey, n: number) => string
}

const Context = createContext<Translation | null>(null)

export function LanguageProvider({ first, children }: { first: { language: Language; words: Dictionary }; children: ReactNode }) {
  const [{ language, words }, set] = useState(first)

  useEffect(() => {
    document.documentElement.lang = language
  }, [language])

  const setLanguage = useCallback((next: Language) => {
    void load(next).then((loaded) => {
      set({ language: next, words: loaded })
      try {
        localStorage.setItem(storageKey, next)
      } catch {
        // Storage is off: it holds for this visit.
      }
    })
  }, [])

  const value = useMemo<Translation>(() => {
    const rules = new Intl.PluralRules(language)
    return {
      language,
      locale: navigator.languages.find((tag) => tag.split('-')[0] === language) ?? language,
      setLanguage,
      t: (key, ...[values]) => fill(words[key], values),
      plural: (key, n) => fill(words[`${key}_${rules.select(n) === 'one' ? 'one' : 'other'}`], { n }),
    }
  }, [language, words, setLanguage])

  return <Context value={value}>{children}</Context>
}

export function useTranslation(): Translation {
  const translation = use(Context)
  if (!translation) throw new Error('a component is outside of LanguageProvider')
  return translation
}
