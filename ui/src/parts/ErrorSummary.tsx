import { useQuery } from '@tanstack/react-query'
import { useEffect, useRef } from 'react'
import { ApiError, type FieldError } from '../api/problem'
import { status } from '../api/queries'
import { useTranslation } from '../i18n'
import { Icon } from './Icon'

function useMessage() {
  const { t, plural } = useTranslation()
  return (error: unknown, pendingBy: { revision: number; who: string } | null): string => {
    if (!(error instanceof ApiError)) return t('error.unexpected', { message: error instanceof Error ? error.message : String(error) })
    switch (error.code) {
      case 'offline':
        return t('error.offline')
      case 'commit_pending':
        return pendingBy ? t('error.pendingBy', { n: pendingBy.revision, who: pendingBy.who }) : t('error.pending')
      case 'confirm_required':
        return t('error.confirmRequired')
      case 'precondition_failed':
        return t('error.precondition')
      case 'too_many':
        return plural('error.tooMany', Math.ceil(error.retryAfter || 60))
      case 'forbidden':
        return error.detail || t('error.forbidden')
      case 'misdirected':
        return t('error.misdirected')
      case 'not_found':
        return error.detail || t('error.notFound')
      default:
        return error.detail || t('error.unknown', { status: error.status })
    }
  }
}

/** What went wrong, in words and with what to do about it. Takes the focus, so that nobody misses it. */
export function ErrorSummary({ error, rest, onConfirmed, onRetry }: { error: unknown; rest?: FieldError[]; onConfirmed?: () => void; onRetry?: () => void }) {
  const { t } = useTranslation()
  const message = useMessage()
  const box = useRef<HTMLDivElement>(null)
  const isPending = error instanceof ApiError && error.code === 'commit_pending'
  const now = useQuery({ ...status, enabled: isPending })
  const pending = now.data?.pending

  useEffect(() => {
    if (error) box.current?.focus()
  }, [error])
  const refetch = now.refetch
  useEffect(() => {
    if (isPending) void refetch() // so that the CommitBar appears, whoever opened the commit
  }, [isPending, refetch])

  if (!error) return null
  const list = rest ?? (error instanceof ApiError ? error.errors : [])
  return (
    <div ref={box} role="alert" tabIndex={-1} className="rounded-lg border border-alarm bg-alarm-wash px-4 py-3 outline-none">
      <p className="flex gap-2.5 font-medium text-alarm">
        <Icon name="alarm" className="mt-0.5" />
        <span className="min-w-0 break-words">{message(error, pending ? { revision: pending.revision, who: pending.author.name } : null)}</span>
      </p>
      {list.length > 0 && (
        <ul className="mt-2 ml-7 list-disc text-ink">
          {list.map((e) => (
            <li key={e.pointer + e.message} className="break-words">
              {e.pointer && <code className="mr-2">{e.pointer}</code>}
              {e.message}
            </li>
          ))}
        </ul>
      )}
      {error instanceof ApiError && error.requestId !== '' && error.status >= 500 && <p className="mt-1 ml-7 text-soft">{t('error.request', { id: error.requestId })}</p>}
      {error instanceof ApiError && error.code === 'confirm_required' && onConfirmed && (
        <button type="button" className="btn mt-3 ml-7" onClick={onConfirmed}>
          {t('error.confirmRequired.act')}
        </button>
      )}
      {onRetry && (
        <button type="button" className="btn btn-small mt-3 ml-7" onClick={onRetry}>
          {t('app.retry')}
        </button>
      )}
    </div>
  )
}
