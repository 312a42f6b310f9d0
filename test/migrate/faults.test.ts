// Migration when something goes wrong: the machine goes on at one side, and the other one says why.
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { Arbiter } from '../../lib/arbiter/index.js'
import { Recording } from '../../lib/eventlog/index.js'
import type { Machine } from '../../lib/machine/index.js'
import { listen, migrate, MigrateError, type MigrateOptions, type Migration } from '../../lib/migrate/index.js'
import { code, endless, failure, guest, listener, move, noKvm as skip, noOpenssl, Peer, scratch, tlsIn } from './support.js'

async function runs(t: Test, machine: Machine): Promise<void> {
  t.equal(machine.state, 'running')
  const before = machine.boundary
  while (machine.boundary < before + 5n) await new Promise(resolve => setTimeout(resolve, 5))
  t.pass('it goes on')
}
const running = async (t: Test): Promise<Machine> => {
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  return machine
}
/** A guest that takes for ever to move. */
const busy = async (t: Test): Promise<Machine> => {
  const machine = await guest(t, 'dirtier', 'base=8M rounds=0 pages=1500 pattern=random')
  await machine.start()
  return machine
}
const slow = { bandwidth: 65536, compress: false }
/** Until memory is on its way. */
async function moving(migration: Migration): Promise<void> {
  for await (const { phase, bytes } of migration) if (phase === 'memory' && bytes > 0) return
}

// ---- arguments and states

t.test('arguments', { skip }, async t => {
  const machine = await running(t)
  for (const address of ['', 'host:1', 'tcp://', 'http://a:1', 7, undefined])
    t.throws(() => migrate(machine, address as string), code('EINVAL'), String(address))
  for (const address of ['tcp://127.0.0.1', 'tcp://127.0.0.1:99999', 'unix:'])
    await t.rejects((async () => migrate(machine, address).done)(), MigrateError, address)
  const wrong: Record<string, unknown>[] = [
    { disks: 'some' },
    { compress: 1 },
    { bandwidth: '10 parrots' },
    { bandwidth: -1 },
    { maxBlackoutMs: -1 },
    { maxBlackoutMs: NaN },
    { maxRounds: 0 },
    { maxRounds: 1.5 },
    { mustConverge: 'yes' },
    { arbiter: {} },
    { tls: {} },
    { tls: { ca: 'ca.pem', cert: 'cert.pem', key: 'key.pem' } },
    { connectTimeoutMs: 0 },
    { signal: 'stop' }
  ]
  for (const options of wrong)
    t.throws(() => migrate(machine, 'tcp://127.0.0.1:1', options), { code: 'EINVAL' }, JSON.stringify(options))
  for (const nothing of [undefined, {}, 'machine'])
    t.throws(() => migrate(nothing as never, 'tcp://127.0.0.1:1'), code('EINVAL'))
  for (const options of [{ disks: 'a' }, { disks: [7] }, { diskFolders: 'a' }, { diskFolders: [''] }, { taps: [''] }, { startPaused: 1 }, { onRefused: 1 }, { arbiter: 1 }])
    await t.rejects(listen('tcp://127.0.0.1:0', options as never), { code: 'EINVAL' }, JSON.stringify(options))
  await runs(t, machine)
})

t.test('machines that cannot be moved', { skip }, async t => {
  const to = await listener(t)
  const refused = async (machine: Machine, expected: string): Promise<void> => {
    const error = await failure(migrate(machine, to.address).done)
    t.match(error, { code: expected, name: 'MigrateError' })
  }
  await refused(await guest(t, 'hello'), 'BAD_STATE')
  const stopped = await running(t)
  await stopped.stop()
  await refused(stopped, 'BAD_STATE')
  await stopped.close()
  await refused(stopped, 'CLOSED')
  const recorded = await running(t)
  await using recording = await Recording.start(recorded, path.join(scratch(t), 'log'))
  await refused(recorded, 'BAD_STATE')
  await recording.stop()
  await move(t, recorded, to)
})

t.test('a machine that moves cannot move twice', { skip }, async t => {
  const to = await listener(t)
  const machine = await busy(t)
  const accepted = to.accept()
  const first = migrate(machine, to.address, slow)
  await accepted
  await moving(first)
  t.throws(() => migrate(machine, to.address), code('BAD_STATE'))
  first.cancel()
  await t.rejects(first.done, code('CANCELLED'))
})

