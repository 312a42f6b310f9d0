// What breaks under a domain's life: libvirtd is killed, QEMU is killed, a connection ends in the middle of a migration.
import { once } from 'node:events'
import { connect as connectTo, createServer, type Socket } from 'node:net'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import {
  Connect,
  DomainEventType,
  DomainState,
  migrate,
  watchEvents,
  type Domain,
  type DomainMigration,
  type LibvirtError
} from '../../lib/libvirt/index.js'
import { bootGuest, noHosts, twoHosts } from './hosts.js'
import { failure } from './support.js'

async function stateAt(uri: string, name: string): Promise<DomainState | undefined> {
  await using connect = await Connect.open(uri)
  try {
    await using domain = await connect.domainLookupByName(name)
    return (await domain.getState()).state
  } catch {
    return undefined
  }
}

/** A way to a host that can be cut. */
async function cable(t: Test, socket: string, path: string): Promise<{ uri: string; cut: () => void }> {
  const ends = new Set<Socket>()
  const server = createServer(near => {
    const far = connectTo(socket)
    near.pipe(far).pipe(near)
    for (const end of [near, far]) ends.add(end.on('error', () => undefined))
  })
  server.listen(path)
  await once(server, 'listening')
  const cut = (): void => {
    for (const end of ends) end.destroy()
  }
  t.teardown(() => {
    cut()
    return new Promise(resolve => server.close(resolve))
  })
  return { uri: `qemu+unix:///system?socket=${path}`, cut }
}

/** Until a migration sends memory. */
async function underWay(migration: DomainMigration): Promise<void> {
  for await (const { phase, pages } of migration) if (phase === 'memory' && pages > 0) return
}

t.test('faults', { skip: noHosts, timeout: 175_000 }, async t => {
  const pair = await twoHosts(t)
  const { host, other, here } = pair
  const { guest } = await bootGuest(pair, { network: false, agent: false, memory: 96 }, { persistent: false })
  const { name } = guest
  const runs = async (uri: string): Promise<boolean> => (await stateAt(uri, name)) === DomainState.RUNNING
  /** A migration that goes on for long, as seen through a connection to its source. */
  const slowMove = async (t: Test, uri: string): Promise<DomainMigration> => {
    const { connect, domain } = await find(uri)
    const there = await Connect.open(other.uri)
    t.teardown(() => Promise.all([connect.close(), there.close()]))
    const migration = migrate(domain, there, { bandwidth: '2MiB' })
    await underWay(migration)
    return migration
  }
  const find = async (uri: string): Promise<{ connect: Connect; domain: Domain }> => {
    const connect = await Connect.open(uri)
    return { connect, domain: await connect.domainLookupByName(name) }
  }

  await t.test('the connection to the source breaks in the middle', async t => {
    const wire = await cable(t, host.socket, pair.file('cable'))
    const migration = await slowMove(t, wire.uri)
    wire.cut()
    const error = await failure(t, () => migration.done)
    t.equal(error.code, 'CONNECTION_LOST')
    t.match(error.message, /source/)
    while (!(await runs(host.uri)) || (await stateAt(other.uri, name)) !== undefined) await sleep(50)
    t.pass('it runs where it was, and only there')
  })

  await t.test('peer to peer it does not need the client', async t => {
    const wire = await cable(t, host.socket, pair.file('cable'))
    const { connect, domain } = await find(wire.uri)
    const migration = migrate(domain, other.peerUri, { bandwidth: '40MiB' })
    await underWay(migration)
    wire.cut()
    t.equal((await failure(t, () => migration.done)).code, 'CONNECTION_LOST')
    while (!(await runs(other.uri)) || (await stateAt(host.uri, name)) !== undefined) await sleep(50)
    t.pass('it has moved')
    await connect.close()
    const back = await find(other.uri)
    await migrate(back.domain, host.peerUri).done
    await back.connect.close()
  })

  await t.test('libvirtd of the source is killed in the middle', async t => {
    const migration = await slowMove(t, host.uri)
    await host.kill('SIGKILL')
    const error = await failure(t, () => migration.done)
    t.equal(error.code, 'CONNECTION_LOST')
    t.match(error.message, /source/)
    await host.start()
    while (!(await runs(host.uri)) || (await stateAt(other.uri, name)) !== undefined) await sleep(50)
    t.pass('when it is back, the domain runs where it was, and only there')
  })

  await t.test('libvirtd of the destination is killed in the middle', async t => {
    const migration = await slowMove(t, host.uri)
    await other.kill('SIGKILL')
    const error = await failure(t, () => migration.done)
    t.equal(error.code, 'CONNECTION_LOST')
    t.match(error.message, /destination/)
    t.ok(await runs(host.uri))
    await other.start()
    while ((await stateAt(other.uri, name)) !== undefined) await sleep(50)
  })

  await t.test('QEMU of the destination is killed in the middle', async t => {
    const migration = await slowMove(t, host.uri)
    process.kill(other.qemuPid(name)!, 'SIGKILL')
    const error = await failure(t, () => migration.done)
    t.not(error.code, 'CONNECTION_LOST')
    t.ok(error.number, error.message)
    t.ok(await runs(host.uri))
  })

  await t.test('libvirtd is restarted under a watch, and QEMU is killed', async t => {
    const kinds: string[] = []
    let restarted: Promise<void> | undefined
    for await (const event of watchEvents(() => Connect.open(host.uri), 'domain.lifecycle', { minDelayMs: 50 })) {
      kinds.push(event.kind)
      if (event.kind === 'open') restarted = host.restart('SIGKILL')
      else if (event.kind === 'gap') {
        await using domain = await event.connect.domainLookupByName(name)
        t.equal((await domain.getState()).state, DomainState.RUNNING, 'the guest has outlived its libvirtd')
        // While libvirtd is still finding its guests again, it tells of no end.
        await domain.qemuMonitorCommand('{"execute":"query-status"}')
        process.kill(host.qemuPid(name)!, 'SIGKILL')
      } else if (event.kind === 'domain.lifecycle' && event.args.event === DomainEventType.STOPPED) break
    }
    await restarted
    t.strictSame(kinds.slice(0, 2), ['open', 'gap'])
    t.equal(await stateAt(host.uri, name), undefined)
  })

  await t.test('a stale connection', async t => {
    const error = await failure(t, () => here.getHostname())
    t.ok(error.code, error.message)
    const save = await here.restoreFrom('/nowhere').catch((why: unknown) => why as LibvirtError)
    t.match(save, { name: 'LibvirtError' })
  })
})
