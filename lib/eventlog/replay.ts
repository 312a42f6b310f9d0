// A machine that lives from its log alone, compared with it all the way.
import { decodeRegisters, type MemoryView, type Registers, type StateDigest } from '../state.js'
import { nativeEventLog, type NativeReplay } from './addon.js'
import { EventLogError, boundaryNumber, count, folder, invalid, logErrors } from './errors.js'
import type { LogHeader } from './log.js'
import type { LogDamage } from './records.js'
import type { Suspect } from './recording.js'

/**
 * Where and how a guest strayed from its log.
 *
 * @since 0.1.0
 */
export interface Divergence {
  /** The first boundary that differs. */
  boundary: bigint
  /** What differs. `'stall'`: the guest ran on without an exit. */
  kind: 'digest' | 'input' | 'clock' | 'interrupt' | 'halt' | 'state' | 'stall'
  /** What was expected and what happened. */
  message: string
  /** Where the guest is. */
  rip: bigint
  /** Instructions near there that no log can hold: a likely cause. */
  suspects: Suspect[]
}

/**
 * How a replay ended.
 *
 * @since 0.1.0
 */
export interface ReplayResult {
  /**
   * `'boundary'`: the one asked for; `'log-end'`: nothing more in the log; `'diverged'`: see `divergence`;
   * `'failed'`: see `message`; `'cancelled'`.
   */
  stop: 'boundary' | 'log-end' | 'diverged' | 'failed' | 'cancelled'
  /** Where the machine is now. */
  boundary: bigint
  /** Its state there. */
  state: StateDigest
  /** The log's end record was reached, and its digest of the end state (if any) compared. */
  complete: boolean
  /** How many checks of the rolling digest were compared. */
  checks: bigint
  /** How many digests of the whole state were compared. */
  stateChecks: bigint
  /** How the guest strayed from the log, with `stop` `'diverged'`. */
  divergence: Divergence | undefined
  /** What of the log, as far as it was read, is damaged. Beyond a gap nothing can be replayed: it is `'log-end'`. */
  damages: LogDamage[]
  /** A sentence; may be empty. */
  message: string
}

/**
 * How far a replay is.
 *
 * @since 0.1.0
 */
export interface ReplayProgress {
  /** Where it is. */
  boundary: bigint
  /** Where the log begins. */
  firstBoundary: bigint
  /** Where it will stop, as far as known: a growing log's end is not. */
  lastBoundary: bigint | undefined
}

/**
 * How a log is replayed.
 *
 * @since 0.1.0
 */
export interface ReplayOptions {
  /** At the log's end wait for more, until its end record. */
  follow?: boolean
  /** A guest that reaches no boundary for so many milliseconds counts as strayed; default 10,000. */
  stallMs?: number
  /** The KVM device. Default `/dev/kvm`. */
  device?: string
}

/**
 * How far a replay runs, and who is told of it.
 *
 * @since 0.1.0
 */
export interface RunOptions {
  /** Stop at this boundary, its inputs applied. Default: the log's end. */
  to?: bigint
  /**
   * Ends the replay where it is: the result's `stop` is `'cancelled'`. The machine can be looked at there; only
   * seek() goes on, from the start again.
   */
  signal?: AbortSignal
  /** Called about every `progressMs` (default 100) while it runs. */
  onProgress?: (progress: ReplayProgress) => void
  /** Milliseconds. */
  progressMs?: number
}

/**
 * A replayed machine, to look at. Everything changes with run() and seek().
 *
 * @since 0.1.0
 */
export interface ReplayMachine {
  /** Guest physical RAM. */
  readonly memory: MemoryView
  /** What the guest wrote to its console in the replay: the last 1 MiB. */
  readonly consoleText: string
  /** The vCPU's registers. */
  registers(): Promise<Registers>
  /** The digests of its state. */
  stateDigest(): Promise<StateDigest>
}

/**
 * A log, and the machine that replays it. What the guest sends goes nowhere; what it receives comes from the log.
 *
 * @example
 * ```ts
 * await using replay = await Replay.open('run1')
 * const { stop, divergence } = await replay.run()
 * ```
 *
 * @since 0.1.0
 */
