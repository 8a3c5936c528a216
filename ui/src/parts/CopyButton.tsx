import { useEffect, useState } from 'react'
import { useTranslation } from '../i18n'
import { announce } from './announce'
import { Icon } from './Icon'

export function CopyButton({ text, label, small = false, onCopied }: { text: string; label?: string; small?: boolean; onCopied?: () => void }) {
  const { t } = useTranslation()
  const [copied, setCopied] = useState(false)
  useEffect(() => {
    if (!copied) return
    const timer = setTimeout(() => setCopied(false), 2_000)
    return () => clearTimeout(timer)
  }, [copied])
  if (!navigator.clipboard) return null // not a secure context: the text can be selected
  return (
    <button
      type="button"
      className={`btn ${small ? 'btn-small' : ''}`}
      onClick={() =>
        void navigator.clipboard.writeText(text).then(() => {
          setCopied(true)
          announce(t('app.copied'))
          onCopied?.()
        })
      }
    >
      <Icon name={copied ? 'check' : 'copy'} size={16} />
      {copied ? t('app.copied') : (label ?? t('app.copy'))}
    </button>
  )
}