// ---- connecting

t.test('nobody there', { skip }, async t => {
  const machine = await running(t)
  const folder = scratch(t)
  const gone = await listen('tcp://127.0.0.1:0')
  await gone.close()
  await t.rejects(migrate(machine, gone.address).done, code('PEER_UNREACHABLE'))
  await t.rejects(migrate(machine, `unix:${folder}/nobody`).done, code('PEER_UNREACHABLE'))
  await t.rejects(migrate(machine, 'tcp://no.such.host.invalid:1').done, code('PEER_UNREACHABLE'))
  await runs(t, machine)
})

t.test('somebody else there', { skip }, async t => {
  const machine = await running(t)
  for (const [what, serve, expected] of [
    ['closes at once', (socket: Socket) => socket.destroy(), 'PEER_LOST'],
    ['speaks HTTP', (socket: Socket) => socket.write('HTTP/1.1 400 Bad Request\r\n'.repeat(10)), 'PROTOCOL'],
    ['says nothing', () => undefined, 'PEER_LOST']
  ] as const) {
    const sockets = new Set<Socket>()
    const server = createServer(socket => {
      sockets.add(socket.on('error', () => undefined))
      serve(socket)
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const error = await failure(migrate(machine, `tcp://127.0.0.1:${port}`, { patienceMs: 200 }).done)
    t.match(error, { code: expected }, what)
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  await runs(t, machine)
})

t.test('a listener that nobody should talk to like that', { skip }, async t => {
  const to = await listener(t)
  const port = Number(/:(\d+)$/.exec(to.address)?.[1])
  for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\0'.repeat(64), '']) {
    const accepted = to.accept()
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    socket.end(bytes)
    const error = await failure((await accepted).done)
    t.ok(['PROTOCOL', 'PEER_LOST'].includes(error.code ?? ''), `${JSON.stringify(bytes.slice(0, 8))}: ${error.code}`)
    socket.destroy()
  }
  const machine = await running(t)
  await move(t, machine, to)
})

t.test('an address that is taken, a device that is not there', { skip }, async t => {
  const first = await listener(t)
  await t.rejects(listen(first.address), code('EADDRINUSE'))
  await t.rejects(listen('tcp://127.0.0.1:0', { device: '/dev/nothing' }), code('ENOENT'))
  await first.close()
  await first.close()
  t.ok(first.closed)
  await t.rejects(first.accept(), code('CLOSED'))
  for await (const _ of first) t.fail('nothing comes any more')
})

t.test('who gives up waiting leaves at once, and what comes to the next', { skip }, async t => {
  const to = await listener(t)
  const [one, two] = [new AbortController(), new AbortController()]
  const first = to.accept({ signal: one.signal })
  const second = to.accept({ signal: two.signal })
  const third = to.accept()
  const reason = new Error('enough')
  two.abort(reason)
  await t.rejects(second, reason)
  one.abort(reason)
  await t.rejects(first, reason)
  const migration = migrate(await running(t), to.address)
  const { machine: there } = await (await third).done
  t.teardown(() => there.close())
  await migration.done
})

t.test('TLS that does not fit', { skip: skip || noOpenssl }, async t => {
  const folder = scratch(t)
  const mine = { ...tlsIn(folder, 'mine'), servername: 'localhost' }
  const foreign = { ...tlsIn(folder, 'foreign'), servername: 'localhost' }
  const refused: string[] = []
  const to = await listener(t, { tls: mine, onRefused: reason => refused.push(reason) })
  const machine = await running(t)
  const accepted = to.accept()
  const tries: [string, MigrateOptions, RegExp][] = [
    ['no TLS', { patienceMs: 2000 }, /^(PEER_LOST|PROTOCOL)$/],
    ["another authority's certificate", { tls: { ...foreign, ca: mine.ca } }, /^(TLS_FAILED|PEER_LOST)$/],
    ['another authority trusted', { tls: { ...mine, ca: foreign.ca } }, /^TLS_FAILED$/],
    ['another name expected', { tls: { ...mine, servername: 'elsewhere.example' } }, /^TLS_FAILED$/],
    ["another one's key", { tls: { ...mine, key: foreign.key } }, /^TLS_FAILED$/],
    ['no certificate at all', { tls: { ...mine, cert: '-----BEGIN NOTHING' } }, /^TLS_FAILED$/]
  ]
  for (const [what, options, expected] of tries) {
    const error = await failure(migrate(machine, to.address, options).done)
    t.match(error.code, expected, what)
    await runs(t, machine)
  }
  // Still listens; what failed never became a migration.
  const migration = migrate(machine, to.address, { tls: mine })
  const { machine: there } = await (await accepted).done
  t.teardown(() => there.close())
  await migration.done
  t.ok(refused.length >= 2, `told why: ${refused.join('; ')}`)
  const plain = await listener(t)
  void plain.accept().then(incoming => incoming.done).catch(() => undefined)
  t.match((await failure(migrate(there, plain.address, { tls: mine, connectTimeoutMs: 2000 }).done)).code, /TLS_FAILED|PEER_LOST|TIMEOUT|PEER_UNREACHABLE/)
})

// ---- the destination says no

t.test('a destination that cannot take it says why', { skip }, async t => {
  const folder = scratch(t)
  const image = path.join(folder, 'disk.img')
  writeFileSync(image, Buffer.alloc(1 << 20))
  const machine = await guest(t, 'hello', endless, { disks: [{ path: image }] })
  await machine.start()
  for (const [what, options, expected] of [
    ['a disk that is not there', { disks: [path.join(folder, 'none.img')] }, 'ENOENT'],
    ['more disks than it has', { disks: [image, image] }, 'BAD_CONFIG'],
    ['taps that it does not have', { disks: [image], taps: ['tap7'] }, 'BAD_CONFIG'],
    ['a disk that nobody named here', {}, 'BAD_CONFIG'],
    ['one in no folder of those', { diskFolders: [path.join(folder, 'other')] }, 'BAD_CONFIG']
  ] as const) {
    const to = await listener(t, options)
    const accepted = to.accept()
    const migration = migrate(machine, to.address)
    const there = await failure((await accepted).done)
    t.equal(there.code, expected, what)
    const here = await failure(migration.done)
    t.equal(here.code, 'REFUSED', what)
    t.match(here.message, expected === 'ENOENT' ? 'none.img' : /\d/, here.message)
    await runs(t, machine)
  }
})

t.test('turned away while it comes', { skip }, async t => {
  const to = await listener(t)
  const machine = await busy(t)
  for (const reason of [undefined, new Error('maintenance')]) {
    const accepted = to.accept()
    const migration = migrate(machine, to.address, slow)
    const incoming = await accepted
    await moving(migration)
    if (reason) incoming.cancel(reason)
    else incoming.cancel()
    const there = await failure(incoming.done)
    if (reason) t.equal(there, reason)
    else t.match(there, { code: 'CANCELLED' })
    t.match((await failure(migration.done)).code, /PEER_LOST|REFUSED/)
    t.equal(machine.state, 'running')
  }
})

// ---- cancelling

t.test('cancelled, by method and by signal, at each moment', { skip }, async t => {
  const to = await listener(t)
  const machine = await busy(t)
  t.throws(() => migrate(machine, to.address, { signal: AbortSignal.abort(new Error('too early')) }), { message: 'too early' })
  for (const by of ['cancel', 'signal'])
    for (const when of ['at once', 'while memory moves', 'after a round']) {
      const accepted = to.accept()
      const controller = new AbortController()
      const migration = migrate(machine, to.address, {
        ...(when === 'after a round' ? { maxBlackoutMs: 0, maxRounds: 1_000_000 } : slow),
        signal: controller.signal
      })
      if (when !== 'at once') {
        await accepted
        for await (const { phase, bytes, round } of migration)
          if (phase === 'memory' && bytes > 0 && (when !== 'after a round' || round > 1)) break
      }
      const reason = new Error('enough')
      if (by === 'cancel') migration.cancel()
      else controller.abort(reason)
      const error = await failure(migration.done)
      if (by === 'cancel') t.match(error, { code: 'CANCELLED' }, `${by} ${when}`)
      else t.equal(error, reason, `${by} ${when}`)
      t.equal(machine.state, 'running')
      migration.cancel()
      if (when === 'at once') {
        // It may never have connected: then this one waits for what comes next.
        void accepted.then(incoming => incoming.done).catch(() => undefined)
        const { port, address } = { port: Number(/:(\d+)$/.exec(to.address)?.[1]), address: '127.0.0.1' }
        connect(port, address).on('error', () => undefined).destroy()
        await accepted
      } else t.match((await failure((await accepted).done)).code, /ABORTED|PEER_LOST/)
    }
  const before = machine.boundary
  while (machine.boundary === before) await new Promise(resolve => setTimeout(resolve, 5))
  t.pass('it runs on')
})

t.test('cancelled when it is too late', { skip }, async t => {
  const to = await listener(t)
  const machine = await running(t)
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { onStep: step => void (step === 'ready-received' && migration.cancel()) })
  const { machine: there } = await (await accepted).done
  t.teardown(() => there.close())
  await migration.done
  migration.cancel()
  migration.bandwidth = 1
  t.equal(there.state, 'running')
})

t.test('a guest that writes too fast', { skip }, async t => {
  const to = await listener(t)
  const machine = await busy(t)
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { mustConverge: true, maxBlackoutMs: 0, maxRounds: 3 })
  const error = await failure(migration.done)
  t.match(error, { code: 'NO_CONVERGENCE' })
  t.match((await failure((await accepted).done)).code, /ABORTED|PEER_LOST/)
  t.equal(machine.state, 'running')
})

