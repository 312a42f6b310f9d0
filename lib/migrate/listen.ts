// Where machines come in: a listener, and one migration that comes.
import { Machine } from '../machine/machine.js'
import type { MigrationRound } from '../migration_round.js'
import type { StateDigest } from '../state.js'
import { Turns, unlessAborted } from '../turns.js'
import { nativeMigrations, type NativeIncoming, type NativeListener, type NativeReceiveResult } from './addon.js'
import { migrateErrors, MigrateError } from './errors.js'
import { nativeListenOptions, nativeReceiveOptions, type ListenOptions, type ReceiveOptions } from './options.js'
import type { MigrationProgress } from './progress.js'
import { Wake, Watch, type Ear } from './watch.js'

/**
 * A machine that arrived.
 *
 * @since 0.1.0
 */
export interface ReceivedMachine {
  /** It runs, or is paused when it was paused at the source or `startPaused` was given. */
  machine: Machine
  /** 32 hexadecimal digits that name the migration; the source has the same. */
  session: string
  /** The state that was handed over. */
  digest: StateDigest
  /** Sums. */
  progress: MigrationProgress
}

/**
 * A migration that comes in; it is received from the beginning, also when nobody looks. Iterate over it for its
 * progress.
 *
 * @since 0.1.0
 */
export class IncomingMigration implements AsyncIterable<MigrationProgress> {
  /** Who sends: `'tcp://10.0.0.1:51514'`. */
  readonly peer: string
  /**
   * The machine, once it is this side's. Rejects with a {@link MigrateError}: then it is at the source, or, after
   * `NOT_OURS`, not here. A rejection that nobody awaits ends no process.
   */
  readonly done: Promise<ReceivedMachine>
  readonly #native: NativeIncoming
  readonly #watch: Watch
  readonly #ear: Ear = { heard: () => this.#watch.hear(this.#native.take()) }
  #cancelled: { reason: unknown } | undefined

  /** @internal */
  constructor(native: NativeIncoming, options: ReceiveOptions, signal?: AbortSignal) {
    this.#native = native
    this.peer = native.peer()
    this.#watch = new Watch(options.onStep)
    this.done = this.#receive(nativeReceiveOptions(options))
    const abort = (): void => this.cancel(signal?.reason)
    signal?.addEventListener('abort', abort, { once: true })
    if (signal?.aborted) abort()
    const settled = (): void => signal?.removeEventListener('abort', abort)
    this.done.then(settled, settled)
    this.done.catch(() => undefined)
  }

  /** How far it is. */
  get progress(): MigrationProgress {
    return this.#watch.progress
  }

  /** The rounds so far, as far as the destination sees them. */
  get rounds(): MigrationRound[] {
    return this.#watch.rounds
  }

  /**
   * Turns the machine away, while it is not this side's: the source hears so and goes on with it at once, and `done`
   * rejects with `reason`. So it is while an arbiter does not answer, as long as the connection stands. Where the
   * source can no longer be told, an arbiter that was asked decides, and this side waits for it: `done` resolves when
   * the machine is this side's all the same. It is then paused, for reason `'in-doubt'`, when the source may have heard
   * of this and not answered. {@link discard} waits for nobody.
   *
   * @param reason - default: a {@link MigrateError} `CANCELLED`
   */
  cancel(reason: unknown = new MigrateError('the incoming migration was cancelled', { code: 'CANCELLED' })): void {
    this.#cancelled ??= { reason }
    this.#native.cancel()
  }

  /**
   * As {@link cancel}, but the machine is gone from this side within seconds, whatever the arbiter may still say: for who
   * knows that it runs at the source, or wants it nowhere. If the arbiter gives it to this side then, it runs nowhere.
   *
   * @param reason - default: a {@link MigrateError} `CANCELLED`
   */
  discard(reason: unknown = new MigrateError('the incoming migration was discarded', { code: 'CANCELLED' })): void {
    this.#cancelled ??= { reason }
    void this.#native.close()
  }

  /** Its progress, beginning with the present one. */
  [Symbol.asyncIterator](): AsyncIterableIterator<MigrationProgress> {
    return this.#watch.iterate()
  }

