// What the tests of migration share: two ends in this process, or another process as one end.
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Machine } from '../../lib/machine/index.js'
import {
  listen,
  migrate,
  type IncomingMigration,
  type ListenOptions,
  type MigrateOptions,
  type Migration,
  type MigrationListener,
  type MigrateTls,
  type MigrationResult,
  type ReceivedMachine
} from '../../lib/migrate/index.js'
import { certificates } from '../arbiter/support.js'

export { certificates, noOpenssl, type Certificates } from '../arbiter/support.js'
export { code, guest, noKvm, scratch } from '../machine/support.js'

/** Runs until it is stopped. */
export const endless = 'ticks=1000000'

/** A listener that goes with the test. */
export async function listener(t: Test, options: ListenOptions = {}, address = 'tcp://127.0.0.1:0'): Promise<MigrationListener> {
  const it = await listen(address, options)
  t.teardown(() => it.close())
  return it
}

/** One migration within this process. */
export async function move(
  t: Test,
  machine: Machine,
  to: MigrationListener,
  options: MigrateOptions = {}
): Promise<{ result: MigrationResult; received: ReceivedMachine; migration: Migration; incoming: IncomingMigration }> {
  const accepted = to.accept()
  const migration = migrate(machine, to.address, options)
  const incoming = await accepted
  const [result, received] = await Promise.all([migration.done, incoming.done])
  t.teardown(() => received.machine.close())
  return { result, received, migration, incoming }
}

/** Certificates in `folder`, as options. */
export function tlsIn(folder: string, name?: string): MigrateTls {
  const { ca, cert, key } = certificates(folder, name)
  return { ca: readFileSync(ca), cert: readFileSync(cert, 'utf8'), key: readFileSync(key) }
}

/** The error that a promise rejects with; fails when it does not. */
export async function failure(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new Error('it did not fail')
}

/** What the other process is told, and tells. */
export interface PeerOptions {
  role: 'source' | 'destination'
  address: string
  /** A folder of claims. */
  arbiter?: string
  /** Kills itself when it hears of this step. */
  killAt?: string
  guest?: string
  commandLine?: string
  migrate?: MigrateOptions
  receive?: ListenOptions
}
export type Said =
  | { type: 'ready'; address: string }
  | { type: 'step'; step: string }
  | { type: 'done'; session: string; digest: string; state: string }
  | { type: 'failed'; code: string; message: string; state: string; reason: string }
  | { type: 'status'; state: string; reason: string; boundary: string }

/** Another process as one end; killed with the test. */
export class Peer {
  readonly said: Said[] = []
  readonly gone: Promise<[number | null, NodeJS.Signals | null]>
  readonly #waiting = new Set<() => void>()

  private constructor(readonly child: ChildProcess) {
    this.gone = once(child, 'exit') as typeof this.gone
    void this.gone.then(() => this.#wake())
    child.on('message', (said: Said) => {
      this.said.push(said)
      this.#wake()
    })
  }

  static async start(t: Test, options: PeerOptions): Promise<Peer> {
    const file = new URL(import.meta.url.endsWith('.ts') ? './peer.ts' : './peer.js', import.meta.url)
    const peer = new Peer(fork(fileURLToPath(file), [JSON.stringify(options)], { serialization: 'advanced' }))
    t.teardown(() => {
      peer.child.kill('SIGKILL')
      return peer.gone
    })
    // One that kills itself may be gone before it is heard.
    await peer.find(said => said.type === 'ready')
    return peer
  }

  get address(): string {
    return (this.said.find(said => said.type === 'ready') as { address: string }).address
  }

  /** The first that fits; undefined when the process ends without it. */
  async find<S extends Said>(fits: (said: Said) => said is S): Promise<S | undefined>
  async find(fits: (said: Said) => boolean): Promise<Said | undefined>
  async find(fits: (said: Said) => boolean): Promise<Said | undefined> {
    for (;;) {
      const found = this.said.find(fits)
      if (found || this.child.exitCode !== null || this.child.signalCode !== null) return found
      await new Promise<void>(resolve => this.#waiting.add(resolve))
    }
  }

  async until(fits: (said: Said) => boolean): Promise<Said> {
    const found = await this.find(fits)
    if (!found) throw new Error(`the other process ended: ${JSON.stringify(this.said)}`)
    return found
  }

  /** How its end came out. */
  outcome(): Promise<Said | undefined> {
    return this.find(said => said.type === 'done' || said.type === 'failed')
  }

  async status(): Promise<Said & { type: 'status' }> {
    const asked = this.said.filter(said => said.type === 'status').length
    this.child.send('status')
    return (await this.until(
      () => this.said.filter(said => said.type === 'status').length > asked
    ).then(() => this.said.filter(said => said.type === 'status').at(-1))) as Said & { type: 'status' }
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
