// Renders /api/openapi.json. Text only ever becomes text nodes.
'use strict'

const make = (name, text, ...children) => {
  const e = document.createElement(name)
  if (text) e.textContent = text
  e.append(...children)
  return e
}

// typeOf puts a schema in words; references are followed, each at most once on the way down.
const typeOf = (schema, doc, seen = []) => {
  if (!schema) return 'nothing'
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop()
    return seen.includes(name) ? name : typeOf(doc.components.schemas[name], doc, [...seen, name])
  }
  const kinds = [schema.type ?? 'any'].flat()
  if (kinds.includes('array')) return [typeOf(schema.items, doc, seen)]
  if (!kinds.includes('object')) return (schema.enum ? schema.enum.join(' | ') : kinds.join(' | ')) + (schema.format ? ` (${schema.format})` : '')
  if (!schema.properties) return schema.additionalProperties ? { '*': typeOf(schema.additionalProperties, doc, seen) } : {}
  const required = schema.required ?? []
  return Object.fromEntries(Object.entries(schema.properties).map(([k, v]) => [required.includes(k) ? k : k + '?', typeOf(v, doc, seen)]))
}

const shape = (title, content, doc) =>
  Object.entries(content ?? {}).flatMap(([type, { schema }]) => [make('h4', `${title} (${type})`), make('pre', JSON.stringify(typeOf(schema, doc), null, 2))])

const operation = (method, path, op, doc) => {
  const e = make('details', '')
  e.id = op.operationId
  e.append(make('summary', '', make('b', method.toUpperCase()), make('code', path), make('span', op.summary ?? '')))
  if (op.description) e.append(make('p', op.description))
  e.append(make('p', `For: ${(op['x-roles'] ?? []).join(', ')}.${op['x-reauth'] ? ' Asks for the password again.' : ''}`))
  if (op.parameters?.length) {
    const rows = op.parameters.map((p) => make('tr', '', make('td', '', make('code', p.name)), make('td', p.in), make('td', p.description ?? '')))
    e.append(make('table', '', make('tr', '', make('th', 'Parameter'), make('th', 'In'), make('th', '')), ...rows))
  }
  e.append(...shape('Body', op.requestBody?.content, doc))
  for (const [code, answer] of Object.entries(op.responses ?? {})) e.append(...shape(`Answer ${code}`, answer.content, doc))
  return e
}

const show = (doc) => {
  const groups = new Map()
  for (const [path, methods] of Object.entries(doc.paths)) {
    for (const [method, op] of Object.entries(methods)) {
      const tag = op.tags?.[0] ?? 'other'
      if (!groups.has(tag)) groups.set(tag, [])
      groups.get(tag).push(operation(method, path, op, doc))
    }
  }
  const sections = [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([tag, list]) => make('section', '', make('h2', tag), ...list))
  document.getElementById('operations').replaceChildren(...sections)
  document.getElementById('filter').addEventListener('input', ({ target }) => {
    const want = target.value.toLowerCase()
    for (const s of sections) {
      for (const e of s.querySelectorAll('details')) e.hidden = !e.querySelector('summary').textContent.toLowerCase().includes(want)
      s.hidden = !s.querySelector('details:not([hidden])')
    }
  })
  if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute('open', '')
}

fetch('/api/openapi.json', { credentials: 'same-origin' })
  .then((r) => (r.ok ? r.json() : Promise.reject(new Error(`the cell answered ${r.status}`))))
  .then(show)
  .catch((e) => document.getElementById('operations').replaceChildren(make('p', `The document can't be loaded: ${e.message}. Reload the page to try again.`)))
