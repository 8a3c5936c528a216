import { useEffect, useId, useRef, type ReactNode } from 'react'

/** A modal question. The browser's own dialog traps the focus and gives it back; no library, and no injected style. */
export function Dialog({ title, open, onClose, children }: { title: string; open: boolean; onClose: () => void; children: ReactNode }) {
  const ref = useRef<HTMLDialogElement>(null)
  const id = useId()
  useEffect(() => {
    const dialog = ref.current
    if (!dialog) return
    if (open && !dialog.open) dialog.showModal()
    if (!open && dialog.open) dialog.close()
  }, [open])
  return (
    <dialog
      ref={ref}
      className="dialog"
      aria-labelledby={id}
      onCancel={(e) => {
        e.preventDefault()
        onClose()
      }}
    >
      {open && (
        <div className="flex flex-col gap-4">
          <h2 id={id} className="text-[1.15rem]">
            {title}
          </h2>
          {children}
        </div>
      )}
    </dialog>
  )
}
