// What a migration between two real hosts is sent by: TLS, several connections, copies of disks; what is refused; and
// post-copy whose connection is cut and made anew.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, copyFileSync, mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import {
  DomainEventResumedDetailType,
  DomainEventType,
  DomainPausedReason,
  DomainRunningReason,
  DomainState,
  DomainXMLFlags,
  migrate,
  type Domain,
  type DomainMigrateOptions
} from '../../lib/libvirt/index.js'
import { blankDisk } from '../../scripts/hosts/index.mjs'
import { agentAnswers, bootGuest, noHosts, twoHosts, type Pair } from './hosts.js'
import { failure } from './support.js'

/** An authority, and for each host a certificate that both sides of a migration show. */
async function certificates({ hosts, file }: Pick<Pair, 'hosts' | 'file'>): Promise<void> {
  const folder = file('pki')
  mkdirSync(folder)
  const make = (name: string, subject: string, ...more: string[]): void => {
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', `${name}-key.pem`]
    const words = ['req', '-x509', ...key, '-days', '2', '-subj', `/CN=${subject}`, '-out', `${name}-cert.pem`, ...more]
    execFileSync('openssl', words, { cwd: folder, stdio: 'pipe' })
  }
  make('ca', 'the authority of a test')
  for (const host of hosts) {
    const own = path.join(folder, host.name)
    mkdirSync(own)
    const names = ['-addext', `subjectAltName=DNS:${host.name}`, '-addext', 'basicConstraints=critical,CA:FALSE']
    make(`${host.name}/server`, host.name, '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', ...names)
    copyFileSync(path.join(folder, 'ca-cert.pem'), path.join(own, 'ca-cert.pem'))
    for (const what of ['key', 'cert']) copyFileSync(path.join(own, `server-${what}.pem`), path.join(own, `client-${what}.pem`))
    const words = `migrate_tls_x509_cert_dir = "${own}"\nmigrate_tls_x509_verify = 1\n`
    appendFileSync(path.join(host.folder, 'etc/libvirt/qemu.conf'), words)
    await host.restart()
  }
}

/** Whether this process may raise limits, as libvirt must for zero-copy (CAP_SYS_RESOURCE). */
function mayRaiseLimits(): boolean {
  const [, mask] = /^CapEff:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return ((BigInt(`0x${mask ?? '0'}`) >> 24n) & 1n) === 1n
}