  async #receive(options: ReturnType<typeof nativeReceiveOptions>): Promise<ReceivedMachine> {
    const native = this.#native
    let result: NativeReceiveResult | undefined
    try {
      const wake = new Wake()
      wake.to(this.#ear)
      const machine = await Machine.around(async notify => {
        result = await migrateErrors(() => native.receive(options, wake.call, notify))
        return result.machine
      })
      const { session, digest, progress } = result as unknown as NativeReceiveResult
      this.#watch.hear(native.take())
      this.#watch.end(progress)
      return { machine, session, digest, progress: this.#watch.progress }
    } catch (error) {
      throw this.#cancelled ? this.#cancelled.reason : error
    } finally {
      this.#watch.hear(native.take())
      this.#watch.end()
      void native.close()
    }
  }
}

/**
 * Where machines come in. Iterate over it, or accept() one after the other; a connection that nobody accepts waits.
 * While an accept() waits, the process lives.
 *
 * @since 0.1.0
 */
export class MigrationListener implements AsyncIterable<IncomingMigration>, AsyncDisposable {
  /** With the port that was taken: `'tcp://0.0.0.0:7100'`. */
  readonly address: string
  readonly #native: NativeListener
  readonly #options: ReceiveOptions
  /** Kept as long as this. */
  readonly #ear: Ear
  /** One asks the addon at a time; who gives up leaves what comes to the next one. */
  #next: Promise<NativeIncoming | undefined> | undefined
  readonly #turns = new Turns()
  #closing: Promise<void> | undefined

  /** @internal */
  constructor(native: NativeListener, options: ReceiveOptions, ear: Ear) {
    this.#native = native
    this.#ear = ear
    this.#options = options
    this.address = migrateErrors(() => native.address())
  }

  /** close() was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /**
   * The next migration that comes in.
   *
   * @param options - `signal`: gives up waiting, and turns away what came, as {@link IncomingMigration.cancel} does;
   *   others than listen() was given, for this one
   * @throws MigrateError `CLOSED`; the signal's reason
   */
  async accept(options: ReceiveOptions & { signal?: AbortSignal } = {}): Promise<IncomingMigration> {
    const { signal, ...others } = options
    const settings = { ...this.#options, ...others }
    nativeReceiveOptions(settings)
    const native = await this.#turns.take(signal, () => this.#wait(signal))
    if (!native) throw new MigrateError('the listener is closed', { code: 'CLOSED' })
    return new IncomingMigration(native, settings, signal)
  }

  async #wait(signal: AbortSignal | undefined): Promise<NativeIncoming | undefined> {
    if (this.closed) return undefined
    this.#next ??= migrateErrors(() => this.#native.accept())
    try {
      const native = await unlessAborted(this.#next, signal)
      this.#next = undefined
      return native
    } catch (error) {
      if (!signal?.aborted) this.#next = undefined
      throw error
    }
  }

  /** Migrations as they come, until close(). */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<IncomingMigration> {
    for (;;) {
      let incoming
      try {
        incoming = await this.accept()
      } catch (error) {
        if (error instanceof MigrateError && error.code === 'CLOSED') return
        throw error
      }
      yield incoming
    }
  }

  /** Listens no more. What came in goes on. Calling it again is fine. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await migrateErrors(() => this.#native.close())
      // A connection that was taken from the network and that nobody wanted any more.
      const left = await this.#next?.catch(() => undefined)
      this.#ear.heard()
      this.#next = undefined
      await left?.close()
    })()
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Listens for machines that {@link migrate} sends.
 *
 * @param address - `'tcp://0.0.0.0:7100'` (port 0: any), `'unix:/path'` (mode 0600)
 * @throws MigrateError `EINVAL`, `BAD_ADDRESS`, `TLS_FAILED`, `TLS_UNAVAILABLE`, or the errno of what failed
 *   (`EADDRINUSE`; `ENOENT`, `EACCES` of the KVM device)
 *
 * @example
 * ```ts
 * await using listener = await listen('tcp://0.0.0.0:7100', { tls, arbiter, disks: ['mail.img'] })
 * for await (const incoming of listener) {
 *   const { machine } = await incoming.done
 *   console.log(machine.state)
 * }
 * ```
 *
 * @since 0.1.0
 */
export async function listen(address: string, options: ListenOptions = {}): Promise<MigrationListener> {
  const settings = nativeListenOptions(address, options)
  nativeReceiveOptions(options)
  const { tls: _tls, device: _device, onRefused, ...receive } = options
  const wake = new Wake()
  const native = migrateErrors(() => nativeMigrations.listener(wake.call))
  const ear: Ear = {
    heard: () => {
      for (const reason of native.takeRefused()) onRefused?.(reason)
    }
  }
  wake.to(ear)
  await migrateErrors(() => native.begin(settings))
  return new MigrationListener(native, receive, ear)
}
