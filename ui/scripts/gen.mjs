// Makes src/api/schema.d.ts from openapi.json (written by `pic openapi`).
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

if (!existsSync('openapi.json')) {
  console.error('openapi.json is missing: write it with `pic openapi > ui/openapi.json`')
  process.exit(1)
}
const run = spawnSync('openapi-typescript', ['openapi.json', '-o', 'src/api/schema.d.ts'], { stdio: 'inherit' })
process.exit(run.status ?? 1)
