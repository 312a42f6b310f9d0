// A worker that goes as far with protection as it is told and then says so; the test terminates it there.
import { parentPort, workerData } from 'node:worker_threads'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { backup, protect, servePage, type Protection, type Standby } from '../../lib/ha/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine } from '../../lib/machine/index.js'
import { patient } from './support.js'

const { step, folder, address } = (workerData ?? {}) as { step: string; folder: string; address: string }
const kept: unknown[] = []

const listen = (): Promise<Standby> =>
  backup({ listen: 'tcp://127.0.0.1:0', arbiter: new FileArbiter(folder), heartbeat: patient })
const started = async (): Promise<Machine> => {
  const machine = await Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine: 'ticks=1000000' })
  await machine.start()
  kept.push(machine)
  return machine
}
const protectedBy = async (backup: string): Promise<Protection> =>
  protect(await started(), { backup, arbiter: new FileArbiter(folder), heartbeat: patient })
const pair = async (): Promise<[Protection, Standby]> => {
  const there = await listen()
  const here = await protectedBy(there.listen)
  await Promise.all([here.ready, there.waitFor('protected')])
  kept.push(here, there)
  return [here, there]
}

const steps: Record<string, () => Promise<unknown>> = {
  listening: async () => {
    const there = await listen()
    void there.events().next()
    void there.live.catch(() => undefined)
    return there
  },
  connecting: async () => {
    void protectedBy('tcp://192.0.2.1:1').catch(() => undefined)
    await started()
  },
  'looking for a backup': async () => {
    const options = { backup: 'tcp://127.0.0.1:9', arbiter: new FileArbiter(folder), wait: true, retry: { firstMs: 1, mostMs: 1 } }
    return protect(await started(), options)
  },
  copying: async () => {
    const there = await listen()
    kept.push(there)
    return protectedBy(there.listen)
  },
  'protected, both sides': pair,
  'closing both sides': async () => {
    const [here, there] = await pair()
    void here.close()
    void there.close()
  },
  'handing over': async () => {
    const [here] = await pair()
    void here.handOver().catch(() => undefined)
  },
  live: async () => {
    const [here, there] = await pair()
    await here.handOver()
    return there.live
  },
  'asking an arbiter that never answers': async () => {
    const arbiter = { claim: () => new Promise<never>(() => undefined) }
    const there = await backup({ listen: 'tcp://127.0.0.1:0', arbiter, heartbeat: { intervalMs: 5, minTimeoutMs: 50, maxTimeoutMs: 100 } })
    const here = await protect(await started(), { backup: there.listen, arbiter, heartbeat: patient })
    await there.waitFor('protected')
    kept.push(here, there)
    void here.handOver().catch(() => undefined)
  },
  'serving the page': async () => servePage({ sources: await pair() }),
  // Not one of those below: for the test of what its death looks like from outside.
  'primary of another': async () => {
    const here = await protectedBy(address)
    await here.ready
    return here
  }
}

export const names = Object.keys(steps).filter(name => name !== 'primary of another')

if (parentPort) {
  kept.push(await steps[step]?.())
  parentPort.postMessage('there')
  setInterval(() => kept.length, 1e6)
}
