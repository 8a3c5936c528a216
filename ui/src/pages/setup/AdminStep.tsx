import { useEffect } from 'react'
import { FormProvider, useForm } from 'react-hook-form'
import { useProblem, z, zodResolver } from '../../forms'
import { useTranslation } from '../../i18n'
import { PasswordPair, passwordPair, passwordsMatch } from '../../parts/PasswordPair'
import type { StepProps } from './Setup'
import { StepFrame } from './StepFrame'

const schema = z.object(passwordPair).check(passwordsMatch)
const user = 'admin'
const fields = ['password'] as const

export function AdminStep({ at, busy, error, send, back }: StepProps) {
  const { t } = useTranslation()
  const form = useForm({ resolver: zodResolver(schema), defaultValues: { password: '', repeat: '' } })
  const { problem, show, clear } = useProblem(form, '', fields)

  useEffect(() => {
    if (error) show(error)
    // oxlint-disable-next-line react/exhaustive-deps -- once for each error
  }, [error])

  return (
    <FormProvider {...form}>
      <StepFrame
        title={t('setup.admin.title')}
        problem={problem}
        busy={busy}
        back={back}
        onSubmit={(e) =>
          void form.handleSubmit(({ password }) => {
            clear()
            send({ step: 'admin', user, password })
          })(e)
        }
      >
        <p className="text-soft">{t('setup.admin.user', { user })}</p>
        <input type="text" autoComplete="username" value={user} readOnly hidden />
        <PasswordPair label={t('setup.admin.password')} names={[user, at.data.cell_name]} />
      </StepFrame>
    </FormProvider>
  )
}