t.test('ways of migration', { skip: noHosts, timeout: 175_000 }, async t => {
  const pair = await twoHosts(t, certificates)
  const { here, there, host, other, hosts, file } = pair
  const base = await blankDisk(file('base.qcow2'), '16M')
  const disk = file('disk.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, disk])
  const { guest, domain } = await bootGuest(pair, { network: false, disks: [{ file: disk }], memory: 96 }, { persistent: false })
  /** Where it is. */
  let at = { host, connect: here, domain }
  const destination = () => (at.connect === here ? { host: other, connect: there } : { host, connect: here })
  // The disk is shared, of which libvirt knows nothing.
  const options = (more: DomainMigrateOptions): DomainMigrateOptions => ({ unsafe: true, ...more })
  const move = async (more: DomainMigrateOptions) => {
    const to = destination()
    const result = await migrate(at.domain, to.connect, options(more)).done
    at = { ...to, domain: result.domain! }
    return result
  }
  const refused = (more: DomainMigrateOptions) =>
    failure(t, () => migrate(at.domain, destination().connect, options(more)).done)
  const run = async (command: string): Promise<string> => {
    const { exitCode, stdout, stderr } = await at.domain.agent.exec('/bin/sh', ['-c', command])
    if (exitCode !== 0) throw new Error(stderr.toString())
    return stdout.toString('latin1')
  }
  const runs = async (): Promise<void> => {
    const { state } = await at.domain.getState()
    t.equal(state, DomainState.RUNNING, 'it runs where it was')
  }
  await agentAnswers(domain)

  await t.test('TLS', async t => {
    await move({ tls: true })
    await move({ tls: true, parallel: 2 })
    const error = await refused({ tls: 'nobody' })
    // Either side may be the first to say so.
    t.match(error.message, /Certificate does not match the hostname nobody|Cannot read from TLS channel/)
    await runs()
    await move({ tls: destination().host.name })
    t.match(await run('echo $((6 * 7))'), '42')
  })

  await t.test('compressed', async t => {
    await move({ compress: { methods: ['xbzrle'], xbzrleCache: '16MiB' } })
    const { progress } = await move({ compress: { methods: ['mt'], level: 1, threads: 2, decompressThreads: 2 } })
    t.ok(progress.bytes < 50 << 20, `${progress.bytes} bytes`)
    t.equal((await refused({ compress: { methods: ['braille'] } })).code, 'VIR_ERR_INVALID_ARG')
  })

  await t.test('without copying in the kernel', async t => {
    t.match((await refused({ zeroCopy: true })).message, /only available for parallel migration/)
    const zeroCopy = { zeroCopy: true, parallel: 2 }
    if (mayRaiseLimits()) {
      await move(zeroCopy)
      t.match((await refused({ ...zeroCopy, tls: true })).message, /non-TLS/)
    } else {
      const error = await refused(zeroCopy)
      t.equal(error.code, 'VIR_ERR_SYSTEM_ERROR')
      t.match(error.message, /cannot limit locked memory/)
    }
    await runs()
  })

  await t.test('RDMA', async t => {
    const { address } = destination().host
    const rdma = { migrateUri: `rdma://${address}`, listenAddress: address }
    t.match((await refused(rdma)).message, /no memory hard limit/)
    await runs()
  })

  await t.test('a disk is copied', async t => {
    await run("printf 'first' | dd of=/dev/vda bs=1M seek=4 conv=notrunc,fsync")
    const found = async (megabyte: number): Promise<string> =>
      run(`dd if=/dev/vda bs=1M skip=${megabyte} count=1 iflag=direct 2>/dev/null | dd bs=5 count=1 2>/dev/null`)
    const elsewhere = async (to: string): Promise<DomainMigrateOptions> => {
      const [now] = (await at.domain.describe()).disks
      return { unsafe: false, xml: (await at.domain.getXMLDesc(DomainXMLFlags.MIGRATABLE)).replace(`'${now?.source}'`, `'${to}'`) }
    }
    const source = async (): Promise<string | undefined> => (await at.domain.describe()).disks[0]?.source
    const own = (image: string): number[] => {
      const map = execFileSync('qemu-img', ['map', '-U', '--output=json', image], { encoding: 'utf8' })
      const parts = JSON.parse(map) as { start: number; depth: number; data: boolean }[]
      return parts.filter(({ depth, data }) => depth === 0 && data).map(({ start }) => start)
    }

    const whole = await blankDisk(file('whole.qcow2'), '16M')
    const result = await move({ disks: 'copy', migrateDisks: ['vda'], ...(await elsewhere(whole)) })
    t.ok(result.progress.diskBlocks > 0, `${result.progress.diskBlocks} blocks`)
    t.equal(await source(), whole)
    t.equal(await found(4), 'first')

    // Back, but only what is above an image that both have.
    const layer = file('layer.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', whole, layer])
    const upper = file('upper.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', whole, upper])
    await at.domain.takeSnapshot({ kind: 'external', disks: { vda: { file: upper } }, reuse: true, noMetadata: true })
    await run("printf 'later' | dd of=/dev/vda bs=1M seek=9 conv=notrunc,fsync")
    await move({ disks: 'incremental', ...(await elsewhere(layer)) })
    t.equal(await source(), layer)
    t.strictSame([await found(4), await found(9)], ['first', 'later'])
    await at.domain.suspend()
    t.strictSame(own(layer), [9 << 20], 'nothing else was copied')
    await at.domain.resume()
  })

  await t.test('nothing to resume', async t => {
    t.match((await refused({ resumePostCopy: true })).message, /requires post-copy/)
    const error = await refused({ postCopy: true, resumePostCopy: true })
    t.equal(error.code, 'VIR_ERR_OPERATION_INVALID')
    t.match(error.message, /is not being migrated/)
    await runs()
  })

  await t.test('post-copy whose connection is cut goes on by another', async t => {
    const to = destination()
    const port = 49_300
    const program = `const net = require('net')
net.createServer(near => {
  const far = net.connect(${port}, '${to.host.address}')
  near.pipe(far).pipe(near)
  for (const end of [near, far]) end.on('error', () => {})
}).listen(${port}, '${hosts.wireAddress}', () => console.log('listening'))`
    const [command, ...args] = hosts.onWire(process.execPath, '-e', program)
    const cable = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => cable.kill('SIGKILL'))
    await once(cable.stdout, 'data')

    await run('echo remembered > /run/note')
    const events = to.connect.events('domain.lifecycle')
    await events.ready
    const lives = (async () => {
      for await (const event of events)
        if (
          event.kind === 'domain.lifecycle' &&
          event.args.event === DomainEventType.RESUMED &&
          event.args.detail === DomainEventResumedDetailType.POSTCOPY
        )
          return true
      return false
    })()
    const migration = migrate(
      at.domain,
      to.connect,
      options({ bandwidth: '8MiB', postCopy: { bandwidth: '2MiB' }, migrateUri: `tcp://${hosts.wireAddress}:${port}` })
    )
    let from: number | undefined
    for await (const { phase, bytes } of migration)
      if (phase === 'memory') await migration.startPostCopy().catch(() => undefined)
      else if (phase === 'post-copy' && cable.exitCode === null) {
        // QEMU 7.2 hangs when a guest waits for memory at that moment: one that is at rest soon has what it needs.
        if (from === undefined && (await lives)) from = bytes
        if (from !== undefined && bytes > from + (6 << 20)) cable.kill('SIGKILL')
      }
    const error = await failure(t, () => migration.done)
    t.equal(error.code, 'POST_COPY_BROKEN')
    t.match(error.message, /resumePostCopy/)
    const state = async (domain: Domain) => Object.values(await domain.getState())
    t.strictSame(await state(at.domain), [DomainState.PAUSED, DomainPausedReason.POSTCOPY_FAILED])
    await using moved = await to.connect.domainLookupByName(guest.name)
    t.strictSame(await state(moved), [DomainState.RUNNING, DomainRunningReason.POSTCOPY_FAILED])

    const resumed = migrate(at.domain, to.connect, options({ postCopy: true, resumePostCopy: true }))
    const phases = new Set<string>()
    for await (const { phase } of resumed)
      if (!phases.has(phase)) {
        phases.add(phase)
        if (phase === 'post-copy') await resumed.setBandwidth('400MiB')
      }
    const result = await resumed.done
    t.ok(result.postCopy)
    t.strictSame([...phases], ['connect', 'post-copy', 'done'])
    at = { ...to, domain: result.domain! }
    t.equal(await run('cat /run/note'), 'remembered\n')
  })

  await at.domain.destroy()
})
