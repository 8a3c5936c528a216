/** Where to go after the login: a path of this site only, or a link could send people elsewhere. */
export function safeNext(next: string | null): string {
  if (!next?.startsWith('/') || /^\/[/\\]/.test(next) || next.startsWith('/login')) return '/'
  for (const c of next) if (c < ' ' || c === '\\') return '/'
  return next
}
