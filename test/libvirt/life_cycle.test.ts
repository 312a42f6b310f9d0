// A domain's life on a real host, by the comfort layer: made, watched, talked to, saved, and stopped.
import { existsSync } from 'node:fs'
import t, { type Test } from 'tap'
import {
  describeDomain,
  DomainRebootFlags,
  DomainState,
  domainXml,
  LibvirtError,
  type DirtyRateSource,
  type Domain,
  type StatsSample
} from '../../lib/libvirt/index.js'
import { guestPath } from '../../lib/index.js'
import { blankDisk, prompt } from '../../scripts/hosts/index.mjs'
import { agentAnswers, bootGuest, noHosts, twoHosts } from './hosts.js'
import { noKvm } from '../no_kvm.js'
import { failure, noLibvirt, testHost } from './support.js'

t.test('on the test driver', { skip: noLibvirt }, async t => {
  await using connect = await testHost()

  await t.test('made of a few words, waited for, stopped', async t => {
    await using domain = await connect.createDomain({ name: 'small', type: 'test', arch: 'i686', memory: '64MiB', vcpus: 2 }, { start: false })
    t.equal((await domain.getState()).state, DomainState.SHUTOFF)
    const described = await domain.describe()
    t.match(described, { name: 'small', memory: 64n << 20n, vcpus: 2 })
    const timeout = await failure(t, () => domain.waitForState(DomainState.RUNNING, { timeoutMs: 20 }))
    t.equal(timeout.code, 'TIMEOUT')
    const running = domain.waitForState(DomainState.RUNNING)
    await domain.create()
    t.equal(await running, DomainState.RUNNING)
    const reason = new Error('not so long')
    const control = new AbortController()
    const never = domain.waitForState(DomainState.PMSUSPENDED, { signal: control.signal })
    control.abort(reason)
    await t.rejects(never, reason)
    t.equal(await domain.stop(), true, 'its guest has shut down')
    t.equal(await domain.stop({ timeoutMs: 0 }), false, 'one that is off is fine')
    await domain.undefine()
  })

  await t.test('one that is not persistent is gone when it ends', async t => {
    const spec = { name: 'brief', type: 'test', arch: 'i686', memory: '64MiB' }
    t.equal((await failure(t, () => connect.createDomain(spec, { persistent: false, start: false }))).code, 'EINVAL')
    await using domain = await connect.createDomain(spec, { persistent: false })
    t.equal((await failure(t, () => connect.createDomain(spec, { persistent: false, paused: true }))).number, 8, 'this driver cannot')
    const paused = domain.waitForState(DomainState.PAUSED)
    const off = domain.waitForState(DomainState.SHUTOFF)
    await domain.destroy()
    t.equal((await failure(t, () => paused)).code, 'DOMAIN_GONE')
    t.equal(await off, undefined)
  })

  await t.test('saved and restored', async t => {
    await using domain = await connect.createDomain({ name: 'kept', type: 'test', arch: 'i686', memory: '64MiB' })
    const file = `${t.testdir()}/kept.save`
    await domain.saveTo(file).done
    t.equal((await domain.getState()).state, DomainState.SHUTOFF)
    const reason = new Error('no')
    await t.rejects(connect.restoreFrom(file, { signal: AbortSignal.abort(reason) }), reason)
    await using restored = await connect.restoreFrom(file)
    t.equal((await restored.getState()).state, DomainState.RUNNING)
    t.throws(() => domain.saveTo(''), LibvirtError)
    t.throws(() => domain.saveTo(undefined, { xml: '<domain/>' }), LibvirtError)
    const missing = await failure(t, () => domain.saveTo('/nowhere/at/all').done)
    t.ok(missing.number, missing.message)
  })

  await t.test('statistics', async t => {
    const control = new AbortController()
    const seen: StatsSample[] = []
    const reason = new Error('seen enough')
    await t.rejects(async () => {
      for await (const sample of connect.watchStats({ groups: ['state'], intervalMs: 1, signal: control.signal })) {
        seen.push(sample)
        if (seen.length === 3) control.abort(reason)
      }
    }, reason)
    t.equal(seen.length, 3)
    t.match(seen[0]?.domains.find(({ name }) => name === 'test'), { state: DomainState.RUNNING, stats: { 'state.state': 1 } })
    t.equal(seen[0]?.milliseconds, 0)
    t.ok(seen[1]!.milliseconds > 0)
    await t.rejects(connect.watchStats({ groups: ['weather' as never] }).next(), { code: 'EINVAL' })
  })
})

