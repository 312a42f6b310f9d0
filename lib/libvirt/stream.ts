// virStream: bytes to and from a hypervisor (consoles, volumes, screenshots), as Node's streams too.
import { addAbortSignal, Duplex } from 'node:stream'
import { addon } from './addon.js'
import { libvirtErrors } from './errors.js'
import { StreamApi } from './generated/stream.js'

/** What one message of libvirt's protocol carries, in bytes. */
const message = 262_120

/**
 * A run of zeroes that is not sent byte by byte.
 *
 * @since 0.1.0
 */
export interface StreamHole {
  /** Its length in bytes. */
  hole: bigint
}

/**
 * How a libvirt stream becomes one of Node's.
 *
 * @since 0.1.0
 */
export interface StreamDuplexOptions {
  /**
   * Which way the bytes go: `'read'` (download, screenshot), `'write'` (upload) or `'both'` (console, the default).
   * At the end of all that goes, the stream is finished.
   */
  direction?: 'read' | 'write' | 'both'
  /**
   * True: holes are read and written as {@link StreamHole} objects, so the stream is in object mode. For volumes
   * opened with `StorageVolDownloadFlags.SPARSE_STREAM` or `StorageVolUploadFlags.SPARSE_STREAM`.
   */
  sparse?: boolean
  /** How much is read at once at most, in bytes; 262,120 if left out, at most 16,777,216. */
  chunkSize?: number
  /** Aborts the stream. */
  signal?: AbortSignal
}

class StreamDuplex extends Duplex {
  readonly #stream: Stream
  readonly #sparse: boolean
  readonly #chunkSize: number
  readonly #directions: number
  #ended = 0

  constructor(stream: Stream, options: StreamDuplexOptions) {
    const { direction = 'both', sparse = false, chunkSize = message, signal } = options
    // Node's types do not know the first two.
    const node = {
      readable: direction !== 'write',
      writable: direction !== 'read',
      readableObjectMode: sparse,
      writableObjectMode: sparse
    }
    super(node)
    this.#stream = stream
    this.#sparse = sparse
    this.#chunkSize = chunkSize
    this.#directions = direction === 'both' ? 2 : 1
    // Not before: one that is aborted already destroys at once.
    if (signal) addAbortSignal(signal, this)
  }

  override _read(): void {
    void libvirtErrors(() =>
      addon.libvirtStreamRecv(this.#stream, this.#chunkSize, this.#sparse)
    ).then(
      async chunk => {
        if (chunk === null) {
          await this.#end()
          this.push(null)
        } else if (typeof chunk === 'bigint') this.push({ hole: chunk } satisfies StreamHole)
        else this.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))
      }
    ).catch((error: unknown) => this.destroy(error as Error))
  }

  override _write(chunk: Uint8Array | StreamHole, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#settle(chunk instanceof Uint8Array ? this.#stream.write(chunk) : this.#stream.writeHole(chunk.hole), done)
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#settle(this.#end(), done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const ended = this.#ended === this.#directions ? Promise.resolve() : this.#stream.abort()
    const closed = ended.catch(() => undefined).then(() => this.#stream.close())
    closed.then(() => done(error), done)
  }

  /** One direction is at its end; finishes after the last. */
  async #end(): Promise<void> {
    if (++this.#ended === this.#directions) await this.#stream.finish()
  }

  #settle(promise: Promise<void>, done: (error?: Error | null) => void): void {
    promise.then(() => done(), done)
  }
}

/**
 * A stream of bytes to or from a hypervisor. A call such as `domain.openConsole()`, `vol.download()` or
 * `domain.screenshot()` opens it. Waiting in read(), write() and duplex() takes no thread; they are fastest on a stream
 * of `connect.streamNew(StreamFlags.NONBLOCK)`. libvirt's own recv() and send() on a blocking stream keep a thread until
 * they return, and so long the end of the stream waits for them. A stream that is closed without finish() is aborted.
 *
 * ```ts
 * const stream = await connect.streamNew(StreamFlags.NONBLOCK)
 * await domain.screenshot(stream, 0)
 * await pipeline(stream.duplex({ direction: 'read' }), createWriteStream('screen.png'))
 * ```
 *
 * @since 0.1.0
 */
export class Stream extends StreamApi {
  /**
   * This stream as one of Node's, with back-pressure. The end of what it reads or writes finishes it, destroy()
   * aborts it, and both close it.
   *
   * @since 0.1.0
   */
  duplex(options: StreamDuplexOptions = {}): Duplex {
    return new StreamDuplex(this, options)
  }

  /**
   * The next bytes, when there are some: at most `most`, at least one. Null at the end. One at a time.
   *
   * @throws LibvirtError; `BUSY` while another read waits, `CLOSED` when the stream is aborted meanwhile
   * @since 0.1.0
   */
  async read(most: number = message): Promise<Uint8Array | null> {
    return (await libvirtErrors(() => addon.libvirtStreamRecv(this, most, false))) as Uint8Array | null
  }

  /**
   * As {@link read}, with holes as such: where the stream was opened with a flag `SPARSE_STREAM`.
   *
   * @since 0.1.0; libvirt 3.4.0
   */
  async readSparse(most: number = message): Promise<Uint8Array | StreamHole | null> {
    const chunk = await libvirtErrors(() => addon.libvirtStreamRecv(this, most, true))
    return typeof chunk === 'bigint' ? { hole: chunk } : chunk
  }

