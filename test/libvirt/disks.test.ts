// Disks of a running domain on a real host: snapshots, checkpoints, backups, and block jobs with all their ends.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import t from 'tap'
import { describeSnapshot, DomainBlockJobType, DomainJobType, type BlockJobProgress, type Domain } from '../../lib/libvirt/index.js'
import { blankDisk, linuxGuest } from '../../scripts/hosts/index.mjs'
import { agentAnswers, bootGuest, noHosts, twoHosts } from './hosts.js'
import { failure } from './support.js'

/** The bytes of an image and all below it. */
function contents(file: string, from: number, length: number): string {
  const raw = `${file}.raw`
  execFileSync('qemu-img', ['convert', '-U', '-O', 'raw', file, raw])
  return execFileSync('dd', [`if=${raw}`, 'bs=1', `skip=${from}`, `count=${length}`, 'status=none']).toString('latin1')
}

/** Where an image has data of its own, as [offset, length]. */
function own(file: string): [number, number][] {
  const map = execFileSync('qemu-img', ['map', '-U', '--output=json', file], { encoding: 'utf8' })
  const parts = JSON.parse(map) as { start: number; length: number; depth: number; data: boolean }[]
  return parts.filter(({ depth, data }) => depth === 0 && data).map(({ start, length }) => [start, length])
}

