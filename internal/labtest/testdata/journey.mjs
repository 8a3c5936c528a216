// The first day of a cell, in a browser: claim it with the setup code, add a
// peer, save its configuration, look at the overview. Prints one JSON line.
import { createRequire } from 'node:module'
import { readFile } from 'node:fs/promises'

const { chromium } = createRequire(process.env.PLAYWRIGHT_FROM)('playwright-core')
const args = JSON.parse(process.env.ARGS)

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] })
const context = await browser.newContext({ ignoreHTTPSErrors: true, acceptDownloads: true, locale: 'en-GB', viewport: { width: 1280, height: 900 } })
const page = await context.newPage()
page.setDefaultTimeout(20_000)
const seen = []
page.on('console', (m) => seen.push(`${m.type()}: ${m.text()}`))
page.on('pageerror', (e) => seen.push(`error: ${e.message}`))
page.on('response', (r) => r.status() >= 400 && seen.push(`${r.status()} ${r.request().method()} ${r.url()}`))

const shot = async (name) => args.screenshots && page.screenshot({ path: `${args.screenshots}/${name}.png` })
const next = () => page.getByRole('button', { name: 'Continue' }).click()
const heading = (name) => page.getByRole('heading', { name, level: 1 }).waitFor()

try {
  await page.goto(args.url)
  await heading('Language and setup code')
  await page.getByLabel('Setup code').fill(args.code)
  await shot('screenshot-setup')
  await next()

  await heading('Name and place')
  await page.getByLabel('Cell name').fill(args.cell)
  await page.getByLabel('Private name').check()
  await page.getByLabel('Time zone').selectOption('UTC')
  await next()

  await heading('Administrator password')
  await page.getByLabel('Password', { exact: true }).fill(args.password)
  await page.getByLabel('Repeat the password').fill(args.password)
  await next()

  await heading('Review')
  await page.getByRole('button', { name: 'Claim this cell' }).click()
  await heading('This cell is yours')
  await page.getByRole('link', { name: 'Open the overview' }).click()
  await heading('Overview')

  await page.goto(new URL('/peers/new', args.url).href)
  await heading('Add peer')
  await page.getByLabel('Name', { exact: true }).fill(args.peer)
  await page.getByRole('button', { name: 'Review change' }).click()
  await page.getByRole('button', { name: 'Commit', exact: true }).click()
  await heading(`${args.peer} is ready`)
  await shot('screenshot-peer')
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: /^Download/ }).click()])
  const config = await readFile(await download.path(), 'utf8')
  await page.getByRole('button', { name: 'Done' }).click()
  await heading('Peers')

  await page.goto(new URL('/', args.url).href)
  await heading('Overview')
  await page.evaluate(() => document.fonts.ready)
  await shot('screenshot')
  console.log(JSON.stringify({ config, filename: download.suggestedFilename() }))
} catch (e) {
  console.error(`at ${page.url()}\n${await page.locator('body').innerText().catch(() => '')}\n${seen.join('\n')}`)
  if (args.failure) await page.screenshot({ path: args.failure }).catch(() => {})
  throw e
} finally {
  await browser.close()
}
