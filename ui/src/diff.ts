export type DiffRow =
  | { kind: 'hunk'; text: string }
  | { kind: 'add' | 'del' | 'same'; text: string; before: number | null; after: number | null }

/** Reads a unified diff (POSIX diff -u). Lines outside of a hunk (file names, notes) are left out. */
export function parseDiff(diff: string): DiffRow[] {
  const rows: DiffRow[] = []
  let before = 0
  let after = 0
  let inside = false
  const lines = diff.split('\n')
  if (lines.at(-1) === '') lines.pop()
  for (const line of lines) {
    const hunk = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@(.*)$/.exec(line)
    if (hunk) {
      before = Number(hunk[1])
      after = Number(hunk[2])
      inside = true
      rows.push({ kind: 'hunk', text: line })
      continue
    }
    if (!inside || line.startsWith('\\')) continue
    const text = line.slice(1)
    if (line.startsWith('+')) rows.push({ kind: 'add', text, before: null, after: after++ })
    else if (line.startsWith('-')) rows.push({ kind: 'del', text, before: before++, after: null })
    else rows.push({ kind: 'same', text, before: before++, after: after++ })
  }
  return rows
}

export function countChanges(rows: DiffRow[]): { added: number; removed: number } {
  return {
    added: rows.filter((r) => r.kind === 'add').length,
    removed: rows.filter((r) => r.kind === 'del').length,
  }
}
