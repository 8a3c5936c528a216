import { useMemo } from 'react'
import type { Qr } from '../wireguard/qr'

export const quiet = 4 // modules of quiet zone, ISO/IEC 18004 §9.1

export function QrCode({ qr, label, className = '' }: { qr: Qr; label: string; className?: string }) {
  const side = qr.size + 2 * quiet
  const path = useMemo(() => {
    let d = ''
    for (let row = 0; row < qr.size; row++) {
      let start = -1
      for (let column = 0; column <= qr.size; column++) {
        const dark = column < qr.size && qr.dark(row, column)
        if (dark && start < 0) start = column
        if (!dark && start >= 0) {
          d += `M${start + quiet} ${row + quiet}h${column - start}v1h${start - column}z`
          start = -1
        }
      }
    }
    return d
  }, [qr])
  return (
    <svg role="img" aria-label={label} viewBox={`0 0 ${side} ${side}`} shapeRendering="crispEdges" className={`qr ${className}`}>
      <path d={path} fill="#000" />
    </svg>
  )
}

/** Draws the code with 8 pixels a module and offers it as a file. */
export async function saveQrPng(qr: Qr, filename: string): Promise<void> {
  const scale = 8
  const side = (qr.size + 2 * quiet) * scale
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = side
  const ctx = canvas.getContext('2d')
  if (!ctx) throw new Error('the browser has no 2D canvas')
  ctx.fillStyle = '#fff'
  ctx.fillRect(0, 0, side, side)
  ctx.fillStyle = '#000'
  for (let row = 0; row < qr.size; row++) {
    for (let column = 0; column < qr.size; column++) {
      if (qr.dark(row, column)) ctx.fillRect((column + quiet) * scale, (row + quiet) * scale, scale, scale)
    }
  }
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/png'))
  if (!blob) throw new Error('the browser could not write a PNG')
  saveBlob(blob, filename)
}

export function saveBlob(blob: Blob, filename: string): void {
  const url = URL.createObjectURL(blob)
  const link = document.createElement('a')
  link.href = url
  link.download = filename
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
