import { useSyncExternalStore } from 'react'

let sentence = ''
const listeners = new Set<() => void>()

/** Says a sentence to screen readers, politely. */
export function announce(text: string): void {
  // A no-break space makes the same sentence twice a change, which is what gets spoken.
  sentence = text === sentence ? `${text}\u00a0` : text
  for (const tell of listeners) tell()
}

function subscribe(tell: () => void) {
  listeners.add(tell)
  return () => listeners.delete(tell)
}

export function Announcer() {
  const text = useSyncExternalStore(subscribe, () => sentence)
  return (
    <div role="status" aria-live="polite" className="sr-only">
      {text}
    </div>
  )
}
