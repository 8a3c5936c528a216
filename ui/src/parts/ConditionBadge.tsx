import type { Condition, Notice, RevisionInfo } from '../api/types'
import { useTranslation } from '../i18n'
import { Icon, type IconName } from './Icon'
import { Time } from './Time'

const looks = {
  'in-sync': ['badge-ok', 'check'],
  pending: ['badge-warn', 'pending'],
  failed: ['badge-alarm', 'alarm'],
} as const satisfies Record<string, readonly [string, IconName]>

function stateOf(c: Condition): keyof typeof looks {
  return c.state in looks ? (c.state as keyof typeof looks) : 'pending'
}

/** Whether a stage has reached what is wanted; with its reason and since when, unless `compact`. */
export function ConditionBadge({ condition: c, compact = false }: { condition: Condition; compact?: boolean }) {
  const { t } = useTranslation()
  const state = stateOf(c)
  const [style, icon] = looks[state]
  const badge = (
    <span className={`badge ${style}`}>
      <Icon name={icon} size={13} />
      {t(`condition.${state}`)}
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
} as const satisfies Record<string, readonly [string, IconName]>

export function SeverityMark({ notice }: { notice: Notice }) {
  const { t } = useTranslation()
  const severity = notice.severity in severities ? (notice.severity as keyof typeof severities) : 'info'
  const [style, icon] = severities[severity]
  return (
    <span className={`${style} mt-0.5 inline-flex`}>
      <Icon name={icon} />
      <span className="sr-only">{t(`severity.${severity}`)}</span>
    </span>
  )
}

const revisionLooks = {
  committed: '',
  pending: 'badge-warn',
  failed: 'badge-alarm',
  reverted: '',
  'auto-reverted': 'badge-warn',
} as const

export function RevisionBadge({ revision: r }: { revision: RevisionInfo }) {
  const { t } = useTranslation()
  if (!(r.status in revisionLooks)) return <span className="badge pl-[0.55rem]">{r.status}</span>
  const status = r.status as keyof typeof revisionLooks
  return <span className={`badge ${revisionLooks[status]} pl-[0.55rem]`}>{t(`history.status.${status}`)}</span>
}
