import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect, useRef } from 'react'
import { confirmCommit, revertCommit, status } from '../api/queries'
import type { Pending } from '../api/types'
import { passedMark, secondsLeft } from '../countdown'
import { useTranslation } from '../i18n'
import { announce } from './announce'
import { ErrorSummary } from './ErrorSummary'
import { Icon } from './Icon'
import { useNow } from './Time'

/** Stands on every page while a commit waits for confirmation. */
export function CommitBar() {
  const { data } = useQuery(status)
  return data?.pending ? <Bar key={data.pending.revision} pending={data.pending} /> : null
}

function Bar({ pending }: { pending: Pending }) {
  const { t, plural } = useTranslation()
  const queries = useQueryClient()
  const left = secondsLeft(pending.confirm_by, useNow(500))
  const before = useRef<number | null>(null)
  const over = left === 0

  useEffect(() => {
    const mark = passedMark(before.current, left)
    before.current = left
    if (mark !== null) announce(mark === 0 ? t('commit.reverting') : t('commit.announce', { n: pending.revision, left: plural('commit.left', mark) }))
  }, [left, pending.revision, t, plural])

  useEffect(() => {
    if (!over) return
    const timer = setInterval(() => void queries.invalidateQueries({ queryKey: status.queryKey }), 2_000)
    return () => clearInterval(timer)
  }, [over, queries])

  const settle = useMutation({
    mutationFn: (act: 'confirm' | 'revert') => (act === 'confirm' ? confirmCommit(pending.revision) : revertCommit(pending.revision)),
    onSuccess: (_, act) => announce(t(act === 'confirm' ? 'commit.confirmed' : 'commit.reverted', { n: pending.revision })),
    onSettled: () => queries.invalidateQueries({ predicate: (q) => q.queryKey[0] !== 'me' }),
  })

  return (
    <section aria-label={t('commit.region')} className="sticky top-0 z-30 border-b border-warn bg-warn-wash px-4 py-2.5 lg:px-8">
      <div className="mx-auto flex max-w-6xl flex-wrap items-center gap-x-4 gap-y-2">
        <Icon name="pending" className="text-warn" />
        <div className="min-w-0 flex-1 basis-56">
          <p className="font-semibold text-warn">{t('commit.waiting', { n: pending.revision })}</p>
          <p className="break-words text-[0.93rem] text-ink">{over ? t('commit.reverting') : t('commit.by', { who: pending.author.name, message: pending.message || t('history.noMessage') })}</p>
        </div>
        {!over && (
          <p role="timer" aria-live="off" className="num min-w-24 text-[1.07rem] font-semibold text-warn">
            {plural('commit.left', left)}
          </p>
        )}
        <div className="flex gap-2">
          <button type="button" className="btn btn-primary btn-small" disabled={over || settle.isPending} onClick={() => settle.mutate('confirm')}>
            {t('commit.confirm')}
          </button>
          <button type="button" className="btn btn-small" disabled={over || settle.isPending} onClick={() => settle.mutate('revert')}>
            {t('commit.revert')}
          </button>
        </div>
        {settle.error && (
          <div className="basis-full">
            <ErrorSummary error={settle.error} />
          </div>
        )}
      </div>
    </section>
  )
}
