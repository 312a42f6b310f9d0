// Every subpath imports, and the addon is the package's.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

const subpaths = JSON.parse(readFileSync(new URL('subpaths.json', import.meta.url), 'utf8'))
for (const subpath of subpaths) {
  const names = Object.keys(await import(subpath))
  assert.ok(names.length > 0, `${subpath} exports nothing`)
}
const { version, HypertwinError, guestPath } = await import('hypertwin')
assert.equal(version, process.argv[2])
assert.match(guestPath('hello'), /hello\.elf$/)
assert.throws(() => guestPath('nosuch'), error => error instanceof HypertwinError && error.code === 'ENOENT')
await assert.rejects(import('hypertwin/dist/native.js'), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' })
