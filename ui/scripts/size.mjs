// Prints the gzipped size of what the first page loads (the entry and its static imports) and fails above the budget.
import { readFileSync, readdirSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

const budget = 200 * 1024
const dist = resolve(dirname(fileURLToPath(import.meta.url)), '../dist')
const html = readFileSync(join(dist, 'index.html'), 'utf8')
const gz = (file) => gzipSync(readFileSync(file), { level: 9 }).length
const kb = (n) => `${(n / 1024).toFixed(1).padStart(7)} KiB`

const seen = new Set()
const follow = (file) => {
  if (seen.has(file)) return
  seen.add(file)
  const code = readFileSync(file, 'utf8')
  // Static imports of an ES chunk; import() has a parenthesis and is left out.
  for (const [, , path] of code.matchAll(/(?:^|[;}\n\s])(import|export)\s*(?:[\w$*{},\s]*?from)?\s*["'](\.[^"']+\.js)["']/g)) follow(resolve(dirname(file), path))
}
for (const [, src] of html.matchAll(/<(?:script|link)[^>]+(?:src|href)="(\/[^"]+\.js)"/g)) follow(join(dist, src))

let total = 0
for (const file of seen) {
  total += gz(file)
  console.log(kb(gz(file)), file.slice(dist.length + 1))
}
if (seen.size < 2) throw new Error('found no entry in dist/index.html: run npm run build first')

const walk = (dir) => readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? walk(join(dir, e.name)) : [join(dir, e.name)]))
const all = walk(dist)
console.log(kb(total), `initial JS, gzip (budget ${budget / 1024} KiB)`)
console.log(kb(all.filter((f) => f.endsWith('.js')).reduce((n, f) => n + gz(f), 0)), 'all JS, gzip')
console.log(kb(all.reduce((n, f) => n + statSync(f).size, 0)), 'everything that the binary embeds')
if (total > budget) {
  console.error(`initial JS is ${kb(total - budget).trim()} above the budget`)
  process.exit(1)
}
