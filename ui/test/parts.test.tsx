import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { act, fireEvent, render, screen, waitFor, within } from '@testing-library/react'
import type { ReactNode } from 'react'
import { afterEach, expect, test, vi } from 'vitest'
import { ApiError } from '../src/api/problem'
import { status } from '../src/api/queries'
import type { Preview, Status } from '../src/api/types'
import { LanguageProvider } from '../src/i18n'
import { de } from '../src/i18n/de'
import { en } from '../src/i18n/en'
import { Announcer } from '../src/parts/announce'
import { CommitBar } from '../src/parts/CommitBar'
import { PlanDiff } from '../src/parts/PlanDiff'
import { RecoveredBanner, RecoveredPage } from '../src/parts/Recovered'
import { Review } from '../src/parts/Review'

const queries = new QueryClient({ defaultOptions: { queries: { retry: false } } })
const show = (children: ReactNode) =>
  render(
    <LanguageProvider first={{ language: 'en', words: en }}>
      <QueryClientProvider client={queries}>
        {children}
        <Announcer />
      </QueryClientProvider>
    </LanguageProvider>,
  )

const preview: Preview = {
  dry_run: true,
  base: 41,
  plans: [
    { stage: 'tunnel', diff: '--- tunnel\n+++ tunnel\n@@ -1,2 +1,2 @@\n [Peer]\n-PublicKey = old\n+PublicKey = new\n' },
    { stage: 'dns', diff: '' },
  ],
  settings: [{ pointer: '/peers/0/public_key', op: 'replace', before: 'old', after: 'new' }],
  cuts: [{ kind: 'peer', subject: 'phone', text: 'phone needs a new configuration' }],
}

afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  queries.clear()
})

test('PlanDiff says in words what is added and removed, and leaves out plans that stay', () => {
  show(<PlanDiff preview={preview} />)
  const region = screen.getByRole('region', { name: 'Changes of tunnel' })
  const rows = within(region).getAllByRole('row').map((r) => within(r).queryAllByRole('cell').map((c) => c.textContent))
  expect(rows.slice(1)).toEqual([['@@ -1,2 +1,2 @@'], ['1', 'unchanged', '[Peer]'], ['2', '−removed', 'PublicKey = old'], ['2', '+added', 'PublicKey = new']])
  expect(screen.queryByRole('region', { name: 'Changes of dns' })).toBeNull()
  expect(screen.getByText('phone needs a new configuration')).toBeTruthy()
})

test('Review sends what was chosen, with the base that was reviewed', async () => {
  const commit = vi.fn().mockResolvedValue({ data: null, revision: 42, confirmBy: '' })
  const done = vi.fn()
  show(<Review preview={preview} commit={commit} onDone={done} />)
  fireEvent.click(screen.getByLabelText('Commit with a countdown'))
  fireEvent.change(screen.getByLabelText('Seconds to confirm'), { target: { value: '9' } })
  fireEvent.click(screen.getByRole('button', { name: 'Commit' }))
  expect(commit).not.toHaveBeenCalled()
  fireEvent.change(screen.getByLabelText('Seconds to confirm'), { target: { value: '90' } })
  fireEvent.click(screen.getByRole('button', { name: 'Commit' }))
  await waitFor(() => expect(done).toHaveBeenCalledOnce())
  expect(commit).toHaveBeenCalledExactlyOnceWith({ ifMatch: '"41"', confirmWithin: 90 })
})

test('a change that cuts off its author is offered with a countdown', async () => {
  const commit = vi
    .fn()
    .mockRejectedValueOnce(new ApiError(409, { code: 'confirm_required' }))
    .mockResolvedValueOnce({ data: null, revision: 42, confirmBy: '2026-11-24T14:00:00Z' })
  const done = vi.fn()
  show(<Review preview={preview} commit={commit} onDone={done} />)
  fireEvent.click(screen.getByRole('button', { name: 'Commit' }))
  fireEvent.click(await screen.findByRole('button', { name: 'Commit with a 60 s countdown' }))
  await waitFor(() => expect(done).toHaveBeenCalledOnce())
  expect(commit.mock.calls.map(([o]) => o.confirmWithin)).toEqual([undefined, 60])
})

test('CommitBar counts down, speaks at marks only, and closes its buttons at zero', async () => {
  vi.useFakeTimers({ now: Date.parse('2026-11-24T14:00:00Z') })
  vi.stubGlobal('fetch', vi.fn().mockRejectedValue(new TypeError('offline')))
  queries.setQueryData(status.queryKey, {
    pending: { revision: 7, author: { name: 'eve', via: 'session', address: '' }, message: 'add peer tv', confirm_by: '2026-11-24T14:00:32Z' },
  } as Status)
  show(<CommitBar />)
  const spoken = () => screen.getAllByRole('status').map((s) => s.textContent?.trim()).join('')
  const pass = (seconds: number) => act(() => vi.advanceTimersByTimeAsync(seconds * 1000))
  expect(screen.getByRole('timer').textContent).toBe('32 seconds left')
  expect(screen.getByText('by eve: add peer tv')).toBeTruthy()
  await pass(2)
  expect(spoken()).toBe('Revision 7 waits for confirmation: 30 seconds left.')
  await pass(5)
  expect(screen.getByRole('timer').textContent).toBe('25 seconds left')
  expect(spoken()).toContain('30 seconds')
  await pass(26)
  expect(screen.queryByRole('timer')).toBeNull()
  expect(screen.getByRole('button', { name: 'Confirm' })).toHaveProperty('disabled', true)
})

test('a recovered cell says what to do, in both languages, and is looked at again', () => {
  vi.useFakeTimers()
  for (const [language, words] of [['en', en], ['de', de]] as const) {
    const retry = vi.fn()
    const { unmount } = render(
      <LanguageProvider first={{ language, words }}>
        <RecoveredPage onRetry={retry} />
      </LanguageProvider>,
    )
    expect(screen.getByRole('heading', { level: 1 }).textContent).toBe(words['recovered.title'])
    expect(within(screen.getByRole('alert')).getByText(words['recovered.closed'])).toBeTruthy()
    expect(screen.getByText('sudo pic recover')).toBeTruthy()
    expect(screen.queryByRole('textbox')).toBeNull()
    act(() => void vi.advanceTimersByTime(16_000))
    expect(retry).toHaveBeenCalledTimes(3)
    unmount()
    act(() => void vi.advanceTimersByTime(16_000))
    expect(retry).toHaveBeenCalledTimes(3)
  }
  show(<RecoveredBanner />)
  expect(screen.getByRole('alert').textContent).toContain('sudo pic recover')
})
