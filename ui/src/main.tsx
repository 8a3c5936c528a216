import { QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { RouterProvider } from 'react-router/dom'
import { queryClient } from './api/queries'
import { firstLanguage, LanguageProvider } from './i18n'
import { Announcer } from './parts/announce'
import { Reauth } from './parts/Reauth'
import { router } from './router'
import './styles.css'

const root = document.getElementById('root')
if (!root) throw new Error('index.html has no #root')

void firstLanguage().then((first) =>
  createRoot(root).render(
    <StrictMode>
      <LanguageProvider first={first}>
        <QueryClientProvider client={queryClient}>
          <RouterProvider router={router} />
          <Reauth />
          <Announcer />
        </QueryClientProvider>
      </LanguageProvider>
    </StrictMode>,
  ),
)
