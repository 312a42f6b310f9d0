// Linux in a QEMU whose disk comes while it runs: it reads the right bytes, whoever is killed, and its writes go to the
// overlay.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { guestImage } from '../../scripts/hosts/index.mjs'
import { ImageStream, NbdServer, QemuGuest, whyNoNbd, type Manifest, type QemuOptions } from '../../lib/stream/index.js'
import { limit } from '../patience.js'
import { checkCache, CHUNK, code, noEmulation, noise, packed, scratch, until, WebServer } from './support.js'

const noQemu = spawnSync('qemu-system-x86_64', ['--version']).error ? 'qemu-system-x86_64 is missing (Debian: qemu-system-x86)' : false
const noDebian = spawnSync('dpkg-query', ['--version']).error ? "the guest's kernel is one of Debian's packages" : false
const skip = noEmulation ?? whyNoNbd()?.message ?? (noQemu || noDebian)
const CHUNKS = 320

/** A guest at its shell's prompt. */
class Shell {
  said = ''
  #number = 0

  constructor(readonly guest: QemuGuest) {
    guest.process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.said += text))
  }

  static async start(t: Test, server: NbdServer, image: Manifest, options: QemuOptions = {}): Promise<Shell> {
    const { kernel, initrd } = await guestImage('cloud')
    const guest = await QemuGuest.start(server, image, {
      accelerator: 'tcg',
      memory: '256MiB',
      kernel,
      initrd,
      append: 'console=ttyS0 quiet',
      stdio: ['pipe', 'pipe', 'inherit'],
      ...options
    })
    t.teardown(() => guest.close())
    const shell = new Shell(guest)
    await until(() => shell.said.includes('guest#'))
    return shell
  }

  /** What a command prints. */
  async run(command: string): Promise<string> {
    const mark = `end${this.#number++}`
    // The echo of what is typed has the mark in two.
    this.guest.process.stdin?.write(`${command}; echo ${mark.slice(0, 2)}""${mark.slice(2)}\n`)
    const from = this.said.length
    await until(() => this.said.indexOf(mark, from) >= 0)
    return this.said.slice(from, this.said.indexOf(mark, from))
  }
}

function streamer(source: string, cache: string): ChildProcess {
  const script = new URL(import.meta.url.endsWith('.ts') ? './streamer.ts' : './streamer.js', import.meta.url)
  return spawn(process.execPath, [...process.execArgv, script.pathname, source, cache], { stdio: ['ignore', 'pipe', 'inherit'] })
}

t.test('the process that streams is killed and started again under a running guest', { skip, timeout: limit(180_000) }, async t => {
  const { folder, bytes, manifest } = await packed(t, noise(CHUNKS * CHUNK, 'guest'))
  const server = await WebServer.start(t, folder)
  // So slow that most of it is still to come when Linux has booted.
  let delay = 1000
  server.trouble = async ({ name }) => {
    if (name.endsWith('.chunks')) await new Promise(resolve => setTimeout(resolve, delay))
    return false
  }
  const cache = scratch(t)
  let child = streamer(server.url, cache)
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout as NodeJS.ReadableStream, 'data')
  const nbd = await NbdServer.start(cache)
  t.teardown(() => nbd.close())
  const shell = await Shell.start(t, nbd, manifest)
  child.kill('SIGKILL')
  await once(child, 'exit')
  let here = await checkCache(cache, bytes)
  t.ok(here < CHUNKS / 2, `${here} chunks are here`)
  delay = 100
  const sum = shell.run('sha256sum /dev/vda')
  for (let kills = 0; kills < 3; kills++) {
    child = streamer(server.url, cache)
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    const last = here
    await until(async () => (here = await checkCache(cache, bytes)) > last + 20)
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  t.ok(here < CHUNKS, 'in the middle')
  server.trouble = () => false
  child = streamer(server.url, cache)
  t.match(await sum, createHash('sha256').update(bytes).digest('hex'), 'the guest reads the image')
  t.match(await shell.run('dmesg | grep -c "I/O error"'), /\b0\b/, 'and has seen no error')
  await shell.run('dd if=/dev/urandom of=/dev/vda bs=64k count=20 conv=fsync')
  t.notMatch(await shell.run('echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/vda'), createHash('sha256').update(bytes).digest('hex'))
  await until(async () => (await checkCache(cache, bytes)) === CHUNKS)
  t.pass('the local copy is the image, whatever the guest has written')
})

t.test('an overlay keeps what the guest writes', { skip, timeout: limit(180_000) }, async t => {
  const { folder, manifest, bytes } = await packed(t, noise(40 * CHUNK, 'overlay'))
  const stream = await ImageStream.open(folder, { cache: scratch(t) })
  t.teardown(() => stream.close())
  const nbd = await NbdServer.start(stream.cache)
  t.teardown(() => nbd.close())
  const overlay = path.join(scratch(t), 'with, a comma.qcow2')
  const first = await Shell.start(t, nbd, manifest, { overlay })
  await first.run('echo kept | dd of=/dev/vda bs=512 seek=1000 conv=sync,fsync')
  await first.guest.close()
  const second = await Shell.start(t, nbd, manifest, { overlay })
  t.match(await second.run('dd if=/dev/vda bs=512 skip=1000 count=1 2>/dev/null | head -c 4'), /kept/)
  await second.guest.close()
  await stream.complete
  t.equal(await checkCache(stream.cache, bytes), 40)
  const { imageSize, digest } = manifest
  for (const other of [{ imageSize: imageSize + 512, digest }, { imageSize, digest: digest.replace(/./g, '0') }])
    await t.rejects(QemuGuest.start(nbd, other, { overlay }), { code: 'EINVAL', message: /no overlay of this image: / })
  await t.rejects(QemuGuest.start(nbd, manifest, { overlay: path.join(folder, 'manifest') }), code('TOOL_FAILED'), 'no overlay')
  rmSync(`${overlay}.digest`)
  await t.rejects(QemuGuest.start(nbd, manifest, { overlay }), { code: 'EINVAL', message: /digest is missing/ })
  for (const options of [{ memory: 'much' }, { cpus: 0 }, { append: 'x' }]) await t.rejects(QemuGuest.start(nbd, manifest, options), code('EINVAL'))
})