t.test('a machine that ends, or is closed, while it moves', { skip }, async t => {
  const to = await listener(t)
  for (const end of ['stop', 'close', 'pause'] as const) {
    const machine = await busy(t)
    const accepted = to.accept()
    const migration = migrate(machine, to.address, slow)
    const incoming = await accepted
    await moving(migration)
    await machine[end]()
    if (end === 'pause') {
      // Moves on, and arrives paused.
      migration.bandwidth = 0
      await migration.done
      const received = await incoming.done
      t.equal(received.machine.state, 'paused')
      await received.machine.close()
      continue
    }
    migration.bandwidth = 0
    const error = await failure(migration.done)
    t.match(error.code, /BAD_STATE|CANCELLED|PEER_LOST|CLOSED/, end)
    t.match((await failure(incoming.done)).code, /ABORTED|PEER_LOST/, end)
  }
})

// ---- arbiters

t.test('an arbiter that gives no answer leaves the machine in doubt', { skip }, async t => {
  let heard: () => void = () => undefined
  const nobody: Arbiter = {
    claim: () => {
      heard()
      return Promise.resolve('unreachable')
    }
  }
  /** So many questions later. */
  const asked = (times: number) => new Promise<string>(resolve => (heard = () => void (--times === 0 && resolve('asked on'))))
  const to = await listener(t, { arbiter: nobody, patienceMs: 300 })
  const machine = await running(t)
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { arbiter: nobody, patienceMs: 300, claimPatienceMs: 300 })
  const incoming = await accepted
  const error = await failure(migration.done)
  t.match(error, { code: 'MIGRATION_IN_DOUBT' })
  t.match([machine.state, machine.reason], ['paused', 'in-doubt'])
  // The arbiter may give it to that side yet.
  incoming.cancel()
  t.equal(await Promise.race([incoming.done.catch(() => 'failed'), asked(4)]), 'asked on')
  incoming.discard()
  t.match(await failure(incoming.done), { code: 'CANCELLED' })
  // Known by other means: it does not run there.
  await machine.resume()
  await runs(t, machine)
})

