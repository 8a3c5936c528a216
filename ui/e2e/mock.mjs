// Drives the built UI (dist/) in Chromium against e2e/cell.mjs, at two widths and in both themes, from the setup code to
// a reverted commit. Fails on a console error, a violation of the Content-Security-Policy, sideways scrolling or a
// finding of axe. Screenshots go to $PIC_SHOTS, or to a new temporary folder.
import { AxeBuilder } from '@axe-core/playwright'
import { x25519 } from '@noble/curves/ed25519.js'
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { setupCode, startCell } from './cell.mjs'

const dist = resolve(dirname(fileURLToPath(import.meta.url)), '../dist')
const shots = process.env.PIC_SHOTS ?? mkdtempSync(join(tmpdir(), 'pic-ui-'))
mkdirSync(shots, { recursive: true })
const password = 'seven quiet lanterns drift'

const only = process.argv[2]
const variants = [
  { name: '1280-light', width: 1280, height: 900, colorScheme: 'light' },
  { name: '1280-dark', width: 1280, height: 900, colorScheme: 'dark' },
  { name: '360-light', width: 360, height: 740, colorScheme: 'light' },
  { name: '360-dark', width: 360, height: 740, colorScheme: 'dark' },
].filter((v) => !only || v.name.includes(only))

const browser = await chromium.launch({
  executablePath: process.env.PIC_CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})
let checks = 0