/** What the guest says to a command on its console. */
async function shell(t: Test, domain: Domain): Promise<(command: string) => Promise<string>> {
  const stream = await domain.console({ force: true })
  t.teardown(() => stream.destroy())
  let heard = ''
  let wake = (): void => undefined
  stream.on('data', (chunk: Buffer) => {
    heard += chunk.toString('latin1')
    wake()
  })
  stream.on('error', () => undefined)
  const until = async (text: string): Promise<string> => {
    while (!heard.includes(text)) await new Promise<void>(resolve => (wake = resolve))
    const at = heard.indexOf(text)
    const before = heard.slice(0, at)
    heard = heard.slice(at + text.length)
    return before
  }
  return async command => {
    stream.write(`${command}; echo end-of-$((40 + 2))\n`)
    const said = await until('end-of-42')
    await until(prompt)
    return said
  }
}

t.test('dirty rates of KVM, by its bitmap and its ring', { skip: noHosts || noKvm }, async t => {
  const pair = await twoHosts(t)
  const spec = { memory: '64MiB', cpu: 'host-passthrough', agent: false }
  // Not all that offer the MSR take it, and QEMU then ends.
  const plain = (xml: string): string => xml.replace('"host-passthrough"/>', '"host-passthrough"><feature policy="disable" name="arch-capabilities"/></cpu>')
  // A guest of our own writes 1024 pages over and over.
  const boot = { kernel: guestPath('dirtier'), commandLine: 'rounds=0' }
  await using domain = await pair.here.createDomain(plain(domainXml({ ...spec, name: 'dirtier', boot })), { persistent: false })
  const bitmap = domain.dirtyRate('dirty-bitmap')
  // The first time all pages count; once the guest has booted it is the same ones each time.
  let sample = await bitmap.measure()
  for (let tries = 0; tries < 10 && sample.pages !== 1024; tries++) sample = await bitmap.measure()
  t.strictSame(sample, { mode: 'dirty-bitmap', milliseconds: 1000, bytes: 4 << 20, bytesPerSecond: 4 << 20, pages: 1024, vcpus: [] })
  // The BIOS alone: not every KVM survives the ring with a guest that writes much.
  const xml = domainXml({ ...spec, name: 'ring' }).replace('<acpi/>', "<acpi/><kvm><dirty-ring state='on' size='4096'/></kvm>")
  await using ring = await pair.here.createDomain(plain(xml), { persistent: false })
  const rate = await ring.dirtyRate('dirty-ring').measure()
  t.ok(rate.bytesPerSecond >= 2 ** 20, `${rate.bytesPerSecond / 2 ** 20} MiB/s by its ring`)
  t.strictSame(rate.vcpus, [rate.bytesPerSecond])
})

