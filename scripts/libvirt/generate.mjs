// `npm run libvirt:generate`: writes the binding's tables and classes. With --check it writes nothing and fails
// when what is there is not what it would write.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import prettier from 'prettier'
import { root } from '../support.mjs'
import { describe } from './describe.mjs'
import { emitCpp } from './emit_cpp.mjs'
import { emitTs } from './emit_ts.mjs'

const folders = ['native/core/libvirt/generated', 'lib/libvirt/generated']

/** Path from the repository's root -> text, of everything that is generated. */
export async function generate() {
  const model = describe()
  const { text, hash } = emitCpp(model)
  const files = new Map([[`${folders[0]}/table.cc`, text]])
  const options = JSON.parse(readFileSync(path.join(root, '.prettierrc.json'), 'utf8'))
  for (const [name, source] of emitTs(model, hash))
    files.set(`${folders[1]}/${name}`, await prettier.format(source, { ...options, parser: 'typescript' }))
  return files
}

/** Paths of generated files that are missing, different, or should not be there. */
export async function stale() {
  const files = await generate()
  const found = [...files.keys()].filter(name => {
    const file = path.join(root, name)
    return !existsSync(file) || readFileSync(file, 'utf8') !== files.get(name)
  })
  for (const folder of folders)
    for (const name of readdirSync(path.join(root, folder))) if (!files.has(`${folder}/${name}`)) found.push(`${folder}/${name}`)
  return found
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const old = await stale()
  if (process.argv.includes('--check')) {
    for (const name of old) console.error(`${name} is not current: npm run libvirt:generate`)
    process.exitCode = old.length > 0 ? 1 : 0
  } else {
    const files = await generate()
    for (const folder of folders) mkdirSync(path.join(root, folder), { recursive: true })
    for (const name of old) {
      if (files.has(name)) writeFileSync(path.join(root, name), files.get(name))
      else rmSync(path.join(root, name))
      console.error(name)
    }
  }
}
