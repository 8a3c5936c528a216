import { useEffect, useState } from 'react'
import { useForm } from 'react-hook-form'
import { z, zodResolver } from '../../forms'
import { useTranslation } from '../../i18n'
import { TextField } from '../../parts/Field'
import { LanguageSelect, ThemeSelect } from '../../theme'
import type { StepProps } from './Setup'
import { codeFromHash, words } from './code'
import { StepFrame } from './StepFrame'

const schema = z.object({ code: z.string().check(z.refine((s) => words(s).length === 6, 'setup.code.six')) })

export function CodeStep({ busy, error, send }: StepProps) {
  const { t } = useTranslation()
  const [fromLink] = useState(() => codeFromHash(location.hash))
  const form = useForm({ resolver: zodResolver(schema), defaultValues: { code: fromLink } })

  useEffect(() => {
    // The code is a secret: it doesn't stay in the address bar.
    if (location.hash) history.replaceState(history.state, '', location.pathname + location.search)
  }, [])

  return (
    <StepFrame title={t('setup.code.title')} problem={{ error }} busy={busy} onSubmit={(e) => void form.handleSubmit(({ code }) => send({ step: 'code', code: words(code).join(' ') }))(e)}>
      <div className="grid gap-4 sm:grid-cols-2">
        <LanguageSelect />
        <ThemeSelect />
      </div>
      <TextField label={t('setup.code.label')} hint={t('setup.code.hint')} error={form.formState.errors.code?.message} autoComplete="off" autoCorrect="off" className="font-mono" required {...form.register('code')} />
      <p className="text-[0.93rem] text-soft">{t('setup.code.fingerprint')}</p>
    </StepFrame>
  )
}
