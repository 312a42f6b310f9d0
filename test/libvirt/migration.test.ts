// Domains move between two real hosts: by every way that libvirt has, watched, cancelled, switched to post-copy.
import t from 'tap'
import { DomainState, LibvirtError, migrate, type DomainMigrationProgress } from '../../lib/libvirt/index.js'
import { bootGuest, noHosts, twoHosts } from './hosts.js'
import { failure, noLibvirt, testHost } from './support.js'

t.test('options that cannot be', { skip: noLibvirt }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  const code = (body: () => unknown): string => {
    try {
      body()
      return 'none'
    } catch (error) {
      return (error as LibvirtError).code
    }
  }
  t.equal(code(() => migrate({} as never, connect)), 'EINVAL')
  t.equal(code(() => migrate(domain, '')), 'EINVAL')
  t.equal(code(() => migrate(domain, connect, { tunnelled: true })), 'EINVAL', 'tunnelled needs a URI')
  t.equal(code(() => migrate(domain, connect, { offline: true })), 'EINVAL', 'offline needs persist')
  t.equal(code(() => migrate(domain, connect, { bandwidth: 'fast' })), 'EINVAL')
  t.equal(code(() => migrate(domain, connect, { disks: 'some' as never })), 'EINVAL')
  t.equal(code(() => migrate(domain, connect, { parallel: 0.5 })), 'EINVAL')
  const reason = new Error('no more')
  t.throws(() => migrate(domain, connect, { signal: AbortSignal.abort(reason) }), reason)
  const refused = migrate(domain, connect)
  await t.rejects(refused.done, LibvirtError, 'the test driver cannot')
  const seen = []
  for await (const progress of refused) seen.push(progress)
  t.equal(seen.length, 1, 'an iteration after the end gives the last progress')
})

