// A log on disk: its header, its records, its index, whether it is whole.
import { nativeEventLog, type NativeBatch, type NativeLog, type NativeReader } from './addon.js'
import { toLayerError } from '../errors.js'
import { EventLogError, boundaryNumber, folder, logErrors } from './errors.js'
import { decodeRecords, type GapRecord, type LogDamage, type LogRecord } from './records.js'

/**
 * What a log was recorded on. A replay needs the same processor, board and memory.
 *
 * @since 0.1.0
 */
export interface LogHeader {
  /** 32 hexadecimal digits. */
  id: string
  /** When its recording began. */
  created: Date
  /** The version of hypertwin that recorded it. */
  hypertwin: string
  /** As CPUID names it: `'AuthenticAMD'`. */
  cpuVendor: string
  /** With the extended family added. */
  cpuFamily: number
  /** With the extended model in its upper four bits. */
  cpuModel: number
  /** Of the processor. */
  cpuStepping: number
  /** Of the CPUID table that the guest sees. */
  cpuFeatures: string
  /** In what KVM implementations differ, visibly to a log. */
  kvmQuirks: string
  /** Whose log it is: `'deterministic'` of a machine's. */
  board: string
  /** Of the board's behaviour, as a guest sees it. */
  boardVersion: number
  /** Bytes of RAM. */
  memorySize: number
  /** The combined digest of the state that it begins with. */
  initialState: string
}

/**
 * What {@link EventLog.verify} found.
 *
 * @since 0.1.0
 */
export interface VerifyReport {
  /** Nothing is damaged. A log without its end record may still be ok: the recorder was killed, or runs. */
  ok: boolean
  /** Whole ones, in all blocks that can be read. */
  records: bigint
  /** Whole ones. */
  blocks: bigint
  /** Files. */
  segments: bigint
  /** Of the log's files. */
  bytes: bigint
  /** Of the first record. */
  firstBoundary: bigint
  /** Of the last record. */
  lastBoundary: bigint
  /** Those before the first gap. */
  replayableRecords: bigint
  /** The last boundary that a replay can reach. */
  replayableBoundary: bigint
  /** Each whole block follows the one before: none is missing between two, and none was put there later. */
  chainOk: boolean
  /** The end record is there. */
  ended: boolean
  /** The hash chain after the last block. */
  chain: string
  /** What is damaged and where, in the log's order. */
  damages: LogDamage[]
}

/**
 * One block of the log: records that were committed together.
 *
 * @since 0.1.0
 */
export interface LogBlock {
  /** The segment file's number, from 1. */
  segment: number
  /** Where it begins in the segment's file, in bytes. */
  offset: bigint
  /** Of the encoded records. */
  bytes: number
  /** How many it holds. */
  records: number
  /** The number of its first record, from 0. */
  firstRecord: bigint
  /** Of its first record. */
  firstBoundary: bigint
  /** Of its last record. */
  lastBoundary: bigint
}

/**
 * Which records to read.
 *
 * @since 0.1.0
 */
export interface RecordsOptions {
  /** Begin with the first record at or after this boundary. */
  from?: bigint
  /** At the end of the data wait for more, until the end record. */
  follow?: boolean
  /** Go on behind gaps; each is yielded as a {@link GapRecord}. Default: stop there. */
  withGaps?: boolean
  /** Yield records of later versions too, as {@link ExtensionRecord}s. */
  extensions?: boolean
  /** Ends the iteration with its reason. */
  signal?: AbortSignal
}

/**
 * Records of a log, iterated once.
 *
 * @since 0.1.0
 */
export interface LogRecords<T = LogRecord> extends AsyncIterableIterator<T> {
  /**
   * Why it ended: `'end'`: the end record was read; `'data-ends'`: there is none (the recorder was killed, or
   * runs still); `'gap'`: records are lost here. Undefined before.
   */
  readonly stop: 'end' | 'data-ends' | 'gap' | 'cancelled' | undefined
  /** What was found damaged so far. */
  readonly damages: readonly LogDamage[]
}

/**
 * An event log: a folder with segments and the snapshot that it begins with (docs/eventlog-format.md).
 *
 * @example
 * ```ts
 * await using log = await EventLog.open('run1')
 * for await (const record of log.records()) console.log(record.boundary, record.kind)
 * ```
 *
 * @since 0.1.0
 */
export class EventLog implements AsyncDisposable {
  /** The folder. */
  readonly directory: string
  /** What it was recorded on. */
  readonly header: LogHeader
  readonly #native: NativeLog
  #closing: Promise<void> | undefined

