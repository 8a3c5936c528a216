import { useMemo } from 'react'
import type { Cut, Preview, SettingChange } from '../api/types'
import { countChanges, parseDiff } from '../diff'
import { useTranslation } from '../i18n'
import { Icon } from './Icon'

/** What a change does, before or after it is made: what it cuts off, each plan in its own notation, and the settings. */
export function PlanDiff({ preview, cuts = true }: { preview: Preview; cuts?: boolean }) {
  const { t } = useTranslation()
  const plans = (preview.plans ?? []).filter((p) => p.diff !== '')
  const settings = preview.settings ?? []
  return (
    <div className="flex flex-col gap-5">
      {cuts && <Cuts cuts={preview.cuts ?? []} />}
      <section>
        <h2 className="mb-2">{t('review.plans')}</h2>
        {plans.length === 0 && <p className="text-soft">{t('review.noPlans')}</p>}
        <div className="flex flex-col gap-3">
          {plans.map((p) => (
            <StageDiff key={p.stage} stage={p.stage} diff={p.diff} />
          ))}
        </div>
      </section>
      <section>
        <h2 className="mb-2">{t('review.settings')}</h2>
        {settings.length === 0 ? <p className="text-soft">{t('review.noSettings')}</p> : <Settings changes={settings} />}
      </section>
    </div>
  )
}

export function Cuts({ cuts }: { cuts: Cut[] }) {
  const { t } = useTranslation()
  if (cuts.length === 0) {
    return (
      <p className="flex items-center gap-2 text-soft">
        <Icon name="check" className="text-ok" />
        {t('review.noCuts')}
      </p>
    )
  }
  return (
    <section className="rounded-lg border border-warn bg-warn-wash px-4 py-3">
      <h2 className="mb-1.5 flex items-center gap-2 text-warn">
        <Icon name="cut" />
        {t('review.cuts')}
      </h2>
      <ul className="flex flex-col gap-1">
        {cuts.map((c) => (
          <li key={c.kind + c.subject + c.text} className="flex flex-wrap gap-x-2 break-words">
            <span className="font-medium text-warn">{c.kind}</span>
            <span className="min-w-0 break-words">{c.text}</span>
          </li>
        ))}
      </ul>
    </section>
  )
}

function StageDiff({ stage, diff }: { stage: string; diff: string }) {
  const { t } = useTranslation()
  const rows = useMemo(() => parseDiff(diff), [diff])
  const { added, removed } = countChanges(rows)
  const label = { add: t('diff.added'), del: t('diff.removed'), same: t('diff.unchanged') }
  return (
    <details open className="card overflow-hidden">
      <summary className="flex cursor-pointer items-center gap-3 px-4 py-2.5 font-medium">
        <span>{stage}</span>
        <span className="num ml-auto font-normal text-soft">{t('diff.counts', { added, removed })}</span>
      </summary>
      {/* Scrolls sideways on its own, so it must be reachable by keyboard. */}
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <div role="region" aria-label={t('diff.of', { stage })} tabIndex={0} className="max-h-[28rem] overflow-auto border-t border-line focus-visible:-outline-offset-2">
        <table className="diff">
          <thead className="sr-only">
            <tr>
              <th scope="col">{t('diff.line')}</th>
              <th scope="col">{t('diff.change')}</th>
              <th scope="col">{t('diff.text')}</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row, i) =>
              row.kind === 'hunk' ? (
                // oxlint-disable-next-line react/no-array-index-key -- rows never move
                <tr key={i} className="hunk">
                  <td colSpan={3}>{row.text}</td>
                </tr>
              ) : (
                // oxlint-disable-next-line react/no-array-index-key -- rows never move
                <tr key={i} className={row.kind}>
                  <td className="no">{row.after ?? row.before}</td>
                  <td className="mark">
                    <span aria-hidden="true">{{ add: '+', del: '−', same: '' }[row.kind]}</span>
                    <span className="sr-only">{label[row.kind]}</span>
                  </td>
                  <td className="w-full">{row.text}</td>
                </tr>
              ),
            )}
          </tbody>
        </table>
      </div>
    </details>
  )
}

function show(value: unknown): string {
  if (value === undefined || value === null) return '–'
  return typeof value === 'string' ? value : JSON.stringify(value, null, 1)
}

function Settings({ changes }: { changes: SettingChange[] }) {
  const { t } = useTranslation()
  return (
    <ul className="card divide-y divide-line">
      {changes.map((c) => (
        <li key={c.pointer} className="grid gap-x-4 gap-y-1 px-4 py-2.5 sm:grid-cols-[minmax(0,2fr)_minmax(0,3fr)_minmax(0,3fr)]">
          <code className="break-all">{c.pointer}</code>
          <Value kind="del" label={t('review.before')} value={c.before} />
          <Value kind="add" label={t('review.after')} value={c.after} />
        </li>
      ))}
    </ul>
  )
}

function Value({ kind, label, value }: { kind: 'add' | 'del'; label: string; value: unknown }) {
  const empty = value === undefined || value === null
  return (
    <div className="min-w-0 text-[0.93rem]">
      <span className="mr-2 text-faint">{label}</span>
      <code className={`break-all whitespace-pre-wrap ${empty ? 'text-faint' : kind === 'add' ? 'text-ok' : 'text-alarm'}`}>{show(value)}</code>
    </div>
  )
}