t.test('on a real host', { skip: noHosts, timeout: 175_000 }, async t => {
  const pair = await twoHosts(t)
  const { here, file } = pair
  const disk = await blankDisk(file('disk.qcow2'), '16M')
  const { guest, domain } = await bootGuest(pair, { network: false, disks: [{ file: disk }], dirty: { mib: 8, rate: 16 } })

  await t.test('described', async t => {
    const { name, type, disks, serials, channels, uuid } = await domain.describe()
    t.match({ name, type, uuid }, { name: guest.name, type: 'qemu', uuid: await domain.getUUIDString() })
    t.match(disks, [{ target: 'vda', source: disk, format: 'qcow2', bus: 'virtio', alias: /virtio-disk0/ }])
    t.match(serials, [{ type: 'pty', alias: 'serial0' }])
    t.equal(channels[0]?.name, 'org.qemu.guest_agent.0')
    t.equal(describeDomain(guest.xml).disks[0]?.alias, undefined)
  })

  await t.test('its console', async t => {
    const say = await shell(t, domain)
    t.match(await say('hostname'), guest.name)
    const error = await failure(t, () => domain.console({ device: 'nothing0' }))
    t.ok(error.number, error.message)
  })

  await t.test('its agent', async t => {
    const { agent } = domain
    await agentAnswers(domain)
    t.match(await agent.command('guest-get-host-name'), { 'host-name': guest.name })
    t.ok((await agent.command('guest-info')).supported_commands.length > 10)
    const { exitCode, stdout, stderr } = await agent.exec('/bin/sh', ['-c', 'cat; echo $WORD >&2; exit 3'], {
      input: 'some input',
      env: { WORD: 'complaint', PATH: '/bin' },
      intervalMs: 20
    })
    t.strictSame([exitCode, stdout.toString(), stderr.toString()], [3, 'some input', 'complaint\n'])
    const bytes = Buffer.alloc(300_000, 'abcdefg')
    await agent.writeFile('/run/file', bytes)
    t.ok((await agent.readFile('/run/file')).equals(bytes))
    const error = await failure(t, () => agent.command('guest-nonsense', { a: 1 }))
    t.match(error.message, /guest-nonsense/)
    const control = new AbortController()
    const slow = agent.exec('/bin/sleep', ['100'], { signal: control.signal })
    setTimeout(() => control.abort(new Error('no time')), 100)
    await t.rejects(slow, { message: 'no time' })
  })

  await t.test('its statistics', async t => {
    const seen: StatsSample[] = []
    for await (const sample of here.watchStats({ domains: [domain], intervalMs: 300 })) if (seen.push(sample) === 2) break
    const [, second] = seen.map(({ domains }) => domains[0])
    t.equal(second?.uuid, await domain.getUUIDString())
    t.ok(second!.cpu! > 0, `it has ${second?.cpu} CPUs`)
    t.ok(second!.memory! > 2 ** 20)
    t.equal(second?.diskWritten, 0)
  })

  await t.test('its dirty rate', async t => {
    const source: DirtyRateSource = domain.dirtyRate()
    for await (const sample of source.samples()) {
      t.match(sample, { milliseconds: 1000, mode: 'page-sampling', vcpus: [] })
      t.equal(sample.bytes, sample.bytesPerSecond)
      break
    }
    const error = await failure(t, () => domain.dirtyRate('dirty-ring').measure())
    t.match(error.message, /dirty-ring/, 'with TCG there is no ring')
    t.throws(() => domain.dirtyRate('by-ear' as never), { code: 'EINVAL' })
    const slow = domain.dirtyRate().measure({ seconds: 60, signal: AbortSignal.timeout(100) })
    await t.rejects(slow, { name: 'TimeoutError' })
    await t.rejects(domain.dirtyRate().measure({ seconds: 0 }), { code: 'EINVAL' })
  })

  await t.test('paused and resumed', async t => {
    const monitor = here.events('qemu.monitor', { domain, qemuEvent: 'STOP' })
    await monitor.ready
    const paused = domain.waitForState(DomainState.PAUSED)
    await domain.suspend()
    t.equal(await paused, DomainState.PAUSED)
    t.match(await monitor.next(), { value: { args: { event: 'STOP' } } }, "QEMU's own word")
    await monitor.return()
    await domain.resume()
    t.equal(await domain.waitForState([DomainState.RUNNING, DomainState.BLOCKED]), DomainState.RUNNING)
  })

  await t.test('a disk comes and goes', async t => {
    const second = await blankDisk(file('second.qcow2'), '8M')
    await domain.attach({ disk: { file: second, serial: 'second' } })
    const { disks } = await domain.describe()
    t.match(disks[1], { target: 'vdb', source: second })
    t.equal(describeDomain(await domain.getXMLDesc(2)).disks.length, 2, 'in its definition, too')
    const say = await shell(t, domain)
    t.match(await say('while [ ! -e /sys/block/vdb/size ]; do usleep 50000; done; cat /sys/block/vdb/size'), /16384/)
    await domain.detach('vdb')
    t.equal((await domain.describe()).disks.length, 1)
    t.match(await say('ls /sys/block'), /vda/)
    t.notMatch(await say('ls /sys/block'), /vdb/)
    t.equal((await failure(t, () => domain.detach('vdz'))).code, 'EINVAL')
  })

  await t.test('saving given up', async t => {
    const reason = new Error('rather not')
    const image = file('given-up.save')
    for (let outcome: unknown; outcome !== reason;) {
      // The one before was saved before it could be given up.
      if (outcome !== undefined) await (await here.restoreFrom(image)).close()
      const control = new AbortController()
      const save = domain.saveTo(image, { signal: control.signal, intervalMs: 1 })
      for await (const { stats } of save) if (stats.time_elapsed !== undefined) control.abort(reason)
      outcome = await save.done.catch((error: unknown) => error)
    }
    t.equal((await domain.getState()).state, DomainState.RUNNING, 'it runs on')
  })

  await t.test('saved, restored in two ways, and restoring given up', async t => {
    const say = await shell(t, domain)
    await say('echo remembered > /run/note')
    const image = file('guest.save')
    const save = domain.saveTo(image)
    const progress = await save.done
    t.ok(existsSync(image))
    t.ok(progress.remainingBytes === 0 && progress.totalBytes >= 0)
    t.equal((await domain.getState()).state, DomainState.SHUTOFF)

    const reason = new Error('not now')
    for (let outcome: unknown; outcome !== reason;) {
      // The one before was restored before it could be given up.
      if (outcome !== undefined) await domain.saveTo(image).done
      const control = new AbortController()
      const restoring = here.restoreFrom(image, { signal: control.signal, paused: true })
      const ended = restoring.then(restored => restored.close(), (error: unknown) => error)
      // QEMU is there, and its memory is being read.
      while (!(await domain.isActive())) await new Promise(resolve => setImmediate(resolve))
      control.abort(reason)
      outcome = (await ended) ?? 'restored'
    }
    t.equal((await domain.getState()).state, DomainState.SHUTOFF, 'it is off again')
    t.ok(existsSync(image), 'the file is as it was')
    const early = new AbortController()
    const notBegun = here.restoreFrom(image, { signal: early.signal })
    setImmediate(() => early.abort(reason))
    await t.rejects(notBegun, reason)
    t.equal((await domain.getState()).state, DomainState.SHUTOFF)

    await using restored = await here.restoreFrom(image, { paused: true })
    t.equal((await restored.getState()).state, DomainState.PAUSED)
    await restored.resume()
    t.match(await (await shell(t, restored))('cat /run/note'), /remembered/)

    await restored.saveTo(undefined).done
    t.ok(await restored.hasManagedSaveImage())
    await restored.create()
    t.notOk(await restored.hasManagedSaveImage())
    t.match(await (await shell(t, restored))('cat /run/note'), /remembered/)
  })

  await t.test('rebooted, reset, stopped', async t => {
    const reboots = here.events('domain.reboot', { domain })
    await reboots.ready
    const rebooted = async (): Promise<void> => {
      t.match(await reboots.next(), { value: { kind: 'domain.reboot' } })
    }
    let at = guest.console.length
    await domain.reboot(DomainRebootFlags.ACPI_POWER_BTN)
    await rebooted()
    at = await guest.waitFor(prompt, { from: at, timeout: 120_000 })
    await agentAnswers(domain)
    await domain.reboot(DomainRebootFlags.GUEST_AGENT)
    await rebooted()
    await domain.reset()
    await rebooted()
    await reboots.return()
    at = await guest.waitFor(prompt, { from: at, timeout: 120_000 })
    t.equal(await domain.stop({ timeoutMs: 60_000 }), true, 'the guest has shut down by itself')
    t.equal((await domain.getState()).state, DomainState.SHUTOFF)
    await domain.create()
    const slow = await failure(t, () => domain.stop({ timeoutMs: 50, then: 'fail' }))
    t.equal(slow.code, 'TIMEOUT')
    t.equal(await domain.stop({ timeoutMs: 50 }), false, 'it was destroyed')
    t.ok(guest.console.length >= at)
    await domain.undefine()
  })
})
