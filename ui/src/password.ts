import type { Key } from './i18n/en'

export const shortest = 12
export const longestBytes = 72 // bcrypt reads no more

export type Strength = { score: 0 | 1 | 2 | 3; label: Key; hint: 'short' | 'name' | 'repeat' | 'longer' | null }

const rows = ['abcdefghijklmnopqrstuvwxyz', '01234567890', 'qwertyuiop', 'qwertzuiop', 'asdfghjkl', 'yxcvbnm', 'zxcvbnm']

/** Characters that a guesser does not get for free from the one before: repeats and keyboard rows don't count. */
function effectiveLength(password: string): number {
  const lower = password.toLowerCase()
  let n = Math.min(1, lower.length)
  for (let i = 1; i < lower.length; i++) {
    const pair = lower.slice(i - 1, i + 1)
    const back = `${pair[1]}${pair[0]}`
    if (pair[0] !== pair[1] && !rows.some((r) => r.includes(pair) || r.includes(back))) n++
  }
  return n
}

/** A hint for a person, not a gate: the cell checks length and its list of common passwords. */
export function strength(password: string, names: string[]): Strength {
  const lower = password.toLowerCase()
  const named = names.find((name) => name.length >= 3 && lower.includes(name.toLowerCase()))
  const length = effectiveLength(named ? lower.replaceAll(named.toLowerCase(), '') : password)
  const kinds = [/[a-z]/, /[A-Z]/, /\d/, /[^A-Za-z0-9]/].filter((k) => k.test(password)).length
  const bits = length * (2.2 + kinds * 0.4)
  if (password.length < shortest) return { score: 0, label: 'password.weak', hint: 'short' }
  if (named && bits < 45) return { score: 0, label: 'password.weak', hint: 'name' }
  if (length < password.length * 0.6 && bits < 45) return { score: 0, label: 'password.weak', hint: 'repeat' }
  if (bits < 32) return { score: 0, label: 'password.weak', hint: 'longer' }
  if (bits < 45) return { score: 1, label: 'password.fair', hint: 'longer' }
  if (bits < 60) return { score: 2, label: 'password.good', hint: null }
  return { score: 3, label: 'password.strong', hint: null }
}
