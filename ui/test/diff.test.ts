import { expect, test } from 'vitest'
import { countChanges, parseDiff } from '../src/diff'

test('a unified diff becomes rows with line numbers', () => {
  const rows = parseDiff('--- a\n+++ b\n@@ -3,3 +3,4 @@ table\n one\n-two\n+2\n+2½\n three\n\\ No newline at end of file\n@@ -40 +41 @@\n-- dashes\n+++ pluses\n')
  expect(rows).toEqual([
    { kind: 'hunk', text: '@@ -3,3 +3,4 @@ table' },
    { kind: 'same', text: 'one', before: 3, after: 3 },
    { kind: 'del', text: 'two', before: 4, after: null },
    { kind: 'add', text: '2', before: null, after: 4 },
    { kind: 'add', text: '2½', before: null, after: 5 },
    { kind: 'same', text: 'three', before: 5, after: 6 },
    { kind: 'hunk', text: '@@ -40 +41 @@' },
    { kind: 'del', text: '- dashes', before: 40, after: null },
    { kind: 'add', text: '++ pluses', before: null, after: 41 },
  ])
  expect(countChanges(rows)).toEqual({ added: 3, removed: 2 })
})

test('no diff, no rows', () => expect(parseDiff('')).toEqual([]))
