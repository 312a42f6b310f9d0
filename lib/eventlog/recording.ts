// A recording of a machine: everything that comes to it from outside, in a log.
import { nativeHandle, type StateDigest } from '../state.js'
import { toBytes, type Size } from '../kvm/size.js'
import { toLayerError } from '../errors.js'
import { nativeEventLog, type NativeRecording, type NativeRecordingOptions } from './addon.js'
import { EventLogError, count, folder, invalid, logErrors } from './errors.js'

/**
 * A machine that can be recorded: a `Machine` of `hypertwin/machine`.
 *
 * @since 0.1.0
 */
export interface Recordable {
  /** @internal */
  readonly [nativeHandle]: object
}

/**
 * How a log is written.
 *
 * @since 0.1.0
 */
export interface RecordingOptions {
  /**
   * When a record counts as durable: `'none'` (default) once the kernel has it, so that it survives the process
   * but not the host; `'interval'` once it is synced, at least every `fsyncIntervalMs`; `'always'` once it is
   * synced, at each commit.
   */
  fsync?: 'none' | 'interval' | 'always'
  /** Milliseconds; default 50. */
  fsyncIntervalMs?: number
  /** How long a record may wait for others to share its block, in microseconds; default 1500. */
  commitLatencyUs?: number
  /** … or until there are so many bytes; default `'64KiB'`. */
  commitSize?: Size
  /** Records not yet durable; default `'8MiB'`. */
  bufferSize?: Size
  /** When that buffer is full the guest waits (`'wait'`, default), or the machine pauses (`'fail'`). */
  onFull?: 'wait' | 'fail'
  /** A segment file's size; default `'64MiB'`. */
  segmentSize?: Size
  /**
   * Errors planted on purpose, to show that a replay catches them: the number (from 0) of the input that is left
   * out, the interrupt that is logged one boundary late, the packet of which a byte is changed.
   *
   * @internal
   */
  plantedFaults?: { skipInput?: number; shiftInterrupt?: number; flipPacket?: number }
}

/**
 * What a log's writer has done.
 *
 * @since 0.1.0
 */
export interface RecordingStats {
  /** Written so far. */
  records: bigint
  /** Records known to be durable, see {@link RecordingOptions.fsync}. */
  durableRecords: bigint
  /** Of the log's files. */
  bytes: bigint
  /** Written so far. */
  blocks: bigint
  /** Files begun so far. */
  segments: bigint
  /** Calls of fdatasync. */
  syncs: bigint
  /** The most bytes that waited to become durable. */
  bufferHighWater: bigint
  /** How often the guest had to wait for room. */
  waits: bigint
  /** Bytes from outside in the records: what no log can do without. */
  inputBytes: bigint
}

/**
 * An instruction whose result no log can hold, near the guest's code. A search by opcode: it may be data.
 *
 * @since 0.1.0
 */
export interface Suspect {
  /** `'rdtsc'`, … */
  instruction: string
  /** Guest physical. */
  address: bigint
}

/**
 * What was recorded.
 *
 * @since 0.1.0
 */
export interface RecordingResult {
  /** The log's folder. */
  directory: string
  /** Where the recording began. */
  firstBoundary: bigint
  /** Where it ended. */
  lastBoundary: bigint
  /** The state at the end; undefined when the guest reached no boundary in time. */
  state: StateDigest | undefined
  /** What was written, and what it cost. */
  stats: RecordingStats
}

/** Each as long as its machine: a machine that runs is not collected, and must not go on unrecorded. */
const recordings = new WeakMap<Recordable, Recording>()

/**
 * A machine's recording. It begins with a snapshot of the machine, so it may begin at any time. Until stop() or close()
 * it lives as long as its machine, also when nobody refers to it.
 *
 * @example
 * ```ts
 * await using recording = await Recording.start(machine, 'run1')
 * await machine.start()
 * …
 * const { state } = await recording.stop()
 * ```
 *
 * @since 0.1.0
 */
export class Recording implements AsyncDisposable {
  /** The log's folder. */
  readonly directory: string
  /** The boundary that it begins at. */
  readonly firstBoundary: bigint
  /** Instructions near the guest's code that no log can hold; a guest that executes one cannot be replayed. */
  readonly suspects: readonly Suspect[]
  readonly #native: NativeRecording
  readonly #listeners = new Set<(error: EventLogError) => void>()
  #stopped = false
  #closing: Promise<void> | undefined

  /** What is recorded; it stays until then. @internal */
  readonly machine: Recordable

  private constructor(machine: Recordable, directory: string, native: NativeRecording) {
    this.machine = machine
    this.directory = directory
    this.#native = native
    this.firstBoundary = native.firstBoundary()
    this.suspects = native.suspects()
  }