t.test('turned away while the arbiter does not answer: the source goes on', { skip }, async t => {
  const nobody: Arbiter = { claim: () => Promise.resolve('unreachable') }
  const hanging: Arbiter = { claim: () => new Promise(() => undefined) }
  for (const arbiter of [nobody, hanging])
    for (const by of ['cancel', 'signal'] as const) {
      const to = await listener(t, { arbiter })
      const machine = await running(t)
      let committed: () => void = () => undefined
      const there = new Promise<void>(resolve => (committed = resolve))
      const control = new AbortController()
      const accepted = to.accept({ onStep: step => void (step === 'commit-received' && committed()), signal: control.signal })
      const migration = migrate(machine, to.address, { arbiter, patienceMs: 600_000, claimPatienceMs: 600_000 })
      const incoming = await accepted
      await there
      const reason = new Error('maintenance')
      if (by === 'cancel') incoming.cancel(reason)
      else control.abort(reason)
      t.equal(await failure(incoming.done), reason, by)
      t.match(await failure(migration.done), { code: 'REFUSED', message: /CANCELLED/ }, by)
      t.equal(machine.state, 'running', by)
      await runs(t, machine)
    }
})

t.test('turned away when the source is gone: the arbiter decides', { skip }, async t => {
  for (const winner of ['destination', 'source']) {
    let decided = false
    let asked: () => void = () => undefined
    const bySource = new Promise<void>(resolve => (asked = resolve))
    const arbiter: Arbiter = {
      claim: (_key, who) => {
        if (who === 'source') asked()
        return Promise.resolve(!decided ? 'unreachable' : who === winner ? 'won' : 'lost')
      }
    }
    const to = await listener(t, { arbiter })
    const machine = await running(t)
    let committed: () => void = () => undefined
    const commit = new Promise<void>(resolve => (committed = resolve))
    const accepted = to.accept({ onStep: step => void (step === 'commit-received' && committed()) })
    const migration = migrate(machine, to.address, { arbiter, patienceMs: 5000, claimPatienceMs: 600_000 })
    const incoming = await accepted
    // By then it has closed the connection.
    await Promise.all([commit, bySource])
    const reason = new Error('maintenance')
    incoming.cancel(reason)
    const kept = new Promise(resolve => setTimeout(resolve, 200, 'kept'))
    t.equal(await Promise.race([incoming.done.catch(() => 'failed'), kept]), 'kept')
    decided = true
    const left = await failure(migration.done)
    if (winner === 'destination') {
      const { machine: there } = await incoming.done
      t.teardown(() => there.close())
      t.match(left, { code: 'MIGRATED_ANYWAY' })
      t.equal(there.state, 'running')
    } else {
      t.equal(await failure(incoming.done), reason)
      await runs(t, machine)
    }
  }
})

