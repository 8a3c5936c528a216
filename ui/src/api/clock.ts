// The cell's clock decides when a pending commit reverts, and this machine's may be wrong (that is half of why a cell
// serves NTP). The Date header of each answer (RFC 9110 §6.6.1, whole seconds) tells how far the two are apart.

let offset = 0

export function noteServerTime(date: string | null, now = Date.now()): void {
  const server = date ? Date.parse(date) : Number.NaN
  // Half a second: the header cuts off the fraction.
  if (!Number.isNaN(server)) offset = server + 500 - now
}

/** The cell's time in Unix milliseconds. Differences below two seconds are the header's coarseness, not an error. */
export function serverNow(now = Date.now()): number {
  return Math.abs(offset) < 2000 ? now : now + offset
}
