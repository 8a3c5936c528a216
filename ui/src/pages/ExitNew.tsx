import { useMutation, useQuery } from '@tanstack/react-query'
import { useEffect, useId, useState, type DragEvent } from 'react'
import { useNavigate } from 'react-router'
import { addExit, exitTypes, parseExit, previewAddExit } from '../api/queries'
import type { ExitInput, Preview } from '../api/types'
import { useTranslation } from '../i18n'
import { ErrorSummary } from '../parts/ErrorSummary'
import { Choices, PasswordField, TextArea, TextField } from '../parts/Field'
import { Page } from '../parts/Page'
import { Review } from '../parts/Review'

const types = ['wireguard_ext', 'openvpn', 'sshuttle', 'proxy', 'tor'] as const
type Type = (typeof types)[number]

const most = 64 << 10

/** A way out from what its provider gave: pasted, chosen as a file, or dropped. The secrets in it are held here only. */
export function ExitNew() {
  const { t } = useTranslation()
  const navigate = useNavigate()
  const group = useId()
  const programs = useQuery(exitTypes)
  const [type, setType] = useState<Type>('wireguard_ext')
  const [name, setName] = useState('')
  const [config, setConfig] = useState('')
  const [username, setUsername] = useState('')
  const [password, setPassword] = useState('')
  const [privateKey, setPrivateKey] = useState('')
  const [problem, setProblem] = useState<unknown>(null)
  const [draft, setDraft] = useState<{ body: ExitInput; preview: Preview } | null>(null)

  const parse = useMutation({ mutationFn: parseExit })
  const { mutate: understand, reset: forget } = parse
  useEffect(() => {
    if (config.trim() === '') {
      forget()
      return
    }
    const timer = setTimeout(() => understand({ type, config }), 400)
    return () => clearTimeout(timer)
  }, [type, config, understand, forget])

  const review = useMutation({
    mutationFn: async () => {
      const body: ExitInput = {
        type,
        ...(name.trim() ? { name: name.trim() } : {}),
        ...(config.trim() ? { config } : {}),
        ...(username ? { username } : {}),
        ...(password ? { password } : {}),
        ...(privateKey ? { private_key: privateKey } : {}),
        enabled: true,
      }
      return { body, preview: (await previewAddExit(body)).data }
    },
    onMutate: () => setProblem(null),
    onSuccess: setDraft,
    onError: setProblem,
  })

  if (draft) {
    return (
      <Page key="review" title={t('exits.add')} back={{ to: '/exits', label: t('exits.title') }}>
        <Review preview={draft.preview} commit={(o) => addExit(draft.body, o)} onBack={() => setDraft(null)} onDone={() => void navigate('/exits')} />
      </Page>
    )
  }

  const read = (file: File | undefined) => {
    if (!file) return
    if (file.size > most) {
      setProblem(new Error(t('exit.file.large')))
      return
    }
    void file.text().then(setConfig)
    if (name === '') setName(file.name.replace(/\.[^.]*$/, ''))
    if (file.name.endsWith('.ovpn')) setType('openvpn')
  }
  const drop = (e: DragEvent) => {
    const file = e.dataTransfer.files[0]
    if (!file) return // text is the browser's own affair
    e.preventDefault()
    read(file)
  }
  const seen = parse.data
  const asks = new Set<string>(seen?.asks)
  const wantsUser = type === 'openvpn' ? asks.has('username') : type === 'proxy'
  const wantsPassword = type === 'openvpn' ? asks.has('password') : type === 'proxy' || type === 'sshuttle'
  const program = programs.data?.find((p) => p.type === type)
  return (
    <Page key="form" title={t('exits.add')} back={{ to: '/exits', label: t('exits.title') }}>
      <form
        className="flex flex-col gap-6"
        noValidate
        onSubmit={(e) => {
          e.preventDefault()
          review.mutate()
        }}
      >
        <ErrorSummary error={problem} />
        <Choices<Type>
          label={t('exit.type')}
          name={group}
          columns={2}
          selected={type}
          onChange={(e) => setType(e.currentTarget.value as Type)}
          options={types.map((v) => ({ value: v, label: t(`exit.type.${v}`), text: t(`exit.type.${v}.text`) }))}
        />
        {program && !program.installed && (
          <p className="text-warn">
            {t('exit.program', { program: program.program })} <code>{program.install_command}</code>
          </p>
        )}
        <TextField label={t('exit.name')} optional hint={t('exit.name.hint')} maxLength={100} value={name} onChange={(e) => setName(e.currentTarget.value)} />
        <div className="flex flex-col gap-3">
          <TextArea onDragOver={(e) => e.preventDefault()} onDrop={drop} label={t(`exit.config.${type}`)} hint={t(`exit.config.${type}.hint`)} rows={type === 'wireguard_ext' || type === 'openvpn' ? 9 : 2} className="input font-mono" spellCheck={false} autoCapitalize="none" value={config} onChange={(e) => setConfig(e.currentTarget.value)} />
          {(type === 'wireguard_ext' || type === 'openvpn') && (
            <label className="flex flex-col gap-1.5">
              <span className="text-soft">{t('exit.file')}</span>
              <input type="file" accept=".conf,.ovpn,text/plain" onChange={(e) => read(e.currentTarget.files?.[0])} />
            </label>
          )}
        </div>
        {seen && (seen.refused.length > 0 || seen.warnings.length > 0) && (
          <ul aria-label={t('exit.remarks')} className="card flex flex-col gap-1.5 px-5 py-3">
            {seen.refused.map((r) => (
              <li key={`r${r.line} ${r.text}`} className="text-alarm">
                {r.line > 0 && <span className="font-medium">{t('exit.line', { n: r.line })} </span>}
                {r.text}
              </li>
            ))}
            {seen.warnings.map((r) => (
              <li key={`w${r.line} ${r.text}`} className="text-soft">
                {r.line > 0 && <span className="font-medium">{t('exit.line', { n: r.line })} </span>}
                {r.text}
              </li>
            ))}
          </ul>
        )}
        {wantsUser && <TextField label={t('exit.username')} optional={type === 'proxy'} autoComplete="off" value={username} onChange={(e) => setUsername(e.currentTarget.value)} />}
        {type === 'sshuttle' && <TextArea label={t('exit.privateKey')} optional hint={t('exit.privateKey.hint')} rows={4} className="input font-mono" spellCheck={false} value={privateKey} onChange={(e) => setPrivateKey(e.currentTarget.value)} />}
        {wantsPassword && <PasswordField label={t('exit.password')} optional={type !== 'openvpn'} autoComplete="off" value={password} onChange={(e) => setPassword(e.currentTarget.value)} />}
        <div>
          <button type="submit" className="btn btn-primary" disabled={review.isPending || (config.trim() === '' && type !== 'tor')}>
            {t('peer.review')}
          </button>
        </div>
      </form>
    </Page>
  )
}