export class Replay implements AsyncDisposable {
  /** The log's folder. */
  readonly directory: string
  /** What it was recorded on. */
  readonly header: LogHeader
  /** The boundary that the log begins at. */
  readonly firstBoundary: bigint
  /** The last boundary in the log when it was opened; undefined when it is followed. */
  readonly lastBoundary: bigint | undefined
  /** The machine, to look at. */
  readonly machine: ReplayMachine
  readonly #native: NativeReplay
  #busy = false
  #closing: Promise<void> | undefined

  private constructor(directory: string, native: NativeReplay) {
    this.directory = directory
    this.header = native.header()
    this.firstBoundary = native.firstBoundary()
    this.lastBoundary = native.lastBoundary()
    this.#native = native
    const memorySize = native.memorySize()
    this.machine = {
      memory: {
        size: memorySize,
        read(address, length) {
          count(length, 'length', 0, memorySize)
          const into = Buffer.allocUnsafeSlow(length)
          logErrors(() => native.readMemory(address, into))
          return into
        }
      },
      get consoleText() {
        const bytes = logErrors(() => native.console())
        return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
      },
      registers: async () => decodeRegisters(await logErrors(() => native.registers())),
      stateDigest: async () => logErrors(() => native.stateDigest())
    }
  }

  /**
   * Restores the machine that the log begins with. Its disks' contents are in the log, so no image is needed.
   *
   * @throws EventLogError `LOG_NOT_FOUND`, `LOG_MISMATCH`, `LOG_INITIAL_STATE`, `LOG_VERSION`, `CORRUPT`, or the
   *   errno of what failed
   */
  static async open(directory: string, options: ReplayOptions = {}): Promise<Replay> {
    folder(directory)
    if (typeof options !== 'object' || options === null) throw invalid('the options must be an object')
    const stall = count(options.stallMs ?? 10_000, 'stallMs', 1, 2 ** 31)
    const device = options.device ?? '/dev/kvm'
    if (typeof device !== 'string') throw invalid('device must be a path')
    return new Replay(
      directory,
      await logErrors(() => nativeEventLog.replay(device, directory, options.follow === true, stall))
    )
  }

  /** Where the machine is. */
  get boundary(): bigint {
    return logErrors(() => this.#native.boundary())
  }

  /**
   * Replays at full speed.
   *
   * @throws EventLogError `ERANGE` when `to` lies behind (see {@link seek}), `BAD_STATE` while another run goes
   *   on, `CLOSED`
   */
  async run(options: RunOptions = {}): Promise<ReplayResult> {
    return this.#run(options.to === undefined ? undefined : boundaryNumber(options.to, 'to'), options, false)
  }

  /**
   * Replays to a boundary, from the start again when it lies behind.
   *
   * @throws EventLogError `ERANGE` when it lies before the log's beginning, and as {@link run}
   */
  async seek(boundary: bigint, options: Omit<RunOptions, 'to'> = {}): Promise<ReplayResult> {
    return this.#run(boundaryNumber(boundary, 'the boundary'), options, true)
  }

  async #run(to: bigint | undefined, options: RunOptions, back: boolean): Promise<ReplayResult> {
    if (this.#busy)
      throw new EventLogError('this replay is running: await that run first, or cancel it by its signal', {
        code: 'BAD_STATE'
      })
    const { signal, onProgress } = options
    if (onProgress !== undefined && typeof onProgress !== 'function') throw invalid('onProgress must be a function')
    const progressMs = count(options.progressMs ?? 100, 'progressMs', 1, 60_000)
    signal?.throwIfAborted()
    this.#busy = true
    let over = false
    const cancel = async (): Promise<void> => {
      // Again and again: a seek that is about to begin from the start forgets what came before.
      while (!over) {
        await this.#native.cancel().catch(() => undefined)
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    }
    const abort = (): void => void cancel()
    signal?.addEventListener('abort', abort, { once: true })
    const timer = onProgress
      ? setInterval(() => {
          if (this.#closing) return
          onProgress({
            boundary: this.boundary,
            firstBoundary: this.firstBoundary,
            lastBoundary: to ?? this.lastBoundary
          })
        }, progressMs)
      : undefined
    try {
      const result = await logErrors(() => this.#native.run(to, back))
      return { ...result, stop: result.stop as ReplayResult['stop'] }
    } finally {
      clearInterval(timer)
      over = true
      signal?.removeEventListener('abort', abort)
      this.#busy = false
    }
  }

  /** Cancels what runs and gives everything back. Calling it again is fine. */
  close(): Promise<void> {
    return (this.#closing ??= logErrors(() => this.#native.close()))
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