t.test('disks of a running domain', { skip: noHosts, timeout: 175_000 }, async t => {
  const pair = await twoHosts(t)
  const { file, host, hosts } = pair
  const base = await blankDisk(file('base.qcow2'), '48M')
  const { domain } = await bootGuest(pair, { network: false, disks: [{ file: base }], memory: 96 })
  const write = async (text: string, megabyte: number): Promise<void> => {
    const { exitCode, stderr } = await domain.agent.exec('/bin/sh', [
      '-c',
      `printf '${text}' | /bin/dd of=/dev/vda bs=1M seek=${megabyte} conv=notrunc,fsync`
    ])
    if (exitCode !== 0) throw new Error(stderr.toString())
  }
  /** What the guest finds on its disk: of a file in use the host may see less. */
  const found = async (megabyte: number): Promise<string> => {
    const { stdout } = await domain.agent.exec('/bin/sh', [
      '-c',
      `/bin/dd if=/dev/vda bs=1M skip=${megabyte} count=1 iflag=direct | /bin/dd bs=5 count=1`
    ])
    return stdout.toString('latin1')
  }
  const fill = (megabytes: number): Promise<unknown> =>
    domain.agent.exec('/bin/dd', ['if=/dev/urandom', 'of=/dev/vda', 'bs=1M', 'seek=8', `count=${megabytes}`, 'oflag=direct'])
  const diskOf = async (of: Domain) => (await of.describe()).disks[0]!
  await agentAnswers(domain)
  await write('first', 4)

  await t.test('backup, and one of what was written since', async t => {
    const full = file('full.qcow2')
    const progress = await domain.backup({ disks: { vda: full }, checkpoint: 'monday' }).done
    t.ok(progress.totalBytes >= 2 ** 20, `${progress.totalBytes} bytes`)
    t.equal(contents(full, 4 << 20, 5), 'first')
    t.equal((await domain.listAllCheckpoints()).length, 1)
    await write('later', 1)
    const rest = file('rest.qcow2')
    await domain.backup({ disks: { vda: rest }, since: 'monday', checkpoint: 'tuesday' }).done
    t.strictSame(own(rest), [[1 << 20, 1 << 16]], 'nothing else is in it')
    execFileSync('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', full, rest])
    t.strictSame([contents(rest, 4 << 20, 5), contents(rest, 1 << 20, 5)], ['first', 'later'], 'both together are the disk')
    t.equal((await failure(t, () => domain.backup({ disks: { vdz: full } }).done)).code, 'EINVAL')
    t.throws(() => domain.backup({ disks: {} }), { code: 'EINVAL' })
    const unknown = await failure(t, () => domain.backup({ disks: { vda: file('x.qcow2') }, since: 'never' }).done)
    t.ok(unknown.number, unknown.message)
    await using checkpoint = await domain.takeCheckpoint({ name: 'wednesday', disks: ['vda'] })
    t.equal(await checkpoint.getName(), 'wednesday')
    for (const one of await domain.listAllCheckpoints()) await one.delete()
  })

  await t.test('of two backups each has its own end', async t => {
    const [one, two] = [file('early.qcow2'), file('late.qcow2')]
    const first = domain.backup({ disks: { vda: one } })
    const second = domain.backup({ disks: { vda: two } })
    await first.done
    await second.done
    t.equal((await domain.getJobStats()).type, DomainJobType.NONE, 'none goes on')
    t.strictSame([contents(one, 4 << 20, 5), contents(two, 4 << 20, 5)], ['first', 'first'])
  })

  await t.test('backup, read by others over NBD', async t => {
    const megabytes = 16
    /** Of all that is written to here; a guest takes its time over more. */
    const digest = async (): Promise<string> => {
      const command = `dd if=/dev/vda bs=1M count=${megabytes} iflag=direct 2>/dev/null | sha256sum`
      const { stdout } = await domain.agent.exec('/bin/sh', ['-c', command])
      return stdout.toString().slice(0, 64)
    }
    const read = (uri: string, ...where: string[]): string => {
      const raw = file('read.raw')
      execFileSync('env', [...where, 'qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, raw], { stdio: 'pipe' })
      return createHash('sha256').update(readFileSync(raw).subarray(0, megabytes << 20)).digest('hex')
    }
    const beside = (): string[] => readdirSync(dirname(base)).filter(name => name.startsWith(basename(base)))

    const before = await digest()
    const socket = file('backup.sock')
    const whole = await domain.exportBackup({ disks: ['vda'], server: { socket }, checkpoint: 'monday' })
    const { uri, exportName, bitmap } = whole.disks['vda']!
    t.strictSame([uri, exportName, bitmap], [`nbd+unix:///vda?socket=${socket}`, 'vda', undefined])
    t.equal(beside().length, 2, 'what the guest overwrites is kept')
    await write('during', 6)
    t.equal(read(uri), before, 'it is the disk as it was')
    t.equal(read(uri), before, 'as often as it is read')
    t.not(await digest(), before)
    t.notOk(whole.over)
    await whole.end()
    await whole.end()
    t.ok(whole.over)
    t.throws(() => read(uri), /Failed to connect/)
    t.strictSame([existsSync(socket), beside()], [false, [basename(base)]], 'nothing is left')

    const now = await digest()
    const scratch = file('scratch.qcow2')
    {
      await using rest = await domain.exportBackup({
        disks: { vda: { scratch, exportName: 'the disk' } },
        server: { host: host.address, port: 10809 },
        since: 'monday'
      })
      const { uri, exportName, bitmap } = rest.disks['vda']!
      t.equal(uri, 'nbd://10.0.0.1:10809/the%20disk')
      await write('later', 9)
      t.equal(read(uri, ...hosts.onWire()), now)
      const { hostname, port } = new URL(uri)
      const words = [`server.host=${hostname}`, `server.port=${port}`, `export=${exportName}`, `x-dirty-bitmap=${bitmap}`]
      const image = ['driver=nbd', 'server.type=inet', ...words].join(',')
      const [command, ...args] = hosts.onWire('qemu-img', 'map', '--output=json', '--image-opts', image)
      const map = JSON.parse(execFileSync(command, args, { encoding: 'utf8' })) as { start: number; length: number; data: boolean }[]
      const dirty = map.filter(({ data }) => !data).map(({ start, length }) => [start, length])
      t.strictSame(dirty, [[6 << 20, 1 << 16]], 'what was written since the checkpoint')
      t.ok(existsSync(scratch))
    }
    t.notOk(existsSync(scratch))

    const control = new AbortController()
    const reason = new Error('not now')
    const { signal } = control
    const given = await domain.exportBackup({ disks: ['vda'], server: { socket }, signal })
    control.abort(reason)
    await given.ended
    await t.rejects(domain.exportBackup({ disks: ['vda'], server: { socket }, signal }), reason)
    const given2 = new AbortController()
    const beginning = domain.exportBackup({ disks: ['vda'], server: { socket }, signal: given2.signal })
    given2.abort(reason)
    await t.rejects(beginning, reason)

    const others = await domain.exportBackup({ disks: ['vda'], server: { socket } })
    await domain.abortJob()
    await others.ended
    await others.end()
    for (const one of await domain.listAllCheckpoints()) await one.delete()
  })

  await t.test('a backup that nobody can read', async t => {
    const server = { socket: file('never.sock') }
    for (const wrong of [
      { disks: ['vdz'], server },
      { disks: [], server },
      { disks: ['vda'] },
      { disks: ['vda'], server: { socket: 'near' } },
      { disks: ['vda'], server: { host: '', port: 10809 } },
      { disks: ['vda'], server: { host: 'localhost' } },
      { disks: ['vda'], server: { host: 'localhost', port: 70000 } },
      { disks: ['vda'], server, signal: true }
    ])
      t.equal((await failure(t, () => domain.exportBackup(wrong as never))).code, 'EINVAL', JSON.stringify(wrong))
    for (const wrong of [{ since: 'never' }, { server: { socket: '/nowhere/at/all' } }, { server: { host: '192.0.2.1', port: 10809 } }]) {
      const error = await failure(t, () => domain.exportBackup({ disks: ['vda'], server, ...wrong }))
      t.ok(error.number, error.message)
    }
    // The domain ends under it.
    const brief = await linuxGuest({ hosts, network: false, agent: false, disks: [{ file: await blankDisk(file('brief.qcow2')) }] })
    await using ending = await pair.here.createDomain(brief.xml, { persistent: false, paused: true })
    const backup = await ending.exportBackup({ disks: ['vda'], server })
    process.kill(host.qemuPid(brief.name)!, 'SIGKILL')
    await t.rejects(backup.ended, { code: 'BACKUP_FAILED' })
    await t.rejects(backup.end(), { code: 'BACKUP_FAILED' })
  })

  await t.test('an internal snapshot, gone back to', async t => {
    await using snapshot = await domain.takeSnapshot({ name: 'before', description: 'nothing wrong <yet>' })
    const described = describeSnapshot(await snapshot.getXMLDesc())
    t.match(described, { name: 'before', description: 'nothing wrong <yet>', state: 'running', memory: 'internal' })
    await write('wrong', 4)
    t.equal(await found(4), 'wrong')
    await snapshot.revertToSnapshot()
    await agentAnswers(domain)
    t.equal(await found(4), 'first')
    await snapshot.delete()
    t.throws(() => describeSnapshot('<domain/>'), { code: 'EINVAL' })
  })

  await t.test('external snapshots, merged in both directions', async t => {
    const [one, two] = [file('one.qcow2'), file('two.qcow2')]
    await domain.takeSnapshot({ kind: 'external', disks: { vda: { file: one } }, noMetadata: true })
    await fill(12)
    await domain.takeSnapshot({ kind: 'external', disks: { vda: { file: two } }, noMetadata: true })
    await write('above', 2)
    t.match(await diskOf(domain), { source: two, backing: [{ source: one }, { source: base }] })

    const pull = domain.pullDisk('vda', { base: one, intervalMs: 10 })
    await pull.done
    t.match(await diskOf(domain), { source: two, backing: [{ source: one }] }, 'what lay between is in it')

    const seen: BlockJobProgress[] = []
    const commit = domain.commitDisk('vda', { base, bandwidth: '8MiB', intervalMs: 20 })
    for await (const progress of commit) seen.push(progress)
    t.equal((await commit.done).share, 1)
    await commit.ready
    t.ok(seen.some(({ share, type }) => share > 0 && share < 1 && type === DomainBlockJobType.ACTIVE_COMMIT), `${seen.length} looks`)
    t.ok(seen.some(({ bandwidth }) => bandwidth === 8n << 20n))
    t.match(await diskOf(domain), { source: base })
    t.equal(await found(2), 'above')
  })

  await t.test('copied: given up, finished, moved over to', async t => {
    const control = new AbortController()
    const reason = new Error('not that one')
    const slow = domain.copyDisk('vda', file('slow.qcow2'), { bandwidth: '1MiB', signal: control.signal, intervalMs: 10 })
    for await (const { current } of slow) if (current > 0n) control.abort(reason)
    await t.rejects(slow.done, reason)
    await t.rejects(slow.ready, reason)
    t.match(await diskOf(domain), { source: base })
    t.equal(await domain.getBlockJobInfo('vda'), undefined, 'no job is left')

    const copy = file('copy.qcow2')
    await domain.copyDisk('vda', copy, { then: 'finish', reuse: false }).done
    t.match(await diskOf(domain), { source: base })
    t.equal(contents(copy, 2 << 20, 5), 'above')

    const moved = file('moved.qcow2')
    const job = domain.copyDisk('vda', moved, { then: 'wait', bandwidth: '1MiB', intervalMs: 10 })
    const limits = new Set<bigint>()
    for await (const { bandwidth, current, ready } of job) {
      limits.add(bandwidth)
      // It would take a quarter of a minute.
      if (current > 0n && limits.size < 3) await job.setBandwidth('64MiB')
      if (ready) break
    }
    t.ok(limits.has(64n << 20n), [...limits].join())
    await job.ready
    t.ok(job.progress.ready)
    t.notOk(job.over)
    await write('moved', 3)
    await job.pivot()
    await job.done
    t.match(await diskOf(domain), { source: moved })
    t.equal(await found(3), 'moved')
  })

  await t.test('what cannot be', async t => {
    t.equal((await failure(t, () => domain.commitDisk('vdz').done)).code, 'EINVAL')
    t.throws(() => domain.copyDisk('vda', ''), { code: 'EINVAL' })
    t.throws(() => domain.pullDisk('vda', { bandwidth: 'much' }), { code: 'EINVAL' })
    const error = await failure(t, () => domain.copyDisk('vda', '/nowhere/at/all').done)
    t.ok(error.number, error.message)
  })

  await t.test('QEMU is killed in the middle of a block job', async t => {
    const job = domain.copyDisk('vda', file('never.qcow2'), { bandwidth: '1MiB', intervalMs: 10 })
    for await (const { current } of job)
      if (current > 0n && existsSync(file('never.qcow2'))) {
        process.kill(host.qemuPid(await domain.getName())!, 'SIGKILL')
        break
      }
    const error = await failure(t, () => job.done)
    t.ok(error.code === 'BLOCK_JOB_FAILED' || error.number !== undefined, `${error.code}: ${error.message}`)
    t.equal(await domain.waitForState(5), 5)
  })
})
