import { useEffect, useState } from 'react'
import { serverNow } from '../api/clock'
import { useTranslation } from '../i18n'
import { full, relative, short } from '../i18n/format'

/** The cell's time, read again every so many milliseconds. */
export function useNow(every: number): number {
  const [now, setNow] = useState(() => serverNow())
  useEffect(() => {
    const timer = setInterval(() => setNow(serverNow()), every)
    return () => clearInterval(timer)
  }, [every])
  return now
}

/** A moment: relative or short to read, whole in the title. */
export function Time({ at, absolute = false }: { at: string | null | undefined; absolute?: boolean }) {
  const { locale, t } = useTranslation()
  const now = useNow(15_000)
  const time = at ? Date.parse(at) : Number.NaN
  // Go's zero time stands for "never".
  if (!at || Number.isNaN(time) || time < 0) return <span className="text-faint">{t('app.never')}</span>
  return (
    <time dateTime={at} title={full(locale, time)} className="num">
      {absolute ? short(locale, time) : relative(locale, time, now)}
    </time>
  )
}
