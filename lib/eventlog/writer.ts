// A log that is not of a machine: records of optional kinds, written by a thread of its own.
import { nativeEventLog, type NativeLogWriter } from './addon.js'
import { folder, logErrors } from './errors.js'

/**
 * What a log is of, for its header.
 *
 * @internal
 */
export interface LogSubject {
  /** Stands where a machine's log has its board: so no machine is replayed from it. */
  name: string
  /** Of what the records hold. */
  version: number
  /** Is called once when writing fails; then append() throws and nothing more is written. */
  onFailure: (error: unknown) => void
}

/** @internal */
export class LogWriter {
  readonly #native: NativeLogWriter
  #boundary = 0

  private constructor(native: NativeLogWriter) {
    this.#native = native
  }

  /** @throws EventLogError `LOG_EXISTS`, `EINVAL`, or the errno of what failed */
  static async create(directory: string, subject: LogSubject): Promise<LogWriter> {
    folder(directory)
    let writer: LogWriter | undefined
    const native = await logErrors(() =>
      nativeEventLog.write(directory, subject.name, subject.version, '{}', () => {
        if (!writer) return
        try {
          logErrors(() => {
            const error = native.failure()
            if (error) throw error
          })
        } catch (error) {
          subject.onFailure(error)
        }
      })
    )
    return (writer = new LogWriter(native))
  }

  /**
   * Takes a record; never waits. Records are numbered by their boundaries.
   *
   * @throws EventLogError `LOG_WRITE_FAILED`; `LOG_BUFFER_FULL` when the disk does not keep up
   */
  append(kind: number, bytes: Uint8Array): void {
    logErrors(() => this.#native.append(kind, this.#boundary, bytes))
    this.#boundary++
  }

  /** All that was appended is written then. */
  async flush(): Promise<void> {
    await logErrors(() => this.#native.flush())
  }

  /** Writes the end record and all before it. */
  async finish(): Promise<void> {
    await logErrors(() => this.#native.finish(this.#boundary))
  }

  async close(): Promise<void> {
    await logErrors(() => this.#native.close())
  }
}
