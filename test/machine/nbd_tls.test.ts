// Disks and sources on NBD servers over TLS: who is verified, who is refused, and why.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, linkSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { connectMailroom } from '../../lib/cli/mailroom/boot.js'
import { guestPath } from '../../lib/index.js'
import { Machine, type MachineBoard } from '../../lib/machine/index.js'
import { ImageStream } from '../../lib/stream/index.js'
import { noNbdkit } from '../nbdkit.js'
import { certificates, noOpenssl } from '../arbiter/support.js'
import { copyOf, imageBytes, packed, until } from '../stream/support.js'
import { guest, noKvm, scratch } from './support.js'

const skip =
  noOpenssl ||
  noNbdkit ||
  (!/^tls=yes$/m.test(spawnSync('nbdkit', ['--dump-config'], { encoding: 'utf8' }).stdout) && 'this nbdkit has no TLS')

/** A folder as nbdkit and libnbd have them: of an authority, a server for localhost, and a client. */
function keys(t: Test): string {
  const folder = scratch(t)
  const { ca, cert, key } = certificates(folder)
  const names = { ca, cert, key }
  for (const [from, to] of [['ca', 'ca-cert.pem'], ['cert', 'server-cert.pem'], ['key', 'server-key.pem'], ['cert', 'client-cert.pem'], ['key', 'client-key.pem']] as const)
    linkSync(names[from], path.join(folder, to))
  return folder
}

/** nbdkit on a TCP port of its own, with TLS for everybody. */
class TlsKit {
  #child: ChildProcess | undefined
  private constructor(
    readonly port: number,
    readonly options: readonly string[]
  ) {}

  static async start(t: Test, ...options: string[]): Promise<TlsKit> {
    const probe = createServer().listen(0, '127.0.0.1')
    await once(probe, 'listening')
    const { port } = probe.address() as AddressInfo
    probe.close()
    await once(probe, 'close')
    const kit = new TlsKit(port, options)
    t.teardown(() => kit.kill())
    await kit.start(scratch(t))
    return kit
  }

  async start(folder: string): Promise<void> {
    const pid = path.join(folder, 'pid')
    rmSync(pid, { force: true })
    const child = spawn('nbdkit', ['-f', '-i', '127.0.0.1', '-p', String(this.port), '-P', pid, '--tls=require', ...this.options], { stdio: 'ignore' })
    this.#child = child
    await until(() => child.exitCode !== null || existsSync(pid))
    if (child.exitCode !== null) throw new Error('nbdkit has ended')
  }

  async kill(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

const create = (uri: string, board: MachineBoard = 'deterministic') => Machine.create({ kernel: guestPath('hello'), memory: '16MiB', board, disks: [{ path: uri }] })

for (const board of ['deterministic', 'standard'] as const)
  t.test(`${board}: a guest writes over TLS, also when the server was away`, { skip: skip || noKvm }, async t => {
    const folder = keys(t)
    const image = path.join(scratch(t), 'image')
    writeFileSync(image, '')
    truncateSync(image, 8 << 20)
    const kit = await TlsKit.start(t, '--tls-verify-peer', `--tls-certificates=${folder}`, 'file', image)
    const uri = `nbds://localhost:${kit.port}/?tls-certificates=${folder}`
    const machine = await guest(t, 'mailroom', '', { board, memory: '32MiB', disks: [{ path: uri }], nets: [{}] })
    await machine.start()
    const client = await connectMailroom(machine)
    const user = client.user(1)
    await user.login()
    await user.send(2, Buffer.from('the first mail'))
    await kit.kill()
    const sent = user.send(2, Buffer.from('the second mail'))
    await kit.start(scratch(t))
    await sent
    client.close()
    await machine.close()
    t.ok(readFileSync(image).includes('the second mail'))
  })

t.test('who is not verified is not connected to', { skip: skip || noKvm }, async t => {
  const folder = keys(t)
  const kit = await TlsKit.start(t, `--tls-certificates=${folder}`, 'memory', '8M')
  const at = `localhost:${kit.port}/`
  await using right = await create(`nbds://${at}?tls-certificates=${folder}`)
  t.equal(right.disks[0]?.size, 8 << 20)
  await t.rejects(create(`nbds://${at}?tls-certificates=${keys(t)}`), { code: 'BAD_CERTIFICATE', message: /ca-cert\.pem/ })
  await t.rejects(create(`nbds://${at}?tls-certificates=${scratch(t)}`), { code: 'BAD_CONFIG', message: /cannot be verified.*tls-certificates/ })
  if (!existsSync('/etc/pki/libnbd') && process.getuid?.() === 0)
    await t.rejects(create(`nbds://me:password@${at}`), { code: 'BAD_CONFIG', message: /^(?!.*password).*\/etc\/pki\/libnbd/ })
  await t.rejects(create(`nbd://${at}`), { code: 'EOPNOTSUPP', message: /TLS/ })
})

t.test('a certificate of another host is refused', { skip: skip || noKvm }, async t => {
  const folder = keys(t)
  const kit = await TlsKit.start(t, `--tls-certificates=${folder}`, 'memory', '8M')
  // Not a name that it has.
  await t.rejects(create(`nbds://127.1:${kit.port}/?tls-certificates=${folder}`), { code: 'BAD_CERTIFICATE', message: /another host/ })
})

t.test('keys that both sides have', { skip: skip || noKvm }, async t => {
  const file = path.join(scratch(t), 'keys')
  writeFileSync(file, `alice:${'ab'.repeat(32)}\n`, { mode: 0o600 })
  const other = path.join(scratch(t), 'keys')
  writeFileSync(other, `alice:${'cd'.repeat(32)}\n`, { mode: 0o600 })
  const kit = await TlsKit.start(t, `--tls-psk=${file}`, 'memory', '8M')
  await using machine = await create(`nbds://alice@localhost:${kit.port}/?tls-psk-file=${file}`)
  t.equal(machine.disks[0]?.size, 8 << 20)
  await t.rejects(create(`nbds://alice@localhost:${kit.port}/?tls-psk-file=${other}`), { message: /gnutls_handshake/ })
})

t.test('a stream comes over TLS, and from nobody who is not verified', { skip }, async t => {
  const folder = keys(t)
  const pack = await packed(t, imageBytes(20))
  const kit = await TlsKit.start(t, '-r', `--tls-certificates=${folder}`, 'file', pack.image)
  const open = async (certificates: string): Promise<ImageStream> => {
    const stream = await ImageStream.open(`nbds://localhost:${kit.port}/?tls-certificates=${certificates}`, { cache: scratch(t), manifest: pack.folder, gate: 'none' })
    t.teardown(() => stream.close())
    return stream
  }
  const right = await open(folder)
  await right.complete
  t.ok(copyOf(right).equals(pack.bytes))
  const wrong = await open(keys(t))
  await until(() => wrong.progress().trouble !== undefined)
  t.match(wrong.progress().trouble, { code: 'SOURCE_REFUSED', message: /ca-cert\.pem/ })
  t.equal(wrong.progress().presentBytes < pack.bytes.length, true)
})
