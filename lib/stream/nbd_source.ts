// An image that an NBD server exports, as a source: its chunks come as they are, and are verified by a manifest that
// comes from elsewhere. Reads are made by libnbd, on threads of the addon's own.
import { statSync } from 'node:fs'
import path from 'node:path'
import { native } from '../native.js'
import { check, invalid, StreamError } from './errors.js'
import { MANIFEST_FILE, type Manifest } from './manifest.js'
import type { Layout, Source, SourceOptions } from './source.js'

interface NativeNbd {
  read(offset: number, size: number): Promise<Buffer>
  close(): Promise<void>
}

const { nbd } = native as { nbd: { open(uri: string): Promise<[handle: NativeNbd, size: number]>; shown(uri: string): string } }

/** Of one read, unless a chunk is larger: several are under way at once, and each that is answered shows that the server is alive. */
const MAX_READ = 256 << 10

interface Connection {
  handle: Promise<NativeNbd>
  /** When something came by it, on performance.now()'s clock. */
  heardAt: number
}

/** @internal */
export class NbdSource implements Source {
  readonly where: string
  readonly local = false
  readonly #uri: string
  readonly #pack: Source
  readonly #file: string
  readonly #silenceMs: number
  #manifest: Manifest | undefined
  #connection: Connection | undefined
  #closed = false

  /** @param open - makes the source that the manifest is read from */
  constructor(uri: string, options: SourceOptions, open: (location: string) => Source) {
    const { manifest, silenceMs = 10_000 } = options
    this.#uri = uri
    this.where = nbd.shown(uri)
    if (typeof manifest !== 'string' || manifest === '')
      throw invalid(`${this.where} has no manifest: give that of its pack (manifest), or the pack's folder or URL`)
    const [folder, file] = placeOf(manifest)
    this.#pack = open(folder)
    this.#file = file
    this.#silenceMs = silenceMs
  }

  file(name: string, limit: number, signal?: AbortSignal): Promise<Buffer> {
    return this.#pack.file(name === MANIFEST_FILE ? this.#file : name, limit, signal)
  }

  layout(manifest: Manifest): Layout {
    this.#manifest = manifest
    return { offsets: Float64Array.from({ length: manifest.blobs + 1 }, (_, blob) => blob * manifest.chunkSize), dataName: '' }
  }

  async range(_name: string, from: number, to: number, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    const manifest = this.#manifest as Manifest
    const { chunkSize } = manifest
    const connection = this.#connect(manifest)
    const handle = await this.#patient(connection, connection.handle, signal)
    const reads: { chunk: number; count: number }[] = []
    for (let blob = from / chunkSize; blob < to / chunkSize; blob++) {
      const chunk = manifest.chunkOf(blob)
      const last = reads.at(-1)
      if (last && last.chunk + last.count === chunk && (last.count + 1) * chunkSize <= MAX_READ) last.count++
      else reads.push({ chunk, count: 1 })
    }
    const pieces = reads.map(({ chunk, count }) => {
      const at = chunk * chunkSize
      return handle.read(at, Math.min(manifest.imageSize, at + count * chunkSize) - at).then(bytes => {
        connection.heardAt = performance.now()
        // The image's end is filled up with zeros.
        return bytes.length === count * chunkSize ? bytes : Buffer.concat([bytes], count * chunkSize)
      })
    })
    // Of the others nobody hears when one has failed.
    for (const piece of pieces) piece.catch(() => undefined)
    const first = await this.#patient(connection, pieces[0] as Promise<Buffer>, signal)
    return this.#given(connection, first, pieces, signal)
  }

  close(): void {
    this.#closed = true
    this.#pack.close()
    if (this.#connection) this.#drop(this.#connection)
  }

  async *#given(connection: Connection, first: Buffer, pieces: readonly Promise<Buffer>[], signal: AbortSignal): AsyncGenerator<Buffer> {
    yield first
    for (const piece of pieces.slice(1)) yield await this.#patient(connection, piece, signal)
  }

  #connect(manifest: Manifest): Connection {
    const handle = async (): Promise<NativeNbd> => {
      const [opened, size] = await nbd.open(this.#uri)
      if (size >= manifest.imageSize && !this.#closed) return opened
      await opened.close()
      throw new StreamError(`${this.where} has ${size} bytes, less than the ${manifest.imageSize} of the image: it is another one`, { code: 'SOURCE_REFUSED' })
    }
    return (this.#connection ??= { handle: handle(), heardAt: -Infinity })
  }

  /** The next read connects anew. */
  #drop(connection: Connection): void {
    // Another request may have connected anew already.
    if (this.#connection === connection) this.#connection = undefined
    connection.handle.then(one => one.close()).catch(() => undefined)
  }

  /** What comes of it by a connection, unless nothing comes by that for too long, or the caller has had enough. */
  async #patient<T>(connection: Connection, work: Promise<T>, signal: AbortSignal): Promise<T> {
    check(signal)
    const begun = performance.now()
    let end: (error: Error) => void = () => undefined
    const over = new Promise<never>((_, reject) => (end = reject))
    const stop = (): void => end(signal.reason as Error)
    let timer: NodeJS.Timeout | undefined
    const look = (): void => {
      const left = Math.max(begun, connection.heardAt) + this.#silenceMs - performance.now()
      if (left > 0) timer = setTimeout(look, left)
      else end(new Error(`no answer for ${this.#silenceMs / 1000} s`))
    }
    look()
    signal.addEventListener('abort', stop, { once: true })
    try {
      return await Promise.race([work, over])
    } catch (error) {
      if (signal.aborted) throw error
      this.#drop(connection)
      if (error instanceof StreamError) throw error
      const { code, message } = error as NodeJS.ErrnoException
      const codes: Record<string, string> = { LIBNBD_MISSING: 'TOOL_MISSING', EINVAL: 'SOURCE_REFUSED', BAD_CONFIG: 'SOURCE_REFUSED', BAD_CERTIFICATE: 'SOURCE_REFUSED' }
      throw new StreamError(`${this.where}: ${message}`, { code: codes[code ?? ''] ?? 'SOURCE_UNREACHABLE', cause: error })
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }
}

/** A pack's folder or URL, and the manifest's name there. */
function placeOf(manifest: string): [folder: string, file: string] {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(manifest))
    return manifest.endsWith(`/${MANIFEST_FILE}`) ? [manifest.slice(0, -MANIFEST_FILE.length), MANIFEST_FILE] : [manifest, MANIFEST_FILE]
  return statSync(manifest, { throwIfNoEntry: false })?.isDirectory() ? [manifest, MANIFEST_FILE] : [path.dirname(manifest), path.basename(manifest)]
}
