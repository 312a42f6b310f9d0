// Work of a hypervisor's that goes on for a while: how far it is, how it ends, and how it is given up.
import { setTimeout as sleep } from 'node:timers/promises'
import { Broadcast, keepNewest } from '../queue.js'
import { LibvirtError } from './errors.js'

/** How often giving up is tried while libvirt says that it cannot be yet, in ms: at first, and at most. */
const retry = { first: 20, most: 500 }

interface Settle<Result> {
  resolve: (result: Result) => void
  reject: (error: unknown) => void
}

/**
 * Work of a hypervisor's on a domain that goes on. Iterate over it for its progress, from now on; an iteration ends
 * with the work, however that ends, and {@link done} says how. Who is slow misses what is old.
 *
 * @since 0.1.0
 */
export abstract class DomainJob<Progress, Result> implements AsyncIterable<Progress> {
  /**
   * Its end. Rejects with a {@link LibvirtError}, with the signal's reason, or with `CANCELLED` after cancel(). A
   * rejection that nobody awaits ends no process.
   */
  readonly done: Promise<Result>
  readonly #streams = new Broadcast<Progress>()
  readonly #settle: Settle<Result>
  readonly #signal: AbortSignal | undefined
  readonly #abort = (): void => this.cancel()
  #progress: Progress
  #cancelled = false
  #over = false

  /**
   * @throws the signal's reason when it is aborted already
   * @internal
   */
  protected constructor(first: Progress, signal: AbortSignal | undefined) {
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw new LibvirtError('signal must be an AbortSignal', { code: 'EINVAL' })
    signal?.throwIfAborted()
    this.#progress = first
    this.#signal = signal
    let settle: Settle<Result> | undefined
    this.done = new Promise((resolve, reject) => (settle = { resolve, reject }))
    this.done.catch(() => undefined)
    this.#settle = settle as unknown as Settle<Result>
  }

  /** How far it is. */
  get progress(): Progress {
    return this.#progress
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over
  }

  /** Gives it up; {@link done} then rejects with `CANCELLED`, or resolves when it was too late. */
  cancel(): void {
    if (this.#cancelled || this.#over) return
    this.#cancelled = true
    void this.#giveUp()
  }

  /** Its progress, beginning with the present one. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Progress> {
    return this.#streams.iterate({ limit: 256, onFull: keepNewest }, this.#progress)
  }

  /** Asks libvirt to give it up; rejects while there is nothing of its own to give up. @internal */
  protected abstract giveUp(): Promise<void>

  /** Whether it is being given up. @internal */
  protected get cancelled(): boolean {
    return this.#cancelled
  }

  /** Once, at the end of the constructor. @internal */
  protected begin(work: () => Promise<Result>): void {
    this.#signal?.addEventListener('abort', this.#abort, { once: true })
    void work().then(
      result => this.#end(() => this.#settle.resolve(result)),
      (error: unknown) => this.#end(() => this.#settle.reject(this.#reason(error)))
    )
  }

  /** @internal */
  protected tell(progress: Progress): void {
    this.#progress = progress
    this.#streams.push(progress)
  }

  async #giveUp(): Promise<void> {
    let delay = retry.first
    while (!this.#over) {
      try {
        await this.giveUp()
        return
      } catch {
        // Before libvirt has begun, and between two steps of its work, there is nothing that could be given up.
        await sleep(delay)
        delay = Math.min(delay * 2, retry.most)
      }
    }
  }

  #reason(error: unknown): unknown {
    if (!this.#cancelled || (error instanceof LibvirtError && error.code === 'CONNECTION_LOST')) return error
    if (this.#signal?.aborted) return this.#signal.reason
    return new LibvirtError('it was cancelled', { code: 'CANCELLED', cause: error })
  }

  #end(settle: () => void): void {
    this.#over = true
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#streams.end()
    settle()
  }
}

/** What giveUp() rejects with while the work waits for another's end. @internal */
export function notYet(): LibvirtError {
  return new LibvirtError('it has not begun', { code: 'CANCELLED' })
}

/**
 * Calls `look` again and again until `end` settles: every `intervalMs`, and at once when it is told to. What it
 * rejects with is not told: the work itself says what is wrong.
 *
 * @internal
 */
export class Poll {
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  #wake: () => void = () => undefined
  #again = false

  constructor(intervalMs: number, look: () => Promise<void>) {
    this.#running = this.#run(intervalMs, look)
  }

  /** Looks as soon as it can. */
  now(): void {
    this.#again = true
    this.#wake()
  }

  /** Resolves when it looks no more. */
  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake()
    await this.#running
  }

  async #run(intervalMs: number, look: () => Promise<void>): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      this.#again = false
      await look().catch(() => undefined)
      if (signal.aborted || this.#again) continue
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, intervalMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
}