t.test('an arbiter that says no to the destination', { skip }, async t => {
  const arbiter: Arbiter = { claim: (_key, who) => Promise.resolve(who === 'source' ? 'won' : 'lost') }
  const to = await listener(t, { arbiter })
  const machine = await running(t)
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { arbiter })
  t.match(await failure((await accepted).done), { code: 'NOT_OURS' })
  t.type(await failure(migration.done), MigrateError)
  await runs(t, machine)
})

t.test('arbiters that throw, reject, hang or say nonsense are unreachable', { skip }, async t => {
  let asked = 0
  const claims: (() => Promise<'won'>)[] = [
    () => {
      throw new Error('no')
    },
    () => Promise.reject(new Error('no')),
    () => Promise.resolve('maybe' as 'won'),
    () => Promise.resolve(undefined as unknown as 'won'),
    () => Promise.resolve('won')
  ]
  const arbiter: Arbiter = { claim: () => (claims[asked++] ?? claims.at(-1)!)() }
  const to = await listener(t, { arbiter })
  const machine = await running(t)
  const { received } = await move(t, machine, to, { arbiter })
  t.equal(asked, claims.length, 'asked again until it knew')
  t.equal(received.machine.state, 'running')
  // One that never answers holds up nothing when all is closed.
  const hanging: Arbiter = { claim: () => new Promise(() => undefined) }
  const stuck = await listener(t, { arbiter: hanging })
  const accepted = stuck.accept()
  const migration = migrate(received.machine, stuck.address, { arbiter: hanging, patienceMs: 200 })
  const incoming = await accepted
  for await (const { phase } of migration) if (phase === 'commit') break
  await received.machine.close()
  incoming.discard()
  await failure(incoming.done)
  t.type(await failure(migration.done), MigrateError)
})

// ---- the other process dies

const sourceSteps = ['accepted', 'stopped', 'state-sent', 'ready-received', 'commit-sent']
const destinationSteps = ['accept-sent', 'round-received', 'state-received', 'ready-sent', 'destination-claimed', 'running']

/** Who has the claim, as the folder says. */
function winner(folder: string, session: string | undefined): string | undefined {
  try {
    return (JSON.parse(readFileSync(path.join(folder, `${session}.claim`), 'utf8')) as { winner: string }).winner
  } catch {
    return undefined
  }
}

