import { zodResolver } from '@hookform/resolvers/zod'
import { useState } from 'react'
import type { FieldValues, Path, UseFormReturn } from 'react-hook-form'
import * as z from 'zod/mini'
import { splitErrors, type FieldError } from './api/problem'

// zod/mini, not zod: smaller, and it never tries new Function, which the Content-Security-Policy reports.
export { z, zodResolver }

/** RFC 1123 §2.1: what the cell takes as a name. */
export const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

/** Puts the cell's errors beside the fields they speak of, and keeps the others for an ErrorSummary. */
export function useProblem<V extends FieldValues>(form: UseFormReturn<V>, collection: string, fields: readonly (Path<V> & string)[]) {
  const [problem, set] = useState<{ error: unknown; rest: FieldError[] } | null>(null)
  return {
    problem,
    clear: () => set(null),
    show: (error: unknown) => {
      const { beside, rest } = splitErrors(error, collection, fields)
      for (const [i, e] of beside.entries()) form.setError(e.field, { type: 'cell', message: e.message }, { shouldFocus: i === 0 })
      set(beside.length > 0 && rest.length === 0 ? null : { error, rest })
      return beside.length > 0
    },
  }
}
