// A worker that goes as far as it is told and then says so; the test terminates it there.
import { mkdtempSync } from 'node:fs'
import path from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { guestPath } from '../../lib/index.js'
import { EventLog, Recording, Replay } from '../../lib/eventlog/index.js'
import { Machine } from '../../lib/machine/index.js'

const { step, folder } = (workerData ?? {}) as { step: string; folder: string }
const kept: unknown[] = []

const create = (commandLine = 'ticks=1000000'): Promise<Machine> =>
  Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine, nets: [{}] })
const started = async (): Promise<Machine> => {
  const machine = await create()
  await machine.start()
  return machine
}
const fresh = (): string => path.join(mkdtempSync(path.join(folder, 'log-')), 'log')
const recording = async (): Promise<Recording> => {
  const machine = await started()
  kept.push(machine)
  return Recording.start(machine, fresh())
}
const log = async (): Promise<string> => {
  const machine = await create('ticks=30')
  const recording = await Recording.start(machine, fresh())
  await machine.start()
  await machine.waitFor('stopped')
  await recording.stop()
  await machine.close()
  return recording.directory
}

const steps: Record<string, () => Promise<unknown>> = {
  loaded: async () => undefined,
  'creating and starting': async () => {
    void create()
    void (await create()).start()
  },
  'created, paused and stopped machines': async () => {
    const machines = [await create(), await started(), await started()]
    await machines[1]?.pause()
    await machines[2]?.stop()
    return machines
  },
  'running machines': async () => {
    const machine = await started()
    machine.net(0).onPackets(() => undefined)
    void machine.events().next()
    void machine.waitFor('stopped').catch(() => undefined)
    return [machine, (await started()).unref()]
  },
  'taking snapshots and digests': async () => {
    const machine = await started()
    for (let i = 0; i < 10; i++) void machine.snapshot(path.join(folder, 'snapshot'))
    void machine.stateDigest()
    return machine
  },
  restoring: async () => {
    const machine = await create()
    await machine.snapshot(path.join(folder, 'snapshot2'))
    void Machine.restore(path.join(folder, 'snapshot2'))
    return Machine.restore(path.join(folder, 'snapshot2'))
  },
  'closing a machine': async () => {
    const machine = await started()
    void machine.close()
    return machine
  },
  'beginning to record': async () => void Recording.start(await started(), fresh()),
  'recording, and following its log': async () => {
    const it = await recording()
    const log = await EventLog.open(it.directory)
    void (async () => {
      for await (const record of log.records({ follow: true })) kept.push(record)
    })()
    const replay = await Replay.open(it.directory, { follow: true })
    void replay.run()
    return [it, log, replay]
  },
  'ending a recording': async () => {
    const it = await recording()
    void it.checkpoint()
    void it.stop()
    return it
  },
  'closing what is recorded': async () => {
    const it = await recording()
    void (kept[0] as Machine).close()
    return it
  },
  'reading a log, opening a replay': async () => {
    const it = await EventLog.open(await log())
    void it.verify()
    await it.records().next()
    void Replay.open(it.directory)
    return it
  },
  'running a replay': async () => {
    const it = await Replay.open(await log())
    void it.run({ onProgress: () => undefined, progressMs: 1 })
    return it
  }
}

export const names = Object.keys(steps)

if (parentPort) {
  kept.push(await steps[step]?.())
  parentPort.postMessage('there')
  setInterval(() => kept.length, 1e6)
}
