import type { Exit } from '../api/types'
import { useTranslation, type Key } from '../i18n'

const shapes: Record<Exit['state'], { dot: string; word: Key & `exit.state.${Exit['state']}`; strong: string }> = {
  up: { dot: 'bg-ok', word: 'exit.state.up', strong: 'font-medium text-ok' },
  degraded: { dot: 'bg-warn', word: 'exit.state.degraded', strong: 'font-medium text-warn' },
  connecting: { dot: 'border-2 border-warn', word: 'exit.state.connecting', strong: 'text-soft' },
  blocked: { dot: 'bg-alarm', word: 'exit.state.blocked', strong: 'font-medium text-alarm' },
  disabled: { dot: 'bg-line-strong', word: 'exit.state.disabled', strong: 'text-soft' },
}

/** A dot and the word: the colour is never the only sign. */
export function ExitState({ exit }: { exit: Pick<Exit, 'state'> }) {
  const { t } = useTranslation()
  const { dot, word, strong } = shapes[exit.state]
  return (
    <span className="inline-flex items-center gap-2 whitespace-nowrap">
      <span aria-hidden="true" className={`size-2.5 rounded-full ${dot}`} />
      <span className={strong}>{t(word)}</span>
    </span>
  )
}