  private constructor(directory: string, native: NativeLog) {
    this.directory = directory
    this.header = native.header()
    this.#native = native
  }

  /**
   * @param directory - the log's folder; it may still grow
   * @throws EventLogError `LOG_NOT_FOUND`, `LOG_VERSION`, `LOG_HEADER_DAMAGED`
   */
  static async open(directory: string): Promise<EventLog> {
    folder(directory)
    return new EventLog(directory, await logErrors(() => nativeEventLog.open(directory)))
  }

  /**
   * Reads records, ahead of the consumer by a bounded number of bytes, on a thread of their own. Only whole
   * records with right checksums are yielded.
   *
   * @throws EventLogError `LOG_UNKNOWN_KIND`, `CLOSED`, or the errno of what failed, in the iteration
   */
  records(options: RecordsOptions & { withGaps: true }): LogRecords<LogRecord | GapRecord>
  records(options?: RecordsOptions): LogRecords
  records(options: RecordsOptions = {}): LogRecords<LogRecord | GapRecord> {
    const from = options.from === undefined ? 0n : boundaryNumber(options.from, 'from')
    return new Records(
      this,
      logErrors(() =>
        this.#native.read(
          from,
          options.follow === true,
          options.withGaps === true,
          options.extensions === true
        )
      ),
      options.withGaps === true,
      options.signal
    )
  }

  /**
   * Reads all of the log and says what is damaged and how far it can be replayed.
   *
   * @throws EventLogError with the errno of what failed, `CLOSED`
   */
  async verify(): Promise<VerifyReport> {
    return logErrors(() => this.#native.verify())
  }

  /**
   * The log's blocks, in order. Only their headers are read.
   *
   * @throws EventLogError with the errno of what failed, `CLOSED`
   */
  async index(): Promise<LogBlock[]> {
    return logErrors(() => this.#native.index())
  }

  /** Ends iterations too. Calling it again is fine. */
  close(): Promise<void> {
    return (this.#closing ??= logErrors(() => this.#native.close()))
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

class Records implements LogRecords<LogRecord | GapRecord> {
  stop: LogRecords['stop']
  readonly damages: LogDamage[] = []
  readonly #withGaps: boolean
  readonly #signal: AbortSignal | undefined
  readonly #native: NativeReader
  readonly #abort = (): void => void this.#native.close()
  #items: (LogRecord | GapRecord)[] = []
  #at = 0
  #error: Error | undefined
  #over = false

  /** @param log - stays while it is read */
  constructor(
    readonly log: EventLog,
    native: NativeReader,
    withGaps: boolean,
    signal: AbortSignal | undefined
  ) {
    this.#withGaps = withGaps
    this.#signal = signal
    this.#native = native
    if (signal?.aborted) this.#abort()
    else signal?.addEventListener('abort', this.#abort, { once: true })
  }

  async next(): Promise<IteratorResult<LogRecord | GapRecord>> {
    for (;;) {
      if (this.#over) return { done: true, value: undefined }
      if (this.#signal?.aborted) {
        await this.#finish()
        throw this.#signal.reason
      }
      const item = this.#items[this.#at]
      if (item) {
        this.#at++
        return { done: false, value: item }
      }
      if (this.#error) {
        const error = this.#error
        await this.#finish()
        throw toLayerError(error, EventLogError)
      }
      if (this.stop) {
        await this.#finish()
        continue
      }
      const batch = this.#native.take()
      if (batch) this.#receive(batch)
      else await this.#native.wait()
    }
  }

  async return(): Promise<IteratorResult<LogRecord | GapRecord>> {
    await this.#finish()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #receive(batch: NativeBatch): void {
    const records = decodeRecords(batch.numbers, batch.bytes)
    this.#items = []
    this.#at = 0
    let taken = 0
    for (const { before, damage } of batch.damages) {
      this.damages.push(damage)
      if (!this.#withGaps) continue
      this.#items.push(...records.slice(taken, before), { kind: 'gap', damage })
      taken = before
    }
    this.#items = this.#items.length === 0 ? records : this.#items.concat(records.slice(taken))
    this.stop = batch.stop
    this.#error = batch.error
  }

  async #finish(): Promise<void> {
    if (this.#over) return
    this.#over = true
    this.#items = []
    this.#signal?.removeEventListener('abort', this.#abort)
    await this.#native.close()
  }
}
