// Where a pack is read from: a folder of this host, a web server that knows byte ranges, or an NBD server that has the image itself.
import { FileSource } from './file_source.js'
import { HttpSource } from './http_source.js'
import { NbdSource } from './nbd_source.js'
import { invalid } from './errors.js'
import type { Manifest } from './manifest.js'

/**
 * How a source is reached.
 *
 * @since 0.1.0
 */
export interface SourceOptions {
  /** Silence of a server, in milliseconds, after which a request is given up. Default 10 000. */
  silenceMs?: number
  /** Sent with each request over HTTP, for example `{ authorization: 'Bearer …' }`; not to a server redirected to. */
  headers?: Readonly<Record<string, string>>
  /** Over HTTPS: checks the server's certificate (PEM) in place of the system's authorities. */
  ca?: string | Uint8Array
  /**
   * Of an image on an NBD server, which has no pack: the path of a manifest, or the folder or http(s) URL of a pack, whose
   * profile is taken too. With a pack as the source: `EINVAL`. @since 0.1.0
   */
  manifest?: string
}

/** Where each blob lies in the file that is read. @internal */
export interface Layout {
  offsets: Float64Array
  dataName: string
}

/** A pack's files. What it gives is not verified. @internal */
export interface Source {
  /** For messages and for people: its path or URL. */
  readonly where: string
  /** True where reading costs no round trip. */
  readonly local: boolean
  /** A whole file of at most `limit` bytes. */
  file(name: string, limit: number, signal?: AbortSignal): Promise<Buffer>
  /**
   * Bytes `from` to `to` (exclusive) of a file. The promise is settled when the answer begins; the iteration gives
   * exactly that many bytes, or fails.
   *
   * @param fresh - no cache on the way may answer
   */
  range(name: string, from: number, to: number, signal: AbortSignal, fresh?: boolean): Promise<AsyncIterable<Buffer>>
  /** Where blobs lie here; without it as the manifest says. Asked before any range. */
  layout?(manifest: Manifest): Layout
  close(): void
}

/**
 * @param location - a folder's path or file: URL, the http: or https: URL of a folder, or the URI of an NBD server's export
 * @throws StreamError `EINVAL`
 * @internal
 */
export function openSource(location: string, options: SourceOptions = {}): Source {
  if (typeof location !== 'string' || location === '') throw invalid('give the folder or the URL of a pack')
  const { silenceMs = 10_000 } = options
  if (!Number.isFinite(silenceMs) || silenceMs <= 0) throw invalid('silenceMs must be a positive number of milliseconds')
  const { manifest, ...reach } = options
  if (/^nbds?(\+unix|\+vsock)?:\/\//.test(location)) return new NbdSource(location, options, pack => openSource(pack, reach))
  if (manifest !== undefined)
    throw invalid(
      'manifest (--manifest) is for an image on an NBD server; a folder or a web server has a pack, with a manifest of its own: leave it out, or put a ' +
        'raw image on an NBD server first (nbdkit file <image>)'
    )
  if (/^https?:/.test(location)) return new HttpSource(location, options)
  if (location.startsWith('file:')) return new FileSource(fileUrl(location))
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(location))
    throw invalid(`${location} is no source: give a folder, or a URL that begins with http://, https://, nbd:// or nbd+unix://`)
  return new FileSource(location)
}

function fileUrl(location: string): string {
  try {
    return decodeURIComponent(new URL(location).pathname)
  } catch (cause) {
    throw invalid(`${location} is no file: URL (${(cause as Error).message})`)
  }
}
