// The README's program does what the README says.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { noKvm } from '../no_kvm.js'


t.test('the example', { skip: noKvm }, async t => {
  const example = /```js\n([^]*?)```/.exec(readFileSync('README.md', 'utf8'))?.[1]
  if (example === undefined) throw new Error('The README has no example')
  // Below the package's own folder, so that its name leads to it.
  const folder = t.testdir({ 'example.mjs': example })
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(folder, 'example.mjs')], {
    cwd: folder,
    encoding: 'utf8'
  })
  t.equal(stderr, '')
  t.equal(status, 0)
  t.match(stdout, /^hello from hypertwin\n/)
  t.match(stdout, /\ntrue\n$/)
})

t.test('every file that it links to is there', async t => {
  for (const [, file] of readFileSync('README.md', 'utf8').matchAll(/\]\(([^)#:]+)\)/g))
    t.ok(existsSync(file!), file!)
})
