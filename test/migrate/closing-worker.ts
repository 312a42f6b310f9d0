// A worker that goes as far as it is told and then says so; the test terminates it there.
import { parentPort, workerData } from 'node:worker_threads'
import { FileArbiter, type Arbiter } from '../../lib/arbiter/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine } from '../../lib/machine/index.js'
import { listen, migrate, type IncomingMigration, type Migration, type MigrationListener } from '../../lib/migrate/index.js'

const { step, folder } = (workerData ?? {}) as { step: string; folder: string }
const kept: unknown[] = []

const started = async (guest = 'hello', commandLine = 'ticks=1000000'): Promise<Machine> => {
  const machine = await Machine.create({ kernel: guestPath(guest), memory: '16MiB', commandLine })
  await machine.start()
  return machine
}
const busy = (): Promise<Machine> => started('dirtier', 'base=8M rounds=0 pages=1500 pattern=random')
interface Going {
  migration: Migration
  incoming: IncomingMigration
  listener: MigrationListener
}
/** A migration within this worker that reached `at`, of either side. */
async function until(at: string, machine: Machine, arbiter?: Arbiter, options: object = {}): Promise<Going> {
  const both = arbiter ? { arbiter } : {}
  let reached: () => void = () => undefined
  const there = new Promise<void>(resolve => (reached = resolve))
  const onStep = (now: string): void => {
    if (now === at) reached()
  }
  const listener = await listen('tcp://127.0.0.1:0', { ...both, onStep })
  const accepted = listener.accept()
  const migration = migrate(machine, listener.address, { ...both, ...options, onStep })
  const incoming = await accepted
  await there
  return { migration, incoming, listener }
}
const hanging: Arbiter = { claim: () => new Promise(() => undefined) }
const slow = { bandwidth: 65536, compress: false }

const steps: Record<string, () => Promise<unknown>> = {
  loaded: async () => undefined,
  listening: async () => {
    const listener = await listen('tcp://127.0.0.1:0')
    void listener.accept().catch(() => undefined)
    void listen('tcp://127.0.0.1:0')
    return listener
  },
  connecting: async () => {
    // A listener that nobody serves, and an address that does not answer.
    const listener = await listen('tcp://127.0.0.1:0')
    return [listener, migrate(await started(), listener.address), migrate(await started(), 'tcp://192.0.2.1:9')]
  },
  'moving memory': async () => until('accepted', await busy(), undefined, slow),
  'writing too fast': async () => until('round-sent', await busy(), undefined, { maxBlackoutMs: 0, maxRounds: 1_000_000 }),
  'cancelling': async () => {
    const going = await until('round-sent', await busy(), undefined, { maxBlackoutMs: 0, maxRounds: 1_000_000 })
    going.migration.cancel()
    return going
  },
  stopped: async () => until('stopped', await started()),
  'the state is sent': async () => until('state-sent', await started()),
  'ready': async () => until('ready-sent', await started()),
  'claiming for ever': async () => until('commit-received', await started(), hanging),
  'claimed': async () => until('destination-claimed', await started(), new FileArbiter(folder)),
  'it runs there': async () => until('running', await started()),
  'it moved': async () => {
    const going = await until('running', await started())
    await going.migration.done
    return [going, await going.incoming.done]
  },
  'closing all of it': async () => {
    const machine = await busy()
    const going = await until('accepted', machine, undefined, slow)
    void going.listener.close()
    void machine.close()
    going.incoming.cancel()
    return going
  }
}

export const names = Object.keys(steps)

if (parentPort) {
  kept.push(await steps[step]?.())
  parentPort.postMessage('there')
  setInterval(() => kept.length, 1e6)
}