async function run(variant) {
  const mock = await startCell({ dist })
  const context = await browser.newContext({
    viewport: { width: variant.width, height: variant.height },
    colorScheme: variant.colorScheme,
    locale: 'en-GB',
    permissions: ['clipboard-read', 'clipboard-write'],
    reducedMotion: 'reduce',
  })
  const page = await context.newPage()
  page.setDefaultTimeout(10_000)
  const bad = []
  /** Answers that are part of the story; Chromium reports each as a console error. */
  const expected = []
  page.on('console', (m) => {
    if (m.type() !== 'error' && m.type() !== 'warning') return
    const at = new URL(m.location().url || 'http://none/').pathname
    const i = expected.findIndex(([status, path]) => m.text().includes(`status of ${status}`) && at.startsWith(path))
    if (i < 0) bad.push(`${m.text()} (${m.location().url})`)
  })
  page.on('pageerror', (e) => bad.push(`thrown: ${e.stack}`))
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`))
  })

  const step = async (name) => {
    await page.waitForLoadState('load')
    await page.evaluate(() => document.fonts.ready)
    const wide = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth])
    assert.ok(wide[0] <= wide[1], `${name}: ${wide[0]} px wide on a screen of ${wide[1]}`)
    const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']).analyze()
    assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join(' | ')}`), [], `${name}: axe`)
    assert.deepEqual(bad, [], `${name}: console`)
    await page.screenshot({ path: join(shots, `${variant.name}-${name}.png`), fullPage: true })
    checks++
  }
  const heading = (name) => page.getByRole('heading', { level: 1, name }).waitFor()
  const button = (name) => page.getByRole('button', { name, exact: true }).click()
  const nav = (name) => page.getByRole('navigation', { name: 'Main' }).filter({ visible: true }).getByRole('link', { name }).click()

  // The wizard.
  expected.push([428, '/api/'])
  await page.goto(mock.url)
  await page.waitForURL('**/setup')
  await heading('Language and setup code')
  await step('01-setup-code')
  expected.push([403, '/api/setup/step'])
  await page.getByLabel('Setup code').fill('one two three')
  await button('Continue')
  await page.getByText('The setup code has six words.').waitFor()
  await page.getByLabel('Setup code').fill('one two three four five six')
  await button('Continue')
  await page.getByText('4 tries left').waitFor()
  await page.getByLabel('Setup code').fill(setupCode.toUpperCase().replaceAll(' ', '-'))
  await button('Continue')
  await heading('Name and place')
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), 'H1', 'the focus goes to the heading')
  expected.push([422, '/api/setup/step'])
  await page.getByLabel('Cell name').fill('taken')
  await button('Continue')
  await page.getByText('this name is taken').waitFor()
  await page.getByLabel('Cell name').fill('home')
  await page.getByText('Your cell will be home.internal').waitFor()
  await step('02-setup-identity')
  await button('Continue')
  await heading('Administrator password')
  await page.getByLabel('Password', { exact: true }).fill('short')
  await button('Continue')
  await page.getByText('At least 12 characters.', { exact: true }).waitFor()
  await page.getByLabel('Password', { exact: true }).fill(password)
  await page.getByLabel('Repeat the password').fill(password)
  await step('03-setup-password')
  await button('Continue')
  await heading('Review')
  await step('04-setup-review')
  await page.reload()
  await heading('Review')
  await button('Claim this cell')
  await heading('This cell is yours')
  await page.getByText('Fingerprint of the authority').waitFor()
  await step('05-setup-done')
  expected.length = 0
  await page.getByRole('link', { name: 'Open the overview' }).click()

  // Overview, logout, login.
  await heading('Overview')
  await page.getByText('Needs attention').waitFor()
  await step('06-overview')
  await page.getByRole('button', { name: 'Account menu of admin' }).click()
  await step('07-menu')
  expected.push([401, '/api/auth/me'])
  await button('Log out')
  await page.getByText('You are logged out.').waitFor()
  assert.equal(mock.cell.events.size, 0, 'the event stream stops on logout')
  await step('08-login')
  expected.length = 0
  expected.push([401, '/api/auth/'])
  await page.goto(`${mock.url}/peers?q=x`)
  await heading('Log in')
  await page.getByLabel('User name').fill('admin')
  await page.getByLabel('Password', { exact: true }).fill('wrong password')
  await button('Log in')
  await page.getByText('Name or password is wrong.').waitFor()
  await page.getByLabel('Password', { exact: true }).fill(password)
  await button('Log in')
  await page.waitForURL('**/peers?q=x')
  expected.length = 0
  await nav('Peers')
  await page.getByText('No peer yet').waitFor()
  await step('09-peers-empty')

  // Create a peer with keys of the browser.
  await page.getByRole('link', { name: 'Add peer' }).first().click()
  await heading('Add peer')
  await page.getByLabel('Name', { exact: true }).fill('My Phone')
  await button('Review change')
  await page.getByText('Lower-case letters, digits and hyphens, 1 to 63').waitFor()
  await page.getByLabel('Name', { exact: true }).fill('phone')
  await page.getByLabel('Only these').check()
  await page.getByLabel('Files').check()
  await page.getByText('More settings').click()
  await step('10-peer-new')
  await button('Review change')
  await heading('Add peer: phone')
  await page.getByText('What changes on the machine').waitFor()
  await step('11-peer-review')
  await button('Commit')
  await heading('phone is ready')
  const config = await page.getByRole('region', { name: 'Configuration' }).innerText()
  const secret = /^PrivateKey = ([A-Za-z0-9+/]{43}=)$/m.exec(config)?.[1]
  assert.ok(secret, 'the configuration holds a private key')
  assert.equal(Buffer.from(x25519.getPublicKey(Buffer.from(secret, 'base64'))).toString('base64'), mock.cell.peers[0].public_key, 'the cell got the public half of it')
  assert.deepEqual(mock.cell.peers[0].services, ['files'])
  await page.getByRole('img', { name: 'QR code of the configuration of phone' }).waitFor()
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Download phone.conf' }).click()])
  assert.equal(download.suggestedFilename(), 'phone.conf')
  assert.equal(readFileSync(await download.path(), 'utf8').trim(), config.trim())
  await button('Copy configuration')
  assert.equal((await page.evaluate(() => navigator.clipboard.readText())).trim(), config.trim())
  await step('12-peer-ready')
  assert.ok(!(await page.evaluate(() => JSON.stringify([history.state, { ...localStorage }, { ...sessionStorage }]))).includes(secret), 'the key is kept nowhere')
  await button('Done')
  await heading('Peers')

  // The same name again is refused beside its field.
  await page.getByRole('link', { name: 'Add peer' }).click()
  await page.getByLabel('Name', { exact: true }).fill('phone')
  expected.push([409, '/api/peers'])
  await button('Review change')
  await page.getByText('there is already a peer "phone"').waitFor()
  assert.equal(await page.getByLabel('Name', { exact: true }).getAttribute('aria-invalid'), 'true')
  expected.length = 0
  await page.goto(`${mock.url}/peers`)

  // A second one, with a countdown; a third meanwhile is refused; confirm.
  await page.getByRole('link', { name: 'Add peer' }).click()
  await page.getByLabel('Name', { exact: true }).fill('laptop')
  await button('Review change')
  await page.getByLabel('Commit with a countdown').check()
  await page.getByLabel('Seconds to confirm').fill('5')
  await button('Commit')
  await page.getByText('10 to 3600 seconds.').waitFor()
  await page.getByLabel('Seconds to confirm').fill('120')
  await button('Commit')
  await heading('laptop is ready')
  const bar = page.getByRole('region', { name: 'Pending commit' })
  await bar.getByText('Revision 4 waits for confirmation').waitFor()
  await bar.getByRole('timer').filter({ hasText: /1[12]\d seconds left/ }).waitFor()
  await step('13-countdown')
  page.once('dialog', (d) => void d.accept())
  await button('Done')
  await page.getByRole('link', { name: 'phone' }).click()
  await heading('phone')
  await page.getByLabel('Guest').check()
  await button('Review change')
  expected.push([409, '/api/peers/phone'])
  await page.getByRole('button', { name: 'Commit', exact: true }).click()
  await page.getByText('Revision 4 by admin waits for confirmation').waitFor()
  await step('14-commit-refused')
  await bar.getByRole('button', { name: 'Confirm' }).click()
  await bar.waitFor({ state: 'detached' })
  assert.equal(mock.cell.revisions.at(-1).status, 'committed')

  // The same change would lock this page out: offered with a countdown, then reverted by hand.
  mock.cell.refuseNext = new mock.Refusal(409, 'confirm_required', 'this would cut off your connection')
  await page.getByRole('button', { name: 'Commit', exact: true }).click()
  await page.getByRole('button', { name: 'Commit with a 60 s countdown' }).click()
  await bar.getByText('Revision 5 waits for confirmation').waitFor()
  await bar.getByRole('button', { name: 'Revert' }).click()
  await bar.waitFor({ state: 'detached' })
  assert.equal(mock.cell.revisions.at(-1).status, 'reverted')
  assert.equal(mock.cell.peers.find((p) => p.name === 'phone').trust, 'family')
  expected.length = 0

  // The list, with one online; search by keyboard.
  Object.assign(mock.cell.peers[0], { online: true, endpoint: '192.0.2.77:40211', last_handshake: new Date(Date.now() - 42_000).toISOString(), rx_bytes: 18_874_368, tx_bytes: 402_653_184 })
  Object.assign(mock.cell.peers[1], { last_handshake: new Date(Date.now() - 7_200_000).toISOString(), rx_bytes: 1_048_576, tx_bytes: 2_201_600 })
  await nav('Peers')
  await page.reload()
  await page.getByText('online', { exact: true }).waitFor()
  await step('15-peers')
  await page.getByLabel('Search peers').fill('lap')
  await page.getByText('1 peer', { exact: true }).waitFor()
  await page.getByRole('link', { name: 'laptop' }).click()
  await heading('laptop')
  await step('16-peer-edit')

  // Someone else changes it meanwhile: refused, nothing overwritten.
  mock.cell.peers = mock.cell.peers.map((p) => (p.name === 'laptop' ? { ...p, note: 'by someone else' } : p))
  mock.cell.revisions.push({ number: 6, parent: mock.cell.running, time: new Date().toISOString(), author: { name: 'eve', via: 'api', address: '' }, message: 'change peer laptop', status: 'committed', peers: mock.cell.peers })
  mock.cell.running = 6
  await page.getByLabel('Guest').check()
  await button('Review change')
  expected.push([412, '/api/peers/laptop'])
  await button('Commit')
  await page.getByText('Someone changed this in the meantime').waitFor()
  assert.equal(mock.cell.peers.find((p) => p.name === 'laptop').note, 'by someone else')
  expected.length = 0
  await page.goto(`${mock.url}/peers/laptop`)
  await heading('laptop')

  // What was saved is what the form shows next, at once.
  await page.getByText('More settings').click()
  await page.getByLabel('Note').fill('on the sofa')
  await button('Review change')
  await button('Commit')
  await heading('Peers')
  await page.getByRole('link', { name: 'laptop' }).click()
  await heading('laptop')
  await page.getByText('More settings').click()
  assert.equal(await page.getByLabel('Note').inputValue(), 'on the sofa')

  // There and back again at once: what the cache holds is fresh, and the form opens all the same. Twice, as an event may
  // have made the cache stale in between.
  for (let i = 0; i < 2; i++) {
    await page.getByRole('link', { name: 'Peers' }).last().click()
    await heading('Peers')
    await page.getByRole('link', { name: 'laptop' }).click()
    await page.getByText('More settings').waitFor()
  }

  // Remove: what it cuts off, and the password again.
  await page.getByRole('link', { name: 'Remove peer' }).click()
  await page.getByText('laptop loses the tunnel').waitFor()
  await step('17-peer-remove')
  mock.cell.reauth = true
  expected.push([401, '/api/'])
  await button('Remove laptop')
  const dialog = page.getByRole('dialog', { name: 'Confirm that it is you' })
  await dialog.getByLabel('Password', { exact: true }).fill('wrong')
  await dialog.getByRole('button', { name: 'Confirm' }).click()
  await dialog.getByText('That is not the password.').waitFor()
  await step('18-reauth')
  await dialog.getByLabel('Password', { exact: true }).fill(password)
  await dialog.getByRole('button', { name: 'Confirm' }).click()
  await heading('Peers')
  expected.length = 0
  assert.deepEqual(mock.cell.peers.map((p) => p.name), ['phone'])

  // History, a diff, a rollback with a countdown that nobody confirms.
  await nav('History')
  await page.getByText('remove peer laptop').waitFor()
  await step('19-history')
  await page.getByRole('link', { name: '4', exact: true }).click()
  await heading('Revision 4')
  await page.getByText('laptop.peers.home.internal').first().waitFor()
  await step('20-revision')
  await page.getByRole('link', { name: 'Roll back to this' }).click()
  await heading('Roll back to revision 4')
  await page.getByLabel('Commit with a countdown').check()
  await page.getByLabel('Seconds to confirm').fill('10')
  await step('21-rollback')
  await button('Roll back to this')
  await bar.getByText('Revision 9 waits for confirmation').waitFor()
  await heading('History')
  await bar.waitFor({ state: 'detached', timeout: 20_000 })
  await page.getByText('reverted by itself').filter({ visible: true }).waitFor()
  assert.deepEqual(mock.cell.peers.map((p) => p.name), ['phone'])
  await step('22-history-reverted')

  // Exits: from a pasted file, a line that is refused, a test, a changed host key, off, removed.
  await nav('Exits')
  await page.getByText('No exit yet').waitFor()
  await step('22c-exits-empty')
  await page.getByRole('link', { name: 'Add exit' }).first().click()
  await heading('Add exit')
  await page.getByText('Tor', { exact: true }).click()
  await page.getByText('apt install tor').waitFor()
  await page.getByText('WireGuard', { exact: true }).click()
  await page.getByLabel('Name').fill('Nl')
  const file = '[Interface]\nPrivateKey = x\nDNS = search\n'
  await page.getByLabel('WireGuard configuration').fill(`${file}PostUp = rm -rf /\n`)
  await page.getByText('PostUp runs a command on the cell, which').waitFor()
  await step('22d-exit-new')
  expected.push([422, '/api/connectivity/exits'])
  await button('Review change')
  await page.getByText('line 4: PostUp runs a command on the cell', { exact: true }).waitFor()
  await page.locator('input[type=file]').setInputFiles({ name: 'nl.conf', mimeType: 'text/plain', buffer: Buffer.from(file) })
  await page.getByText('PostUp runs a command on the cell, which').waitFor({ state: 'detached' })
  await button('Review change')
  await page.getByText('What changes on the machine').waitFor()
  await button('Commit')
  await heading('Exits')
  await page.getByText('31 ms').waitFor()
  expected.length = 0
  Object.assign(mock.cell.exits[0], { used_by: ['peer phone'], state: 'blocked', reason: 'the server shows another host key', pending_host_key: { key: 'ssh-ed25519 AAAA', fingerprint: 'SHA256:abcdefghijklmnopqrstuvwxyz' } })
  await page.getByRole('link', { name: 'Nl', exact: true }).click()
  await heading('Nl')
  await page.getByText('SHA256:abcdefghijklmnopqrstuvwxyz').waitFor()
  await button('Test now')
  await page.getByText('the internet sees 198.51.100.50').waitFor()
  await step('22e-exit')
  await button('Accept the new key')
  await page.getByText('What changes on the machine').waitFor()
  await button('Accept the new key')
  await page.getByText('SHA256:abcdefghijklmnopqrstuvwxyz').waitFor({ state: 'detached' })
  await button('Switch off')
  await page.getByText('What changes on the machine').waitFor()
  await button('Switch off')
  await button('Switch on')
  await page.goto(`${mock.url}/peers/phone`)
  await page.getByLabel('Leaves by').selectOption({ label: 'Nl' })
  await step('22f-peer-exit')
  await page.goto(`${mock.url}/exits/nl`)
  await page.getByLabel('Those who use it then leave by').selectOption('direct')
  await button('Remove exit')
  await page.getByText('What changes on the machine').waitFor()
  await button('Remove exit')
  await page.getByText('No exit yet').waitFor()

  // The path explainer, by link too; policy tests.
  await nav('Firewall')
  await heading('Firewall')
  await page.getByText('phone cannot reach files').first().waitFor()
  await step('22a-firewall')
  await page.getByLabel('From').fill('phone')
  await page.getByLabel('To', { exact: true }).fill('https://example.com')
  await button('Explain')
  await page.getByText('It gets through.').waitFor()
  await page.getByText('its source 10.17.0.2 has the mark 0x10').waitFor()
  assert.equal(new URL(page.url()).searchParams.get('to'), 'https://example.com')
  await step('22b-explained')
  await page.goto(`${mock.url}/firewall?from=phone&to=files`)
  await page.getByText('It does not get through.').waitFor()
  expected.push([422, '/api/explain'])
  await page.getByLabel('To', { exact: true }).fill('nowhere')
  await button('Explain')
  await page.getByText('there is no "nowhere"').waitFor()
  await page.getByLabel('Tests, one a line').fill('phone cannot reach files\nphone reaches internet')
  await button('Review change')
  await page.getByText('What changes on the machine').waitFor()
  await button('Commit')
  await page.getByText('phone reaches internet').first().waitFor()
  assert.deepEqual(mock.cell.policy.map((r) => r.assertion), ['phone cannot reach files', 'phone reaches internet'])
  expected.length = 0

  // Account, trust, German, and a session that ends under one's feet.
  await nav('Account')
  await page.getByText('this one').waitFor()
  expected.push([401, '/api/auth/change-password'])
  await page.getByLabel('Current password').fill('not this one')
  await page.getByLabel('New password').fill('eleven brown mountains')
  await page.getByLabel('Repeat the password').fill('eleven brown mountains')
  await button('Change password')
  await page.getByText('That is not the password.').waitFor()
  expected.length = 0
  await step('23-account')
  await page.getByRole('link', { name: 'Certificate authority' }).click()
  await page.getByText('Fingerprint of the authority').waitFor()
  await page.getByText('Android', { exact: true }).click()
  await step('24-trust')
  await page.goto(`${mock.url}/account`)
  await page.getByLabel('Language').last().selectOption('de')
  await page.getByText('Kennwort ändern').first().waitFor()
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'de')
  await page.goto(`${mock.url}/peers/new`)
  await page.getByRole('heading', { level: 1, name: 'Gerät hinzufügen' }).waitFor()
  await step('25-german')
  await page.goto(`${mock.url}/`)
  await page.getByRole('heading', { level: 1, name: 'Überblick' }).waitFor()
  await step('26-german-overview')
  expected.push([401, '/api/'])
  mock.endSessions()
  await page.getByRole('navigation').filter({ visible: true }).getByRole('link', { name: 'Verlauf' }).click()
  await page.getByText('Die Sitzung ist zu Ende').waitFor()
  assert.equal(new URL(page.url()).searchParams.get('next'), '/history')
  await step('27-session-ended')

  // Restarted with a damaged state: nothing is offered but what to do, in every place; it goes on by itself.
  expected.push([503, '/api/'])
  mock.cell.recovered = true
  for (const path of ['/login', '/setup', '/', '/peers/new']) {
    await page.goto(`${mock.url}${path}`)
    await page.getByRole('heading', { level: 1, name: 'Der gespeicherte Zustand dieser Zelle ist beschädigt' }).waitFor()
    assert.deepEqual(await page.getByRole('button').allTextContents(), ['Kopieren', 'Kopieren'], path)
    assert.equal(await page.getByRole('textbox').count(), 0, path)
  }
  await step('28-german-recovered')
  await page.getByLabel('Sprache').selectOption('en')
  await heading('The stored state of this cell was damaged')
  await page.getByText('sudo pic recover').waitFor()
  await step('29-recovered')
  await page.getByLabel('Language').selectOption('de')
  mock.cell.recovered = false
  await page.getByRole('heading', { level: 1, name: 'Anmelden' }).waitFor()
  expected.length = 0
  expected.push([401, '/api/'])
  await page.goto(`${mock.url}/history`)
  await page.waitForURL('**/login?**')

  // Keyboard only: the skip link is the first stop and goes to the content.
  await page.getByLabel('Benutzername').fill('admin')
  await page.getByLabel('Kennwort', { exact: true }).fill(password)
  await page.keyboard.press('Enter')
  await page.waitForURL('**/history')
  await page.reload()
  await page.getByRole('heading', { level: 1, name: 'Verlauf' }).waitFor()
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('href')), '#main')
  await page.keyboard.press('Enter')
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'main')

  assert.deepEqual(bad, [], 'console')
  await context.close()
  await mock.stop()
}

let failed = false
for (const variant of variants) {
  const start = Date.now()
  try {
    await run(variant)
    console.log(`ok   ${variant.name} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
  } catch (error) {
    failed = true
    console.log(`FAIL ${variant.name}: ${error.message}`)
    const page = browser.contexts().at(-1)?.pages()[0]
    await page?.screenshot({ path: join(shots, `${variant.name}-failed.png`), fullPage: true })
  }
}
await browser.close()
console.log(`${checks} pages checked, screenshots in ${shots}`)
process.exit(failed ? 1 : 0)
