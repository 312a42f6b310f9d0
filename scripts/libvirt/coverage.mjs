// `npm run libvirt:coverage`: how much of libvirt's API is bound, library by library. `--json` prints it as JSON,
// `--list` the functions with what binds them or the reason why nothing does. Fails when one is missing.
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { root } from '../support.mjs'
import { custom, functions, internal } from './annotations.mjs'
import { libraries, readApi } from './api.mjs'
import { describe } from './describe.mjs'
import { fileOf } from './emit_ts.mjs'

const read = name => {
  const file = path.join(root, name)
  return existsSync(file) ? readFileSync(file, 'utf8') : ''
}
const has = (text, method) => new RegExp(`^  (static )?(async )?\\*?${method}[<(]`, 'm').test(text)

/** Where the sources have what binds a function; undefined when they do not. */
function boundBy(name, described) {
  if (custom[name] !== undefined) {
    const [cls, method] = custom[name].split('.')
    return has(read(`lib/libvirt/${fileOf(cls)}.ts`), method) ? custom[name] : undefined
  }
  const fn = described.get(name)
  if (fn === undefined || !read('native/core/libvirt/generated/table.cc').includes(`{"${name}", Library::`)) return undefined
  if (fn.owner === undefined)
    return read('lib/libvirt/generated/functions.ts').includes(`export function ${fn.method}(`) ? `${fn.method}()` : undefined
  return has(read(`lib/libvirt/generated/${fileOf(fn.owner)}.ts`), fn.method) ? `${fn.owner}.${fn.method}` : undefined
}

/** Library -> { total, bound, internal, missing } with lists of names, and for each bound name what binds it. */
export function coverage() {
  const described = new Map(describe({ lenient: true }).functions.map(fn => [fn.name, fn]))
  const result = {}
  for (const library of libraries) result[library] = { total: 0, bound: new Map(), internal: new Map(), missing: [] }
  for (const { name, library } of readApi().functions) {
    const entry = result[library]
    entry.total++
    const by = boundBy(name, described)
    if (internal[name] !== undefined) entry.internal.set(name, internal[name])
    else if (by === undefined) entry.missing.push(name)
    else entry.bound.set(name, by)
  }
  return result
}

/** Names in the annotations that the API description does not know, or that are said twice. */
export function strayAnnotations() {
  const known = new Set(readApi().functions.map(({ name }) => name))
  const lists = [functions, internal, custom].map(list => Object.keys(list))
  const all = lists.flat()
  return [...all.filter(name => !known.has(name)), ...all.filter((name, at) => all.indexOf(name) !== at)]
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const found = coverage()
  const figures = Object.fromEntries(
    Object.entries(found).map(([library, { total, bound, internal: inside, missing }]) => [
      library,
      { total, bound: bound.size, internal: inside.size, missing }
    ])
  )
  if (process.argv.includes('--json')) console.log(JSON.stringify(figures, null, 2))
  else {
    for (const [library, { total, bound, internal: inside, missing }] of Object.entries(figures))
      console.log(`${library}: ${bound + inside} of ${total}: ${bound} bound, ${inside} inside with a reason, ${missing.length} missing`)
    if (process.argv.includes('--list'))
      for (const { bound, internal: inside } of Object.values(found)) {
        for (const [name, by] of bound) console.log(`${name}: ${by}`)
        for (const [name, reason] of inside) console.log(`${name}: inside: ${reason}`)
      }
  }
  for (const [library, { missing }] of Object.entries(figures))
    for (const name of missing) console.error(`${library}: ${name} is neither bound nor listed with a reason`)
  if (Object.values(figures).some(({ missing }) => missing.length > 0)) process.exitCode = 1
}
