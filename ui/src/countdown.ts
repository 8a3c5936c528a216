/** Whole seconds until an RFC 3339 moment, never below zero. */
export function secondsLeft(until: string, now: number): number {
  const end = Date.parse(until)
  return Number.isNaN(end) ? 0 : Math.max(0, Math.ceil((end - now) / 1000))
}

const marks = [600, 300, 120, 60, 30, 20, 10, 5]

/**
 * The mark that the countdown passed between two readings, or null. Screen readers are told at these marks only: a
 * countdown that speaks every second drowns everything else.
 */
export function passedMark(before: number | null, now: number): number | null {
  if (before === null) return now
  const passed = marks.filter((m) => before > m && now <= m)
  return passed.length > 0 ? Math.min(...passed) : null
}
