import type { Dictionary } from './en'
import { en } from './en'
export const de: Dictionary = en
