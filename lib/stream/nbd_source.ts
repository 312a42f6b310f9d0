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

/** Of one read. */
const MAX_READ = 1 << 20

/** @internal */
export class NbdSource implements Source {
  readonly where: string
  readonly local = false
  readonly #uri: string
  readonly #pack: Source
  readonly #file: string
  readonly #silenceMs: number
  #manifest: Manifest | undefined
  #handle: Promise<NativeNbd> | undefined
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
    const handle = await this.#patient(this.#open(manifest), signal)
    const reads: { chunk: number; count: number }[] = []
    for (let blob = from / chunkSize; blob < to / chunkSize; blob++) {
      const chunk = manifest.chunkOf(blob)
      const last = reads.at(-1)
      if (last && last.chunk + last.count === chunk && (last.count + 1) * chunkSize <= MAX_READ) last.count++
      else reads.push({ chunk, count: 1 })
    }
    const pieces = reads.map(({ chunk, count }) => {
      const at = chunk * chunkSize
      return handle.read(at, Math.min(manifest.imageSize, at + count * chunkSize) - at).then(bytes =>
        // The image's end is filled up with zeros.
        bytes.length === count * chunkSize ? bytes : Buffer.concat([bytes], count * chunkSize)
      )
    })
    // Of the others nobody hears when one has failed.
    for (const piece of pieces) piece.catch(() => undefined)
    const first = await this.#patient(pieces[0] as Promise<Buffer>, signal)
    return this.#given(first, pieces, signal)
  }

  close(): void {
    this.#closed = true
    this.#pack.close()
    this.#drop(this.#handle)
  }

  async *#given(first: Buffer, pieces: readonly Promise<Buffer>[], signal: AbortSignal): AsyncGenerator<Buffer> {
    yield first
    for (const piece of pieces.slice(1)) yield await this.#patient(piece, signal)
  }

  #open(manifest: Manifest): Promise<NativeNbd> {
    return (this.#handle ??= nbd.open(this.#uri).then(async ([handle, size]) => {
      if (size >= manifest.imageSize && !this.#closed) return handle
      await handle.close()
      throw new StreamError(`${this.where} has ${size} bytes, less than the ${manifest.imageSize} of the image: it is another one`, { code: 'SOURCE_REFUSED' })
    }))
  }

  /** The next read connects anew. */
  #drop(handle: Promise<NativeNbd> | undefined): void {
    // Another request may have connected anew already.
    if (this.#handle === handle) this.#handle = undefined
    handle?.then(one => one.close()).catch(() => undefined)
  }

  /** What comes of it, unless the server is silent for too long, or the caller has had enough. */
  async #patient<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
    check(signal)
    const handle = this.#handle
    let end: (error: Error) => void = () => undefined
    const over = new Promise<never>((_, reject) => (end = reject))
    const stop = (): void => end(signal.reason as Error)
    const timer = setTimeout(() => end(new Error(`no answer for ${this.#silenceMs / 1000} s`)), this.#silenceMs)
    signal.addEventListener('abort', stop, { once: true })
    try {
      return await Promise.race([work, over])
    } catch (error) {
      if (signal.aborted) throw error
      this.#drop(handle)
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
