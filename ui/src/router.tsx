import { createBrowserRouter } from 'react-router'
import { AdminOnly, Shell } from './Shell'
import { Failure, NotFound } from './pages/NotFound'

// A page is a chunk of its own, so that the first paint waits for no other.
export const router = createBrowserRouter([
  {
    ErrorBoundary: Failure,
    HydrateFallback: () => null,
    children: [
      { path: '/setup', lazy: async () => ({ Component: (await import('./pages/setup/Setup')).Setup }) },
      { path: '/login', lazy: async () => ({ Component: (await import('./pages/Login')).Login }) },
      {
        Component: Shell,
        children: [
          {
            ErrorBoundary: Failure,
            children: [
              {
                Component: AdminOnly,
                children: [
                  { index: true, lazy: async () => ({ Component: (await import('./pages/Overview')).Overview }) },
                  { path: 'peers', lazy: async () => ({ Component: (await import('./pages/Peers')).Peers }) },
                  { path: 'peers/new', lazy: async () => ({ Component: (await import('./pages/PeerNew')).PeerNew }) },
                  { path: 'peers/:name', lazy: async () => ({ Component: (await import('./pages/PeerEdit')).PeerEdit }) },
                  { path: 'peers/:name/remove', lazy: async () => ({ Component: (await import('./pages/PeerRemove')).PeerRemove }) },
                  { path: 'exits', lazy: async () => ({ Component: (await import('./pages/Exits')).Exits }) },
                  { path: 'exits/new', lazy: async () => ({ Component: (await import('./pages/ExitNew')).ExitNew }) },
                  { path: 'exits/:id', lazy: async () => ({ Component: (await import('./pages/ExitShow')).ExitShow }) },
                  { path: 'firewall', lazy: async () => ({ Component: (await import('./pages/Firewall')).Firewall }) },
                  { path: 'history', lazy: async () => ({ Component: (await import('./pages/History')).History }) },
                  { path: 'history/:n', lazy: async () => ({ Component: (await import('./pages/Revision')).Revision }) },
                  { path: 'history/:n/rollback', lazy: async () => ({ Component: (await import('./pages/Rollback')).Rollback }) },
                ],
              },
              { path: 'account', lazy: async () => ({ Component: (await import('./pages/Account')).Account }) },
              { path: 'account/trust', lazy: async () => ({ Component: (await import('./pages/Trust')).Trust }) },
              { path: '*', Component: NotFound },
            ],
          },
        ],
      },
    ],
  },
])
