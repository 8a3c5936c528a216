import { useQuery } from '@tanstack/react-query'
import { useFormContext, useWatch } from 'react-hook-form'
import { chains, exits, services, users } from '../api/queries'
import { useTranslation } from '../i18n'
import type { PeerValues } from '../pages/peerForm'
import { Check, Choices, SelectField, TextArea, TextField } from './Field'

/** The fields of a peer, for creating (name and keys are open) and for editing. */
export function PeerFields({ creating }: { creating: boolean }) {
  const { t } = useTranslation()
  const form = useFormContext<PeerValues>()
  const { errors } = form.formState
  const keys = useWatch({ control: form.control, name: 'keys' })

  return (
    <div className="flex flex-col gap-6">
      {creating && (
        <>
          <TextField label={t('peer.field.name')} hint={t('peer.field.nameHint')} error={errors.name?.message} autoComplete="off" required {...form.register('name')} />
          <Choices
            label={t('peer.field.keys')}
            columns={2}
            options={[
              { value: 'browser', label: t('peer.keys.browser'), text: t('peer.keys.browser.text') },
              { value: 'own', label: t('peer.keys.own'), text: t('peer.keys.own.text') },
            ]}
            {...form.register('keys')}
          />
          {keys === 'own' && <TextField label={t('peer.field.publicKey')} hint={t('peer.field.publicKeyHint')} error={errors.public_key?.message} className="font-mono" autoComplete="off" {...form.register('public_key')} />}
        </>
      )}
      <Choices
        label={t('peer.field.trust')}
        columns={3}
        error={errors.trust?.message}
        options={(['owner', 'family', 'guest'] as const).map((v) => ({ value: v, label: t(`peer.trust.${v}`), text: t(`peer.trust.${v}.text`) }))}
        {...form.register('trust')}
      />
      <Choices
        label={t('peer.field.destinations')}
        columns={2}
        error={errors.destinations?.message}
        options={(['full', 'split'] as const).map((v) => ({ value: v, label: t(`peer.destinations.${v}`), text: t(`peer.destinations.${v}.text`) }))}
        {...form.register('destinations')}
      />
      <Services creating={creating} />
      <ExitOf />
      <TextField label={t('peer.field.expires')} type="datetime-local" optional hint={t('peer.field.expiresHint')} error={errors.expires?.message} className="max-w-64" {...form.register('expires')} />
      {!creating && <Check label={t('peer.field.enabled')} hint={t('peer.field.enabledHint')} {...form.register('enabled')} />}
      <details className="card px-5 py-3" open={Boolean(errors.keepalive ?? errors.note ?? errors.owner) || undefined}>
        <summary className="cursor-pointer font-medium">{t('peer.field.advanced')}</summary>
        <div className="flex flex-col gap-5 pt-4 pb-2">
          <Check label={t('peer.field.preshared')} hint={t('peer.field.presharedHint')} {...form.register('preshared_key')} />
          <TextField label={t('peer.field.keepalive')} inputMode="numeric" hint={t('peer.field.keepaliveHint')} error={errors.keepalive?.message} className="max-w-40" {...form.register('keepalive')} />
          <Owner />
          <TextArea label={t('peer.field.note')} optional error={errors.note?.message} {...form.register('note')} />
        </div>
      </details>
    </div>
  )
}

/** The way out. One that is gone stays visible, or saving would change it unseen. */
function ExitOf() {
  const { t } = useTranslation()
  const form = useFormContext<PeerValues>()
  const exitList = useQuery(exits)
  const chainList = useQuery(chains)
  const chosen = useWatch({ control: form.control, name: 'exit' })
  const known = [...(exitList.data ?? []), ...(chainList.data ?? [])]
  return (
    <SelectField label={t('peer.field.exit')} hint={t('peer.field.exitHint')} error={form.formState.errors.exit?.message} className="max-w-64" {...form.register('exit')}>
      <option value="direct">{t('exit.direct')}</option>
      {known.map((e) => (
        <option key={e.id} value={e.id}>
          {e.name || e.id}
        </option>
      ))}
      {chosen !== 'direct' && chosen !== 'block' && !known.some((e) => e.id === chosen) && <option value={chosen}>{chosen}</option>}
      <option value="block">{t('exit.block')}</option>
    </SelectField>
  )
}

function Services({ creating }: { creating: boolean }) {
  const { t } = useTranslation()
  const form = useFormContext<PeerValues>()
  const list = useQuery(services)
  const grants = useWatch({ control: form.control, name: 'grants' })
  const chosen = useWatch({ control: form.control, name: 'services' })
  const known = list.data ?? []
  // A grant of a service that is not running stays visible, or saving would drop it unseen.
  const rows = [...known.map((s) => ({ id: s.id, name: s.name })), ...chosen.filter((id) => !known.some((s) => s.id === id)).map((id) => ({ id, name: id }))]
  const options = [
    ...(creating ? [{ value: 'default' as const, label: t('peer.services.default') }] : []),
    { value: 'all' as const, label: t('peer.services.all') },
    { value: 'chosen' as const, label: t('peer.services.chosen') },
  ]
  return (
    <div className="flex flex-col gap-3">
      <Choices label={t('peer.field.services')} columns={3} error={form.formState.errors.services?.message} options={options} {...form.register('grants')} />
      {grants === 'chosen' && (
        <div className="flex flex-col gap-2 pl-1">
          {rows.length === 0 && <p className="text-soft">{t('peer.services.none')}</p>}
          {rows.map((s) => (
            <Check key={s.id} label={s.name} value={s.id} {...form.register('services')} />
          ))}
        </div>
      )}
    </div>
  )
}

function Owner() {
  const { t } = useTranslation()
  const form = useFormContext<PeerValues>()
  const list = useQuery(users)
  const owner = useWatch({ control: form.control, name: 'owner' })
  const names = [...new Set([...(list.data ?? []).map((u) => u.name), ...(owner ? [owner] : [])])]
  return (
    <SelectField label={t('peer.field.owner')} error={form.formState.errors.owner?.message} className="max-w-72" {...form.register('owner')}>
      <option value="">{t('peer.owner.nobody')}</option>
      {names.map((n) => (
        <option key={n} value={n}>
          {n}
        </option>
      ))}
    </SelectField>
  )
}
