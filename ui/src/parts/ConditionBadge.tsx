import type { Condition, Notice, RevisionInfo } from '../api/types'
import { useTranslation } from '../i18n'
import { Icon, type IconName } from './Icon'
import { Time } from './Time'

const looks = {
  'in-sync': ['badge-ok', 'check'],
  pending: ['badge-warn', 'pending'],
  failed: ['badge-alarm', 'alarm'],
} as const satisfies Record<Condition['state'], readonly [string, IconName]>

/** Whether a stage has reached what is wanted; with its reason and since when, unless `compact`. */
export function ConditionBadge({ condition: c, compact = false }: { condition: Condition; compact?: boolean }) {
  const { t } = useTranslation()
  const [style, icon] = looks[c.state]
  const badge = (
    <span className={`badge ${style}`}>
      <Icon name={icon} size={13} />
      {t(`condition.${c.state}`)}
    </span>
  )
  if (compact) return badge
  return (
    <div className="flex min-w-0 flex-wrap items-center gap-x-3 gap-y-1">
      {badge}
      <span className="text-[0.93rem] text-faint">
        <Time at={c.since} />
      </span>
      {c.reason && <p className="basis-full break-words text-soft">{c.reason}</p>}
    </div>
  )
}

const severities = {
  info: ['text-accent', 'info'],
  warning: ['text-warn', 'warning'],
  alarm: ['text-alarm', 'alarm'],
} as const satisfies Record<Notice['severity'], readonly [string, IconName]>

export function SeverityMark({ severity }: { severity: Notice['severity'] }) {
  const { t } = useTranslation()
  const [style, icon] = severities[severity]
  return (
    <span className={`${style} mt-0.5 inline-flex`}>
      <Icon name={icon} />
      <span className="sr-only">{t(`severity.${severity}`)}</span>
    </span>
  )
}

const revisionLooks: Record<RevisionInfo['status'], string> = {
  committed: '',
  pending: 'badge-warn',
  failed: 'badge-alarm',
  reverted: '',
  'auto-reverted': 'badge-warn',
}

export function RevisionBadge({ status }: { status: RevisionInfo['status'] }) {
  const { t } = useTranslation()
  return <span className={`badge ${revisionLooks[status]} pl-[0.55rem]`}>{t(`history.status.${status}`)}</span>
}
