import react from '@vitejs/plugin-react'
import tailwind from '@tailwindcss/vite'
import { defineConfig } from 'vitest/config'

// `npm run dev` proxies the API to a running cell: PIC_CELL=https://home.internal npm run dev
const cell = process.env.PIC_CELL ?? 'https://localhost'

export default defineConfig({
  plugins: [react(), tailwind()],
  build: {
    target: 'es2022',
    // The Content-Security-Policy allows no data: fonts or styles and no inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The licences of what is bundled travel with it.
    license: { fileName: 'licenses.md' },
  },
  server: { proxy: { '/api': { target: cell, secure: false }, '/health': { target: cell, secure: false } } },
  test: { environment: 'jsdom', include: ['test/**/*.test.{ts,tsx}'], setupFiles: ['test/setup.ts'] },
})
