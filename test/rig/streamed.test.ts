// A ready application appears after a small part of the bytes: Linux with nginx, its memory and its disk streamed, in a rig.
import { createHash } from 'node:crypto'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { guestImage, serviceImage } from '../../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'
import { whyNoNbd } from '../../lib/stream/index.js'
import { thorough } from './thorough.js'

const skip = whyNoNbd()?.message ?? (await whyNoRigs())

t.test('nginx, resumed over HTTP', { skip, timeout: 600_000 }, async t => {
  const { disk, page } = await serviceImage()
  const { elf, initrd } = await guestImage('cloud')
  const digest = createHash('sha256').update(page).digest('hex')
  const rigs = await rigsUp(1, { memory: 1536 })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const given = JSON.stringify({ board: 'standard', vcpus: 1, kernel: elf, initrd, commandLine: 'root=/dev/vda', disk, digest })
  const { stdout, stderr } = await rig.exec([process.execPath, path.resolve('test/rig/streamed_machine.mjs'), given], { timeout: 300_000 })
  t.comment(stdout)
  type Way = { right: boolean; fetched: number; bytes: number; stored: number; memory: { waits: number } }
  let seen: { error?: string; ways?: Way[] } = {}
  try {
    seen = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as typeof seen
  } catch {
    t.fail('no result', { stdout, stderr })
  }
  t.equal(seen.error, undefined)
  const [touched, again] = seen.ways ?? []
  if (!touched || !again) return void t.fail('two ways')
  t.ok(touched.right && again.right, 'the page')
  t.ok(touched.fetched < touched.bytes / 20, `as it is touched: ${touched.fetched} of ${touched.bytes} bytes`)
  t.ok(again.fetched < again.bytes / 20, `what was touched first: ${again.fetched} of ${again.bytes} bytes`)
  t.ok(again.memory.waits < touched.memory.waits / 2, `${again.memory.waits} waits in place of ${touched.memory.waits}`)
})

t.test('the samples, with Linux', { skip: skip || (!thorough && 'npm run test:linux runs them'), timeout: 1_200_000 }, async t => {
  const { kernel, initrd } = await guestImage('cloud')
  await serviceImage()
  const rigs = await rigsUp(1, { memory: 1536 })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const said = async (name: string, ...args: string[]): Promise<string> => {
    const { stdout, stderr, status } = await rig.exec([process.execPath, path.resolve(`scripts/${name}.mjs`), ...args], { timeout: 500_000 })
    t.equal(status, 0, { stdout, stderr })
    return stdout
  }
  t.match(await said('stream-machine', '--linux'), /nginx has served its page[^]*all of it is here; the machine is running/)
  t.match(await said('stream-resume', kernel, initrd), /^as it is touched: it answers after [^]*^what was touched first: it answers after /m)
})
