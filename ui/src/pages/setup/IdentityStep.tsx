import { useEffect } from 'react'
import { useForm, useWatch } from 'react-hook-form'
import { label, useProblem, z, zodResolver } from '../../forms'
import { useTranslation } from '../../i18n'
import { Choices, TextField, SelectField } from '../../parts/Field'
import { domainOf, isMode, modes, takesDomain } from './domain'
import type { StepProps } from './Setup'
import { StepFrame } from './StepFrame'

const domain = /^(?=.{3,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

const schema = z
  .object({
    cell_name: z.string().check(z.trim(), z.toLowerCase(), z.regex(label, 'peer.name.format')),
    domain_mode: z.enum(modes),
    domain: z.string().check(z.trim(), z.toLowerCase()),
    timezone: z.string(),
  })
  .check(z.refine((v) => !takesDomain(v.domain_mode) || domain.test(v.domain), { error: 'setup.identity.domainHint', path: ['domain'] }))

const fields = ['cell_name', 'domain_mode', 'domain', 'timezone'] as const

function zones(): string[] {
  const list = Intl.supportedValuesOf('timeZone')
  return list.includes('UTC') ? list : ['UTC', ...list]
}

export function IdentityStep({ at, busy, error, send, back }: StepProps) {
  const { t, language } = useTranslation()
  const form = useForm({
    resolver: zodResolver(schema),
    defaultValues: {
      cell_name: at.data.cell_name,
      domain_mode: isMode(at.data.domain_mode) ? at.data.domain_mode : ('lan' as const),
      domain: at.data.domain,
      // Before a name is given, the cell's time zone is a default and the browser knows better.
      timezone: (at.data.cell_name && at.data.timezone) || Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC',
    },
  })
  const { problem, show, clear } = useProblem(form, '', fields)
  const { errors } = form.formState
  const [name, mode, own] = useWatch({ control: form.control, name: ['cell_name', 'domain_mode', 'domain'] })
  const address = domainOf(name.trim(), mode, own.trim())

  useEffect(() => {
    if (error) show(error)
    // oxlint-disable-next-line react/exhaustive-deps -- once for each error
  }, [error])

  return (
    <StepFrame
      title={t('setup.identity.title')}
      problem={problem}
      busy={busy}
      back={back}
      onSubmit={(e) =>
        void form.handleSubmit((v) => {
          clear()
          send({ step: 'identity', ...v, domain: takesDomain(v.domain_mode) ? v.domain : '', language })
        })(e)
      }
    >
      <TextField label={t('setup.identity.name')} hint={t('setup.identity.nameHint')} error={errors.cell_name?.message} autoComplete="off" required {...form.register('cell_name')} />
      <Choices
        label={t('setup.identity.mode')}
        hint={t('setup.mode.fallback')}
        error={errors.domain_mode?.message}
        columns={2}
        options={modes.map((m) => ({ value: m, label: t(`setup.mode.${m}`), text: t(`setup.mode.${m}.text`) }))}
        {...form.register('domain_mode')}
      />
      {takesDomain(mode) && <TextField label={t('setup.identity.domain')} hint={t('setup.identity.domainHint')} error={errors.domain?.message} autoComplete="off" required {...form.register('domain')} />}
      {address && (
        <p role="status" className="rounded-lg bg-accent-wash px-4 py-2.5 break-words text-accent">
          {t('setup.identity.address', { domain: address })}
        </p>
      )}
      <SelectField label={t('setup.identity.timezone')} error={errors.timezone?.message} {...form.register('timezone')}>
        {zones().map((zone) => (
          <option key={zone} value={zone}>
            {zone.replaceAll('_', ' ')}
          </option>
        ))}
      </SelectField>
    </StepFrame>
  )
}
