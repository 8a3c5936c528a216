import type { Explanation } from '../api/types'
import { useTranslation, type Key } from '../i18n'
import { Icon } from './Icon'

const kinds: Record<string, Key & `trace.kind.${string}`> = {
  name: 'trace.kind.name',
  ingress: 'trace.kind.ingress',
  mark: 'trace.kind.mark',
  nat: 'trace.kind.nat',
  table: 'trace.kind.table',
  rule: 'trace.kind.rule',
  out: 'trace.kind.out',
  proxy: 'trace.kind.proxy',
}

/** The way of a flow through the cell, step by step, and the line of the settings that decided. */
export function PathTrace({ result }: { result: Explanation }) {
  const { t } = useTranslation()
  return (
    <div className="flex flex-col gap-4">
      <Verdict passes={result.passes} verdict={result.verdict} reason={result.reason} />
      {result.pointer && (
        <p className="text-soft">
          {t('trace.line')} <code className="break-all">{result.pointer}</code>
          {result.line && (
            <>
              {' '}
              <code className="break-all">{result.line}</code>
            </>
          )}
        </p>
      )}
      {result.names.length > 0 && <Steps steps={result.names} label={t('trace.names')} />}
      {result.paths.map((p) => (
        <section key={`${p.source} ${p.destination}`} className="flex flex-col gap-2">
          <h3 className="flex flex-wrap items-center gap-x-2 gap-y-1">
            <code className="break-all">{p.source}</code>
            <span aria-hidden="true">→</span>
            <span className="sr-only">{t('trace.to')}</span>
            <code className="break-all">{p.destination}</code>
            <span className="text-soft">
              {p.port ? `${p.port}/` : ''}
              {p.protocol}
            </span>
            <span className={`badge ${p.passes ? 'badge-ok' : 'badge-alarm'}`}>{p.verdict}</span>
          </h3>
          <Steps steps={p.steps} label={t('trace.steps', { to: p.destination })} />
          {!p.passes && <p className="text-soft">{p.reason}</p>}
        </section>
      ))}
    </div>
  )
}

function Verdict({ passes, verdict, reason }: { passes: boolean; verdict: string; reason: string }) {
  const { t } = useTranslation()
  return (
    <p role="status" className={`flex items-start gap-2.5 font-medium ${passes ? 'text-ok' : 'text-alarm'}`}>
      <Icon name={passes ? 'check' : 'close'} size={18} className="mt-0.5 shrink-0" />
      <span>
        {passes ? t('trace.passes') : t('trace.stops')} <span className="font-normal text-soft">{reason || verdict}</span>
      </span>
    </p>
  )
}

function Steps({ steps, label }: { steps: Explanation['names']; label: string }) {
  const { t } = useTranslation()
  return (
    <ol aria-label={label} className="flex flex-col">
      {steps.map((s, i) => {
        const kind = kinds[s.kind]
        return (
          <li key={`${i} ${s.text}`} className="grid grid-cols-[6.5rem_minmax(0,1fr)] gap-3 border-l-2 border-line py-1.5 pl-3 sm:grid-cols-[8rem_minmax(0,1fr)]">
            <span className="text-faint">{kind ? t(kind) : s.kind}</span>
            <span className="wrap-anywhere">
              {s.text}
              {s.pointer && <code className="ml-2 text-[0.86rem] break-all text-soft">{s.pointer}</code>}
            </span>
          </li>
        )
      })}
    </ol>
  )
}