t.test('two hosts', { skip: noHosts, timeout: 170_000 }, async t => {
  const pair = await twoHosts(t)
  const { host, other, here, there } = pair
  const { guest, domain } = await bootGuest(pair, { dirty: { mib: 8, rate: 8 }, network: false, agent: false }, { persistent: false })
  const stateAt = async (at: typeof here): Promise<DomainState | undefined> => {
    try {
      await using found = await at.domainLookupByName(guest.name)
      return (await found.getState()).state
    } catch {
      return undefined
    }
  }
  let current = domain

  await t.test('by the client, with rounds', async t => {
    // On a busy machine a look can take a second: the first round lasts for many, the others need not.
    const migration = migrate(current, there, { bandwidth: '10MiB', intervalMs: 20 })
    const seen: DomainMigrationProgress[] = []
    for await (const progress of migration) {
      if (progress.phase === 'memory' && progress.round > 1 && seen.at(-1)?.round === 1) await migration.setBandwidth('40MiB')
      seen.push(progress)
    }
    const result = await migration.done
    t.ok(migration.over)
    t.equal(seen[0]?.phase, 'connect')
    const memory = seen.filter(({ phase }) => phase === 'memory')
    t.ok(memory.length > 3, `${memory.length} looks while memory is sent`)
    t.ok(memory.some(({ remainingBytes, bytesPerSecond }) => remainingBytes > 0 && bytesPerSecond > 0))
    t.ok(memory.some(({ dirtyPagesPerSecond }) => dirtyPagesPerSecond > 0), 'the guest writes')
    t.equal(seen.at(-1)?.phase, 'done')
    t.ok(result.rounds.length >= 2, `${result.rounds.length} rounds`)
    const [first] = result.rounds
    t.ok(first && first.pages > 20_000 && first.zeroPages > 0 && first.bytes > 2 ** 20)
    t.ok(result.rounds.some(({ dirtyPagesPerSecond }) => dirtyPagesPerSecond > 0))
    t.equal(result.rounds.at(-1)?.dirtyPagesPerSecond, 0, 'it stood still')
    const sum = result.rounds.reduce((pages, round) => pages + round.pages, 0)
    t.equal(sum, result.progress.pages, 'rounds add up')
    t.ok(result.blackoutMs !== undefined && result.blackoutMs > 0)
    t.notOk(result.postCopy)
    t.equal(await stateAt(here), undefined)
    t.equal((await result.domain!.getState()).state, DomainState.RUNNING)
    await result.domain!.close()
  })

  await t.test('peer to peer, through the tunnel of the two libvirts', async t => {
    await using domain = await there.domainLookupByName(guest.name)
    const result = await migrate(domain, host.peerUri, { tunnelled: true }).done
    t.equal(result.domain, undefined, 'the destination is not this process’ business')
    t.equal(result.progress.phase, 'done')
    t.equal(await stateAt(there), undefined)
    t.equal(await stateAt(here), DomainState.RUNNING)
  })

  await t.test('peer to peer, over several connections', async t => {
    await using domain = await here.domainLookupByName(guest.name)
    await migrate(domain, other.peerUri, { parallel: 2, persist: true }).done
    t.equal(await stateAt(here), undefined)
    t.equal(await stateAt(there), DomainState.RUNNING)
    current = await there.domainLookupByName(guest.name)
    t.ok(await current.isPersistent(), 'it is defined there')
    await current.undefine()
  })

  await t.test('cancelled', async t => {
    const migration = migrate(current, here, { bandwidth: '2MiB' })
    for await (const { phase } of migration) if (phase === 'memory') migration.cancel()
    const error = await failure(t, () => migration.done)
    t.equal(error.code, 'CANCELLED')
    t.equal((error.cause as LibvirtError).code, 'VIR_ERR_OPERATION_ABORTED')
    t.equal((await current.getState()).state, DomainState.RUNNING, 'it runs where it was')
    t.equal(await stateAt(here), undefined, 'nothing is left at the destination')
  })

  await t.test('aborted by a signal before anything has begun', async t => {
    const control = new AbortController()
    const reason = new Error('enough')
    const migration = migrate(current, here, { bandwidth: '2MiB', signal: control.signal })
    control.abort(reason)
    await t.rejects(migration.done, reason)
    t.equal((await current.getState()).state, DomainState.RUNNING)
    t.equal(await stateAt(here), undefined)
  })

  await t.test('slowed down, then given more room', async t => {
    const migration = migrate(current, here, { bandwidth: '1MiB', autoConverge: { initial: 20, increment: 10 }, maxBlackoutMs: 200 })
    for await (const { phase } of migration)
      if (phase === 'memory') {
        await migration.setMaxBlackout(1000)
        await migration.setBandwidth('100MiB')
        break
      }
    const { domain } = await migration.done
    t.equal(await stateAt(there), undefined)
    current = domain!
  })

  await t.test('post-copy', async t => {
    const migration = migrate(current, there, { bandwidth: '4MiB', postCopy: { bandwidth: '400MiB' } })
    const error = await failure(t, () => migration.startPostCopy())
    t.equal(error.code, 'VIR_ERR_OPERATION_INVALID', 'not before memory is being sent')
    const phases = new Set<string>()
    for await (const { phase, round } of migration) {
      phases.add(phase)
      if (phase === 'memory' && round > 0 && !phases.has('asked')) {
        phases.add('asked')
        await migration.startPostCopy()
      }
    }
    const result = await migration.done
    t.ok(result.postCopy)
    t.ok(phases.has('post-copy'), [...phases].join(' '))
    t.equal(await stateAt(here), undefined)
    t.equal((await result.domain!.getState()).state, DomainState.RUNNING)
    current = result.domain!
  })

  await t.test('a destination that is not there', async t => {
    const error = await failure(t, () => migrate(current, 'qemu+tcp://nowhere.invalid/system').done)
    t.ok(error.number, error.message)
    t.equal((await current.getState()).state, DomainState.RUNNING)
  })

  await current.destroy()
})
