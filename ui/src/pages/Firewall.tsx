import { useMutation, useQuery } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { useNavigate, useSearchParams } from 'react-router'
import { explain, peers, policy, previewPolicy, putPolicy, services } from '../api/queries'
import type { ExplainQuery, PolicyResult, Preview } from '../api/types'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { SelectField, TextArea, TextField } from '../parts/Field'
import { Icon } from '../parts/Icon'
import { Loading, Page } from '../parts/Page'
import { PathTrace } from '../parts/PathTrace'
import { Review } from '../parts/Review'

export function Firewall() {
  const { t } = useTranslation()
  return (
    <Page title={t('firewall.title')}>
      <div className="flex flex-col gap-6">
        <Explainer />
        <Policy />
      </div>
    </Page>
  )
}

const protocols = ['tcp', 'udp', 'icmp'] as const
type Protocol = (typeof protocols)[number]

/** Asks what becomes of a flow. The question is in the address, so that an answer can be shown to somebody else. */
function Explainer() {
  const { t } = useTranslation()
  const [asked, setAsked] = useSearchParams()
  const peerList = useQuery(peers)
  const serviceList = useQuery(services)
  const [from, setFrom] = useState(asked.get('from') ?? '')
  const [to, setTo] = useState(asked.get('to') ?? '')
  const [protocol, setProtocol] = useState<Protocol>(protocols.find((p) => p === asked.get('protocol')) ?? 'tcp')
  const [port, setPort] = useState(asked.get('port') ?? '')

  const question: ExplainQuery | null = asked.get('from') && asked.get('to') ? query(asked.get('from')!, asked.get('to')!, asked.get('protocol') ?? '', asked.get('port') ?? '') : null
  const answer = useQuery({ queryKey: ['explain', question], queryFn: () => explain(question!), enabled: question !== null, staleTime: 0, retry: false })

  const submit = (e: FormEvent) => {
    e.preventDefault()
    const next = new URLSearchParams({ from: from.trim(), to: to.trim() })
    if (protocol !== 'tcp') next.set('protocol', protocol)
    if (port && protocol !== 'icmp') next.set('port', port)
    if (next.toString() === asked.toString()) void answer.refetch()
    else setAsked(next, { replace: true })
  }
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('explain.title')}</h2>
      </div>
      <div className="flex flex-col gap-4 p-5">
        <p className="text-soft">{t('explain.text')}</p>
        <form className="flex flex-col gap-4" onSubmit={submit} noValidate>
          <div className="grid gap-4 sm:grid-cols-2">
            <TextField label={t('explain.from')} hint={t('explain.from.hint')} list="explain-from" required value={from} onChange={(e) => setFrom(e.currentTarget.value)} />
            <TextField label={t('explain.to')} hint={t('explain.to.hint')} list="explain-to" required value={to} onChange={(e) => setTo(e.currentTarget.value)} />
            <SelectField label={t('explain.protocol')} value={protocol} onChange={(e) => setProtocol(e.currentTarget.value as Protocol)}>
              {protocols.map((p) => (
                <option key={p} value={p}>
                  {p.toUpperCase()}
                </option>
              ))}
            </SelectField>
            <TextField label={t('explain.port')} optional inputMode="numeric" pattern="[0-9]*" disabled={protocol === 'icmp'} placeholder="443" value={port} onChange={(e) => setPort(e.currentTarget.value)} />
          </div>
          <datalist id="explain-from">
            {peerList.data?.map((p) => (
              <option key={p.name}>{p.name}</option>
            ))}
            <option>internet</option>
            <option>cell</option>
          </datalist>
          <datalist id="explain-to">
            {serviceList.data?.map((s) => (
              <option key={s.id}>{s.url || s.id}</option>
            ))}
            <option>internet</option>
            <option>https://example.com</option>
          </datalist>
          <div>
            <button type="submit" className="btn btn-primary" disabled={from.trim() === '' || to.trim() === '' || answer.isFetching}>
              {t('explain.ask')}
            </button>
          </div>
        </form>
        <ErrorSummary error={answer.error} />
        {answer.data && !answer.error && <PathTrace result={answer.data} />}
      </div>
    </section>
  )
}

function query(from: string, to: string, protocol: string, port: string): ExplainQuery {
  const n = Number(port)
  return {
    from,
    to,
    ...(protocols.some((p) => p === protocol) ? { protocol: protocol as Protocol } : {}),
    ...(port !== '' && Number.isInteger(n) && n > 0 && n < 65536 ? { port: n } : {}),
  }
}

/** One assertion a line; a commit under which one does not hold is refused. */
function Policy() {
  const { t } = useTranslation()
  const navigate = useNavigate()
  const list = useQuery({ ...policy, refetchOnMount: 'always' })
  const [text, setText] = useState<string | null>(null)
  const [draft, setDraft] = useState<{ items: string[]; preview: Preview } | null>(null)
  const saved = list.data?.items.map((r) => r.assertion).join('\n') ?? ''
  const review = useMutation({
    mutationFn: async (items: string[]) => ({ items, preview: (await previewPolicy(items)).data }),
    onSuccess: setDraft,
  })
  if (draft) {
    return (
      <Review
        preview={draft.preview}
        commit={(o) => putPolicy(draft.items, o)}
        onBack={() => setDraft(null)}
        onDone={() => {
          setDraft(null)
          setText(null)
          void navigate('/firewall')
        }}
      />
    )
  }
  const lines = (text ?? saved)
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l !== '')
  return (
    <section className="card">
      <div className="card-head">
        <h2>{t('policy.title')}</h2>
      </div>
      <div className="flex flex-col gap-4 p-5">
        <p className="text-soft">{t('policy.text')}</p>
        <ErrorSummary error={list.error ?? review.error} />
        {list.isPending && <Loading />}
        {list.data && list.data.items.length > 0 && (
          <ul className="divide-y divide-line border-y border-line">
            {list.data.items.map((r) => (
              <Test key={r.assertion} result={r} />
            ))}
          </ul>
        )}
        {list.data && (
          <form
            className="flex flex-col gap-4"
            noValidate
            onSubmit={(e) => {
              e.preventDefault()
              review.mutate(lines)
            }}
          >
            <TextArea label={t('policy.edit')} hint={t('policy.hint')} rows={5} value={text ?? saved} onChange={(e) => setText(e.currentTarget.value)} spellCheck={false} autoCapitalize="none" />
            <div>
              <button type="submit" className="btn btn-primary" disabled={review.isPending || text === null || lines.join('\n') === saved}>
                {t('peer.review')}
              </button>
            </div>
          </form>
        )}
      </div>
    </section>
  )
}

const marks = { holds: ['check', 'text-ok', 'policy.holds'], fails: ['close', 'text-alarm', 'policy.fails'], unknown: ['info', 'text-soft', 'policy.unknown'] } as const

function Test({ result: r }: { result: PolicyResult }) {
  const { t } = useTranslation()
  const [icon, colour, word] = marks[r.result]
  return (
    <li className="flex items-start gap-3 py-2.5">
      <Icon name={icon} size={17} className={`mt-1 shrink-0 ${colour}`} />
      <div className="min-w-0">
        <p>
          <code className="break-words">{r.assertion}</code> <span className={`text-[0.93rem] ${colour}`}>{t(word)}</span>
        </p>
        {r.text && <p className="text-[0.93rem] text-soft">{r.text}</p>}
      </div>
    </li>
  )
}