for (const killAt of destinationSteps)
  t.test(`the destination is killed at "${killAt}"`, { skip }, async t => {
    const folder = scratch(t)
    const { FileArbiter } = await import('../../lib/arbiter/index.js')
    const there = await Peer.start(t, { role: 'destination', address: 'tcp://127.0.0.1:0', arbiter: folder, killAt })
    const machine = await running(t)
    const arbiter = new FileArbiter(folder)
    let session: string | undefined
    const spying: Arbiter = {
      claim: (key, who) => {
        session = key
        return arbiter.claim(key, who)
      }
    }
    const migration = migrate(machine, there.address, { arbiter: spying })
    const [settled] = await Promise.allSettled([migration.done])
    // It came to an end before that step: the end counts all the same.
    there.child.kill('SIGKILL')
    t.match(await there.gone, [null, 'SIGKILL'])
    if (settled.status === 'fulfilled') session = settled.value.session
    if (machine.state === 'running') {
      t.equal(settled.status, 'rejected')
      t.not(winner(folder, session), 'destination', 'nobody else may run it')
    } else {
      // The destination had it when it died.
      t.match([machine.state, machine.reason], ['stopped', 'migrated'])
      t.equal(winner(folder, session), 'destination')
    }
    t.comment(`${settled.status}: ${settled.status === 'rejected' ? (settled.reason as MigrateError).code : 'moved'}; ${machine.state}`)
  })

for (const killAt of sourceSteps)
  t.test(`the source is killed at "${killAt}"`, { skip }, async t => {
    const folder = scratch(t)
    const { FileArbiter } = await import('../../lib/arbiter/index.js')
    const arbiter = new FileArbiter(folder)
    let session: string | undefined
    const to = await listener(t, {
      arbiter: {
        claim: (key, who) => {
          session = key
          return arbiter.claim(key, who)
        }
      }
    })
    const accepted = to.accept()
    const source = await Peer.start(t, { role: 'source', address: to.address, arbiter: folder, killAt })
    // Or it came to an end before that step.
    await source.outcome()
    source.child.kill('SIGKILL')
    t.match(await source.gone, [null, 'SIGKILL'])
    const [settled] = await Promise.allSettled([(await accepted).done])
    if (settled.status === 'fulfilled') {
      t.teardown(() => settled.value.machine.close())
      t.equal(winner(folder, session), 'destination')
      await runs(t, settled.value.machine)
    } else t.not(winner(folder, session), 'destination')
    t.comment(`${settled.status}: ${settled.status === 'rejected' ? (settled.reason as MigrateError).code : 'it runs here'}`)
  })

t.test('without an arbiter, a destination killed after the commit leaves the source in doubt or without', { skip }, async t => {
  const there = await Peer.start(t, { role: 'destination', address: 'tcp://127.0.0.1:0', killAt: 'ready-sent' })
  const machine = await running(t)
  const [settled] = await Promise.allSettled([migrate(machine, there.address).done])
  there.child.kill('SIGKILL')
  t.match(await there.gone, [null, 'SIGKILL'])
  if (settled.status === 'fulfilled') t.equal(machine.reason, 'migrated')
  else if ((settled.reason as MigrateError).code === 'MIGRATION_IN_DOUBT') t.equal(machine.reason, 'in-doubt')
  else t.equal(machine.state, 'running')
})

t.test('a full disk at the destination', { skip: skip || (process.getuid?.() !== 0 && 'needs root') }, async t => {
  const folder = scratch(t)
  const { spawnSync } = await import('node:child_process')
  const small = path.join(folder, 'small')
  const mounted = spawnSync('sh', ['-c', `mkdir ${small} && mount -t tmpfs -o size=1m tmpfs ${small}`], { encoding: 'utf8' })
  if (mounted.status !== 0) {
    t.pass(`cannot mount: ${mounted.stderr}`, { skip: true })
    return
  }
  t.teardown(() => spawnSync('umount', [small]))
  const image = path.join(folder, 'disk.img')
  writeFileSync(image, Buffer.alloc(8 << 20, 'x'))
  const machine = await guest(t, 'hello', endless, { disks: [{ path: image }] })
  await machine.start()
  const to = await listener(t, { disks: [path.join(small, 'disk.img')] })
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { disks: 'copy' })
  t.match(await failure((await accepted).done), { code: 'ENOSPC' })
  t.match(await failure(migration.done), { code: 'REFUSED' })
  await runs(t, machine)
  rmSync(path.join(small, 'disk.img'), { force: true })
})