  /**
   * Snapshots the machine into `directory` and records from there on. The machine may run meanwhile.
   *
   * @param directory - created; it must hold no log
   * @throws EventLogError `LOG_EXISTS`, `BAD_STATE` (it is recorded or debugged already), `CLOSED`, `EINVAL`,
   *   or the errno of what failed
   */
  static async start(machine: Recordable, directory: string, options: RecordingOptions = {}): Promise<Recording> {
    folder(directory)
    const handle = (machine as Recordable | undefined)?.[nativeHandle]
    if (handle === undefined) throw invalid('what is recorded must be a Machine')
    const settings = nativeOptions(options)
    return logErrors(async () => {
      // The addon keeps `notify`, and that neither the recording nor its machine.
      const found: { recording?: WeakRef<Recording> } = {}
      const notify = Recording.#notifier(found)
      const recording = new Recording(machine, directory, await nativeEventLog.record(handle, directory, settings, notify))
      found.recording = new WeakRef(recording)
      recordings.set(machine, recording)
      return recording
    })
  }

  // Made where nothing else is in scope: what lies there would be kept with it.
  static #notifier(found: { recording?: WeakRef<Recording> }): () => void {
    return () => {
      const here = found.recording?.deref()
      if (here) here.#failed()
    }
  }

  #failed(): void {
    const error = failureOf(this.#native)
    if (error) for (const listener of this.#listeners) listener(toLayerError(error, EventLogError) as EventLogError)
  }

  /**
   * Ends the log at the next boundary; it is durable then. The machine goes on. Calling it again gives the same.
   *
   * @throws EventLogError `LOG_WRITE_FAILED`: retry() and stop() again are possible; `CLOSED`
   */
  async stop(): Promise<RecordingResult> {
    const result = await logErrors(() => this.#native.stop())
    this.#stopped = true
    this.#forget()
    return { directory: this.directory, ...result }
  }

  /**
   * Writes the state's digest to the log at the next boundary: a replay is compared with it there.
   *
   * @throws EventLogError `NO_BOUNDARY`, `LOG_WRITE_FAILED`, `CLOSED`
   */
  async checkpoint(): Promise<StateDigest> {
    return logErrors(() => this.#native.checkpoint())
  }

  /**
   * After the log could not be written and the machine paused (reason `'capture-failed'`): writes what is owed.
   * Then resume() the machine.
   *
   * @throws EventLogError `LOG_WRITE_FAILED` when it still fails, `CLOSED`
   */
  async retry(): Promise<void> {
    return logErrors(() => this.#native.retry())
  }

  /** What the writer has done so far. */
  stats(): RecordingStats {
    return logErrors(() => this.#native.stats())
  }

  /** Why the log cannot be written, while that is so. */
  get failure(): EventLogError | undefined {
    const error = logErrors(() => this.#native.failure())
    return error && (toLayerError(error, EventLogError) as EventLogError)
  }

  /**
   * Calls `listener` whenever writing the log begins to fail. The machine pauses then.
   *
   * @returns a function that ends it
   */
  onFailure(listener: (error: EventLogError) => void): () => void {
    if (typeof listener !== 'function') throw invalid('onFailure needs a function')
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /**
   * Stops the recording unless that is done or writing it fails, and gives everything back. Without a stop() that
   * worked the log has no end record, as after a crash. Calling it again is fine.
   */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      try {
        if (!this.#stopped && this.failure === undefined) await this.stop()
      } catch (error) {
        // Closing the machine ends its recordings too.
        if (!(error instanceof EventLogError && error.code === 'CLOSED')) throw error
      } finally {
        this.#forget()
        await logErrors(() => this.#native.close())
      }
    })()
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #forget(): void {
    if (recordings.get(this.machine) === this) recordings.delete(this.machine)
  }
}

function bytesOf(size: Size | undefined, normal: number, what: string): number {
  if (size === undefined) return normal
  try {
    return count(Number(toBytes(size)), what, 1, 2 ** 40)
  } catch (error) {
    throw error instanceof EventLogError ? error : invalid(`${what}: ${(error as Error).message}`)
  }
}

function choice<T extends string>(value: T | undefined, choices: readonly T[], what: string): number {
  const at = value === undefined ? 0 : choices.indexOf(value)
  if (at < 0) throw invalid(`${what} must be one of ${choices.join(', ')}`)
  return at
}

function nativeOptions(options: RecordingOptions): NativeRecordingOptions {
  if (typeof options !== 'object' || options === null) throw invalid('the options must be an object')
  const faults = options.plantedFaults ?? {}
  return {
    sync: choice(options.fsync, ['none', 'interval', 'always'], 'fsync'),
    syncIntervalMs: count(options.fsyncIntervalMs ?? 50, 'fsyncIntervalMs', 1, 60_000),
    commitLatencyUs: count(options.commitLatencyUs ?? 1500, 'commitLatencyUs', 0, 10_000_000),
    commitBytes: bytesOf(options.commitSize, 64 << 10, 'commitSize'),
    bufferBytes: bytesOf(options.bufferSize, 8 << 20, 'bufferSize'),
    failWhenFull: choice(options.onFull, ['wait', 'fail'], 'onFull') === 1,
    segmentBytes: bytesOf(options.segmentSize, 64 << 20, 'segmentSize'),
    faults: [faults.skipInput, faults.shiftInterrupt, faults.flipPacket]
  }
}

/** Of one that has been closed meanwhile there is none to tell. */
function failureOf(native: NativeRecording): unknown {
  try {
    return native.failure()
  } catch {
    return undefined
  }
}