  /**
   * Sends all of `data`, waiting where the other side does not take it yet. One at a time.
   *
   * @throws LibvirtError; `BUSY` while another write waits, `CLOSED` when the stream is aborted meanwhile
   * @since 0.1.0
   */
  write(data: Uint8Array): Promise<void> {
    return libvirtErrors(() => addon.libvirtStreamSend(this, data))
  }

  /**
   * Sends a hole of `length` bytes: where the stream was opened with a flag `SPARSE_STREAM`.
   *
   * @throws LibvirtError; as {@link write}
   * @since 0.1.0; libvirt 3.4.0
   */
  writeHole(length: bigint | number): Promise<void> {
    return libvirtErrors(() => addon.libvirtStreamSendHole(this, BigInt(length), 0))
  }

  /**
   * Tells libvirt, after the last byte, that all is there; rejects when something went wrong on the way.
   *
   * @throws LibvirtError
   * @see [virStreamFinish](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamFinish)
   * @since 0.1.0; libvirt 0.7.2
   */
  override finish(): Promise<void> {
    return libvirtErrors(() => addon.libvirtStreamFinish(this))
  }

  /**
   * Gives the transfer up; a read or write that waits is rejected with `CLOSED`, one that has its bytes already may
   * still get them. Resolves when the other side has answered. Twice is fine.
   *
   * @see [virStreamAbort](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamAbort)
   * @since 0.1.0; libvirt 0.7.2
   */
  override abort(): Promise<void> {
    return libvirtErrors(() => addon.libvirtStreamAbort(this))
  }

  /**
   * Hands all that comes to `sink`, until the end; finish() is still to be called. When `sink` throws, the
   * stream is aborted.
   *
   * @see [virStreamRecvAll](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamRecvAll)
   * @since 0.1.0; libvirt 0.7.2
   */
  recvAll(sink: (data: Uint8Array) => void | Promise<void>): Promise<void> {
    return this.#orAbort(async () => {
      for (let data = await this.read(); data !== null; data = await this.read()) await sink(data)
    })
  }

  /**
   * As {@link recvAll}, with the length of each hole handed to `hole`.
   *
   * @see [virStreamSparseRecvAll](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamSparseRecvAll)
   * @since 0.1.0; libvirt 3.4.0
   */
  sparseRecvAll(
    sink: (data: Uint8Array) => void | Promise<void>,
    hole: (length: bigint) => void | Promise<void>
  ): Promise<void> {
    return this.#orAbort(async () => {
      for (let chunk = await this.readSparse(); chunk !== null; chunk = await this.readSparse())
        if (chunk instanceof Uint8Array) await sink(chunk)
        else await hole(chunk.hole)
    })
  }

  /**
   * Sends all that `source` gives; finish() is still to be called. When `source` throws, the stream is aborted.
   *
   * @see [virStreamSendAll](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamSendAll)
   * @since 0.1.0; libvirt 0.7.2
   */
  sendAll(source: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
    return this.sparseSendAll(source)
  }

  /**
   * As {@link sendAll}, where `source` gives holes too.
   *
   * @see [virStreamSparseSendAll](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamSparseSendAll)
   * @since 0.1.0; libvirt 3.4.0
   */
  sparseSendAll(source: Iterable<Uint8Array | StreamHole> | AsyncIterable<Uint8Array | StreamHole>): Promise<void> {
    return this.#orAbort(async () => {
      for await (const chunk of source)
        if (chunk instanceof Uint8Array) await this.write(chunk)
        else await this.writeHole(chunk.hole)
    })
  }

  /**
   * Calls `callback` when one of `events` holds, and again after what it returned has settled, as long as one does;
   * of the end of the connection once, as `ERROR | HANGUP`. Waiting for one keeps the process alive, until the
   * callback is removed or the stream ends. A stream has one callback: the one before is replaced.
   *
   * @param events - an OR of `StreamEventType`
   * @throws LibvirtError
   * @see [virStreamEventAddCallback](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamEventAddCallback)
   * @since 0.1.0; libvirt 0.7.2
   */
  eventAddCallback(events: number, callback: (events: number) => unknown): Promise<void> {
    this.#callback = callback
    const listener = (now: number): void =>
      void (async () => {
        try {
          await callback(now)
        } finally {
          // Not for one that has taken its place meanwhile.
          if (this.#listener === listener) addon.libvirtStreamRearm(this)
        }
      })()
    this.#listener = listener
    return libvirtErrors(() => addon.libvirtStreamListen(this, events, listener))
  }

  /**
   * Changes what the callback is called for.
   *
   * @param events - an OR of `StreamEventType`
   * @throws LibvirtError
   * @see [virStreamEventUpdateCallback](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamEventUpdateCallback)
   * @since 0.1.0; libvirt 0.7.2
   */
  eventUpdateCallback(events: number): Promise<void> {
    return this.eventAddCallback(events, this.#callback)
  }

  /**
   * Ends the calls of the callback.
   *
   * @throws LibvirtError
   * @see [virStreamEventRemoveCallback](https://libvirt.org/html/libvirt-libvirt-stream.html#virStreamEventRemoveCallback)
   * @since 0.1.0; libvirt 0.7.2
   */
  eventRemoveCallback(): Promise<void> {
    this.#listener = undefined
    return libvirtErrors(() => addon.libvirtStreamListen(this, 0, undefined))
  }

  #callback: (events: number) => unknown = () => undefined
  #listener: ((events: number) => void) | undefined

  async #orAbort(body: () => Promise<void>): Promise<void> {
    try {
      await body()
    } catch (error) {
      await this.abort().catch(() => undefined)
      throw error
    }
  }
}
