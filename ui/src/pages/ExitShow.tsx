import { useMutation, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { useNavigate, useParams } from 'react-router'
import type { CommitOptions, Outcome } from '../api/client'
import { acceptHostKey, exit as exitQuery, exits, previewHostKey, previewRemoveExit, previewUpdateExit, removeExit, testExit, updateExit } from '../api/queries'
import type { Exit, ExitTest, Preview } from '../api/types'
import { useTranslation } from '../i18n'
import { bytes } from '../i18n/format'
import { ErrorSummary } from '../parts/ErrorSummary'
import { ExitState } from '../parts/ExitState'
import { SelectField } from '../parts/Field'
import { Icon } from '../parts/Icon'
import { Loading, Page } from '../parts/Page'
import { Review } from '../parts/Review'
import { Time } from '../parts/Time'

type Draft = { preview: Preview; commit: (o: CommitOptions) => Promise<Outcome<unknown>>; gone: boolean; submit: string }

export function ExitShow() {
  const { id = '' } = useParams()
  const { t } = useTranslation()
  const navigate = useNavigate()
  const [draft, setDraft] = useState<Draft | null>(null)
  // What is being removed is not asked for once more.
  const it = useQuery({ ...exitQuery(id), enabled: !draft?.gone })
  return (
    <Page title={it.data?.data.name || id} back={{ to: '/exits', label: t('exits.title') }}>
      {it.error && !it.data && <ErrorSummary error={it.error} onRetry={() => void it.refetch()} />}
      {it.isPending && <Loading />}
      {draft ? (
        <Review
          preview={draft.preview}
          commit={draft.commit}
          submit={draft.submit}
          danger={draft.gone}
          onBack={() => setDraft(null)}
          onDone={() => {
            if (draft.gone) void navigate('/exits', { replace: true })
            else setDraft(null)
          }}
        />
      ) : (
        it.data && <Body exit={it.data.data} onDraft={setDraft} />
      )}
    </Page>
  )
}

function Body({ exit: e, onDraft }: { exit: Exit; onDraft: (d: Draft) => void }) {
  const { t, locale } = useTranslation()
  const list = useQuery(exits)
  const [moveTo, setMoveTo] = useState('block')
  const others = (list.data ?? []).filter((x) => x.id !== e.id)
  const test = useMutation({ mutationFn: () => testExit(e.id) })
  const change = useMutation({ mutationFn: (make: () => Promise<Draft>) => make(), onSuccess: onDraft })
  const key = e.pending_host_key

  const toggle = async (): Promise<Draft> => {
    const body = { enabled: !e.enabled }
    return { preview: (await previewUpdateExit(e.id, body)).data, commit: (o) => updateExit(e.id, body, o), gone: false, submit: e.enabled ? t('exit.off') : t('exit.on') }
  }
  const remove = async (): Promise<Draft> => {
    const to = e.used_by.length > 0 ? moveTo : undefined
    return { preview: (await previewRemoveExit(e.id, to)).data, commit: (o) => removeExit(e.id, to, o), gone: true, submit: t('exit.remove') }
  }
  const accept = async (k: string): Promise<Draft> => ({ preview: (await previewHostKey(e.id, k)).data, commit: (o) => acceptHostKey(e.id, k, o), gone: false, submit: t('exit.hostKey.accept') })

  return (
    <div className="flex flex-col gap-6">
      <ErrorSummary error={change.error ?? test.error} />
      <section className="card">
        <div className="card-head">
          <h2>{t(`exit.type.${e.type}`)}</h2>
          <ExitState exit={e} />
        </div>
        {e.reason && <p className={`px-5 pt-4 ${e.state === 'blocked' ? 'text-alarm' : 'text-soft'}`}>{e.reason}</p>}
        <dl className="dl px-5 py-4">
          <dt>{t('exit.server')}</dt>
          <dd>
            <code>{server(e)}</code>
          </dd>
          <dt>{t('exit.publicAddress')}</dt>
          <dd>{[e.public_address4, e.public_address6].filter(Boolean).join(', ') || t('exit.unknown')}</dd>
          <dt>{t('exit.carries')}</dt>
          <dd>{['TCP', e.udp ? 'UDP' : '', e.v6 ? 'IPv6' : ''].filter(Boolean).join(', ')}</dd>
          <dt>{t('overview.traffic')}</dt>
          <dd className="num">{t('exit.traffic', { rx: bytes(locale, e.rx_bytes), tx: bytes(locale, e.tx_bytes) })}</dd>
          <dt>{t('exit.leaked')}</dt>
          <dd className="num">{e.leaked_packets}</dd>
          <dt>{t('exit.users')}</dt>
          <dd>{e.used_by.join(', ') || t('exit.unused')}</dd>
          {e.since && (
            <>
              <dt>{t('exit.since')}</dt>
              <dd>
                <Time at={e.since} />
              </dd>
            </>
          )}
          {e.ssh?.host_key_fingerprint && (
            <>
              <dt>{t('exit.hostKey')}</dt>
              <dd>
                <code>{e.ssh.host_key_fingerprint}</code>
              </dd>
            </>
          )}
        </dl>
        <div className="flex flex-wrap gap-3 border-t border-line px-5 py-3">
          <button type="button" className="btn" disabled={test.isPending || !e.enabled} onClick={() => test.mutate()}>
            {test.isPending ? t('exit.testing') : t('exit.test')}
          </button>
          <button type="button" className="btn" disabled={change.isPending} onClick={() => change.mutate(toggle)}>
            {e.enabled ? t('exit.off') : t('exit.on')}
          </button>
        </div>
        {test.data && <Tested result={test.data} />}
      </section>
      {key && (
        <section className="card flex flex-col gap-3 p-5">
          <h2 className="text-alarm">{t('exit.hostKey.changed')}</h2>
          <p>{t('exit.hostKey.text')}</p>
          <code className="break-all">{key.fingerprint}</code>
          <div>
            <button type="button" className="btn btn-danger" disabled={change.isPending} onClick={() => change.mutate(() => accept(key.key))}>
              {t('exit.hostKey.accept')}
            </button>
          </div>
        </section>
      )}
      <section className="card flex flex-col gap-4 p-5">
        <h2>{t('exit.remove')}</h2>
        {e.used_by.length > 0 && (
          <SelectField label={t('exit.moveTo')} hint={t('exit.moveTo.hint')} className="max-w-64" value={moveTo} onChange={(x) => setMoveTo(x.currentTarget.value)}>
            <option value="block">{t('exit.block')}</option>
            <option value="direct">{t('exit.direct')}</option>
            {others.map((x) => (
              <option key={x.id} value={x.id}>
                {x.name || x.id}
              </option>
            ))}
          </SelectField>
        )}
        <div>
          <button type="button" className="btn text-alarm" disabled={change.isPending} onClick={() => change.mutate(remove)}>
            <Icon name="trash" size={16} />
            {t('exit.remove')}
          </button>
        </div>
      </section>
    </div>
  )
}

/** Where the exit leads, for people. */
export function server(e: Exit): string {
  if (e.wireguard) return e.wireguard.endpoint
  if (e.openvpn) return e.openvpn.remotes.join(', ')
  if (e.ssh) return `${e.ssh.user}@${e.ssh.host}:${e.ssh.port}`
  if (e.proxy) return `${e.proxy.protocol}://${e.proxy.host}:${e.proxy.port}`
  if (e.tor) return e.tor.countries.length > 0 ? `tor (${e.tor.countries.join(', ')})` : 'tor'
  return ''
}

function Tested({ result }: { result: ExitTest }) {
  const { t } = useTranslation()
  return (
    <div role="status" className="flex flex-col gap-2 border-t border-line px-5 py-4">
      <p className={`flex items-center gap-2.5 font-medium ${result.ok ? 'text-ok' : 'text-alarm'}`}>
        <Icon name={result.ok ? 'check' : 'close'} size={18} />
        {result.ok ? t('exit.test.ok', { address: [result.public_address4, result.public_address6].filter(Boolean).join(', ') || '–', ms: Math.round(result.latency_ms) }) : t('exit.test.failed')}
      </p>
      <ul className="flex flex-col gap-1 text-soft">
        {result.checks.map((c) => (
          <li key={c.name}>
            {c.ok ? '✓' : '✗'} {c.name}
            {c.text && `: ${c.text}`}
          </li>
        ))}
      </ul>
    </div>
  )
}
