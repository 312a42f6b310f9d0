// The samples that stream, run as their first lines say.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { whyNoNbd } from '../../lib/stream/index.js'
import { noKvm } from '../machine/support.js'
import { noNbdkit } from '../nbdkit.js'
import { limit } from '../patience.js'
import { noEmulation, noTools, scratch } from './support.js'

/** All that it says; it must end well. */
async function run(t: Test, name: string, ...args: string[]): Promise<string> {
  const child = spawn(process.execPath, [`scripts/${name}.mjs`, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text))
  const [status] = (await once(child, 'close')) as [number | null]
  t.equal(status, 0, said)
  return said
}

const noNbd = whyNoNbd()?.message

t.test('into a machine of ours', { skip: noKvm || (noNbd ?? noTools()), timeout: limit(120_000) }, async t => {
  const said = await run(t, 'stream-machine')
  const [, share] = /^[\d.]+ s: the mail room has found what it left, and is ready; (\d+) % of the image is here/m.exec(said) ?? []
  t.ok(Number(share) < 50, said)
  t.match(said, /all of it is here; the machine is running/)
})

t.test('from an NBD server', { skip: noNbdkit, timeout: limit(60_000) }, async t => {
  const said = await run(t, 'stream-nbd')
  const [, share] = /^what was asked for is here, and right; so is (\d+) % of the image/m.exec(said) ?? []
  t.ok(Number(share) < 80, said)
  t.match(said, /the copy is the image/)
})

t.test('into QEMU', { skip: noEmulation ?? noNbd ?? noTools('qemu-system-x86_64', 'debugfs', 'sfdisk', 'mke2fs', 'readelf'), timeout: limit(180_000) }, async t => {
  const picture = path.join(scratch(t), 'picture.svg')
  const said = await run(t, 'stream-hello', '3', picture)
  t.match(said, /^watch it at http:\/\/127\.0\.0\.1:\d+\/$/m)
  t.match(said, /nginx has served its page, and it is right/)
  const [, wanted] = / in (\d+) of \d+ chunks$/m.exec(said) ?? []
  const [, read, unforeseen, merged] = /^(\d+) chunks were read, (\d+) of which nobody foresaw; the next start's profile has (\d+)$/m.exec(said) ?? []
  t.ok(Number(read) > 0 && Number(merged) === Number(wanted) + Number(unforeseen), said)
  t.match(readFileSync(picture, 'utf8'), /^<svg [^]*nginx has served its page[^]*of the rest: [^]*<\/svg>$/)
  t.match(said, /the copy is the image/)
})

t.test('a snapshot over HTTP', { skip: noKvm, timeout: limit(120_000) }, async t => {
  const said = await run(t, 'stream-resume')
  t.match(said, /^as it is touched: it answers after [^]*^what was touched first: it answers after /m)
})
