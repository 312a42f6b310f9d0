// What the tests of protection share: both sides in this process, or another process as one side.
import { fork, spawn, spawnSync, type ChildProcess, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Arbiter, Claim } from '../../lib/arbiter/index.js'
import {
  backup,
  protect,
  type BackupOptions,
  type HaEvent,
  type HaSource,
  type HaTlsOptions,
  type Protection,
  type ProtectOptions,
  type Standby
} from '../../lib/ha/index.js'
import type { Machine } from '../../lib/machine/index.js'
import { certificates } from '../arbiter/support.js'

export { noOpenssl } from '../arbiter/support.js'
export { code, guest, noKvm, scratch } from '../machine/support.js'
import { limit } from '../patience.js'

/** Runs until it is stopped. */
export const endless = 'ticks=1000000'

/** So patient that a busy host is not taken for a dead one. */
export const patient = { intervalMs: 20, minTimeoutMs: limit(2000), maxTimeoutMs: limit(10_000) }

/** An arbiter in this process: who asks first wins; `out`: it does not answer. */
export class TestArbiter implements Arbiter {
  out = false
  readonly won = new Map<string, string>()
  readonly asked: string[] = []

  claim(key: string, who: string): Promise<Claim> {
    this.asked.push(who)
    if (this.out) return Promise.resolve('unreachable')
    if (!this.won.has(key)) this.won.set(key, who)
    return Promise.resolve(this.won.get(key) === who ? 'won' : 'lost')
  }
}

/** A standby that goes with the test, and its machine too. */
export async function standby(t: Test, options: Partial<BackupOptions> & { arbiter: Arbiter }): Promise<Standby> {
  const it = await backup({ listen: 'tcp://127.0.0.1:0', heartbeat: patient, ...options })
  t.teardown(async () => {
    await it.close()
    await it.machine?.close()
  })
  return it
}

/** A protection that goes with the test. */
export async function protection(
  t: Test,
  machine: Machine,
  options: Partial<ProtectOptions> & Pick<ProtectOptions, 'backup' | 'arbiter'>
): Promise<Protection> {
  const it = await protect(machine, { heartbeat: patient, retry: { firstMs: 20, mostMs: 100 }, ...options })
  t.teardown(() => it.close())
  return it
}

/** Everything that a source tells, as it comes. */
export class Told {
  readonly events: HaEvent[] = []
  /** All is told. */
  readonly over: Promise<void>
  readonly #waiting = new Set<() => void>()

  constructor(source: HaSource) {
    this.over = (async () => {
      for await (const event of source.events()) {
        this.events.push(event)
        for (const wake of this.#waiting) wake()
      }
    })()
  }

  get states(): string[] {
    return this.events.flatMap(event => (event.type === 'state' ? [event.state] : []))
  }

  /** The first that fits, among those to come too. */
  async find<T extends HaEvent['type']>(
    type: T,
    fits: (event: HaEvent & { type: T }) => boolean = () => true
  ): Promise<HaEvent & { type: T }> {
    for (;;) {
      const found = this.events.find((event): event is HaEvent & { type: T } => event.type === type && fits(event as HaEvent & { type: T }))
      if (found) return found
      await new Promise<void>(resolve => this.#waiting.add(resolve))
    }
  }
}

export function tlsIn(folder: string, name?: string): HaTlsOptions {
  const { ca, cert, key } = certificates(folder, name)
  return { ca: readFileSync(ca), cert: readFileSync(cert, 'utf8'), key: readFileSync(key) }
}

// ---- other processes

/** What the process that holds a primary is told. */
export interface HolderOptions {
  backup: string[]
  /** A folder of claims. */
  claims: string
  /** The mailroom, with this disk, plugged into this hub; else `hello`. */
  mailroom?: { disk: string; hub: string }
  options?: Partial<ProtectOptions>
  status?: boolean
}

/** What it tells. */
export type Said =
  | { type: 'event'; event: HaEvent }
  | { type: 'ready'; status: string }
  | { type: 'machine'; state: string; reason: string }
  | { type: 'failed'; message: string }

/** Another process that holds a primary. */
export class Holder {
  readonly said: Said[] = []
  readonly gone: Promise<unknown>
  readonly #waiting = new Set<() => void>()

  private constructor(readonly child: ChildProcess) {
    this.gone = once(child, 'exit')
    child.on('message', (said: Said) => {
      this.said.push(said)
      for (const wake of this.#waiting) wake()
    })
  }

  /** Resolves when the machine is protected. */
  static async start(t: Test, options: HolderOptions): Promise<Holder> {
    const file = fileURLToPath(new URL('./holder.ts', import.meta.url))
    const holder = new Holder(fork(file, [JSON.stringify(options)], { serialization: 'advanced' }))
    t.teardown(() => {
      holder.child.kill('SIGKILL')
      return holder.gone
    })
    await holder.state('protected')
    return holder
  }

  async until<T>(look: (said: Said) => T | undefined | false): Promise<T> {
    for (let at = 0; ; ) {
      for (; at < this.said.length; at++) {
        const said = this.said[at] as Said
        if (said.type === 'failed') throw new Error(said.message)
        const found = look(said)
        if (found !== undefined && found !== false) return found
      }
      await new Promise<void>(resolve => this.#waiting.add(resolve))
    }
  }

  state(state: string): Promise<HaEvent> {
    return this.until(said => said.type === 'event' && said.event.type === 'state' && said.event.state === state && said.event)
  }
}

export const command = path.resolve('dist/cli/main.js')

export function hypertwin(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [command, ...args], { encoding: 'utf8', timeout: limit(60_000) })
}

/** A `hypertwin` command that goes on, with --json: each line that it prints. */
export class Command {
  readonly lines: Record<string, unknown>[] = []
  readonly closed: Promise<number | null>
  stderr = ''
  readonly #waiting = new Set<() => void>()

  constructor(
    t: Test,
    args: string[],
    readonly child: ChildProcessWithoutNullStreams = spawn(process.execPath, [command, ...args, '--json'])
  ) {
    this.closed = new Promise(resolve => child.on('close', resolve))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    createInterface({ input: child.stdout }).on('line', line => {
      this.lines.push(JSON.parse(line) as Record<string, unknown>)
      for (const wake of this.#waiting) wake()
    })
    void this.closed.then(() => this.#waiting.forEach(wake => wake()))
    t.teardown(() => {
      child.kill('SIGKILL')
      return this.closed
    })
  }

  async line(fits: (line: Record<string, unknown>) => boolean): Promise<Record<string, unknown>> {
    for (;;) {
      const found = this.lines.find(fits)
      if (found) return found
      if (this.child.exitCode !== null) throw new Error(`the command ended: ${this.stderr}`)
      await new Promise<void>(resolve => this.#waiting.add(resolve))
    }
  }
}
