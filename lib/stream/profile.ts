// A profile: which chunks a start needs, in which order and when. It comes from traces of starts or from an
// examination, and is tied to the chunks' contents, so that it serves the next version of an image too, as far as that
// is the same. A profile can waste a reader's bandwidth, and nothing else. docs/stream-format.md describes it.
import { readFile, stat } from 'node:fs/promises'
import { failed, invalid, StreamError } from './errors.js'
import { isChunkSize, MAX_CHUNK_SIZE, MAX_CHUNKS, ZERO, type Manifest } from './manifest.js'

const FORMAT = 'hypertwin-stream-profile'
const VERSION = 1
/** Hexadecimal digits of a chunk's digest: enough to see that it has changed. */
const DIGITS = 16
/** @internal */
export const MAX_PROFILE_BYTES = 64 << 20
/** Of its text: all but the chunks, and a chunk. @internal */
export const MAX_PROFILE_HEAD = 4096
/** @internal */
export const MAX_PROFILE_LINE = 64
/** The shortest chunk that there is. */
const MIN_ENTRY = '[0,"0123456789abcdef",0,0]'.length
const MAX_MS = 1e9

/**
 * A chunk that starts need.
 *
 * @since 0.1.0
 */
export interface ProfileEntry {
  /** Its number in the image that the profile was made with. */
  chunk: number
  /** How its digest begins: 16 hexadecimal digits. */
  digest: string
  /** When it is needed first, in milliseconds from the start on, without the time that reads waited for chunks. */
  atMs: number
  /** How many of the traces have it. */
  seen: number
}

/**
 * A read of a chunk, as a trace has it.
 *
 * @since 0.1.0
 */
export interface Access {
  /** The chunk's number. */
  chunk: number
  /** From the first one on, in milliseconds. */
  atMs: number
  /** How long the reader waited until the chunk was there; 0 when it was. */
  waitedMs: number
}

/**
 * How a profile fits an image.
 *
 * @since 0.1.0
 */
export interface ProfileMatch {
  /** Chunks of the image in the order in which they will be needed, and when. */
  wanted: { chunk: number; atMs: number }[]
  /** Entries whose chunk is the same. */
  unchanged: number
  /** Entries whose contents are elsewhere in the image now. */
  moved: number
  /** Entries whose contents are nowhere; what is in their place now is wanted last. */
  stale: number
  /** Entries of a profile of chunks of another size: what is in their place is wanted, and nobody knows whether it is the same. */
  placed: number
}

/**
 * What a start needs, in which order and when.
 *
 * @since 0.1.0
 */
export class Profile {
  /** The digest of the manifest that it was made with. */
  readonly manifest: string
  /** Of that image, in bytes. */
  readonly chunkSize: number
  /** How many traces it was made of; 0: of an examination. */
  readonly traces: number
  /** In the order in which they are to be fetched. */
  readonly entries: readonly ProfileEntry[]

  private constructor(manifest: string, chunkSize: number, traces: number, entries: readonly ProfileEntry[]) {
    this.manifest = manifest
    this.chunkSize = chunkSize
    this.traces = traces
    this.entries = entries
  }

  /**
   * Of one trace. Chunks of zeros are left out.
   *
   * @throws StreamError `EINVAL` for a chunk that the image does not have
   */
  static fromTrace(manifest: Manifest, accesses: Iterable<Access>): Profile {
    const sorted = [...accesses].sort((a, b) => a.atMs - b.atMs)
    let waited = 0
    const timed = sorted.map(({ chunk, atMs, waitedMs }) => {
      const entry = { chunk, atMs: Math.max(0, atMs - waited) }
      // Reads that wait at the same time are counted one after the other, which asks for chunks too early, not too late.
      waited += waitedMs
      return entry
    })
    return this.fromOrder(manifest, timed, 1)
  }

  /** Chunks in an order of somebody's choice; one that comes again counts once. @internal */
  static fromOrder(manifest: Manifest, order: Iterable<{ chunk: number; atMs: number }>, traces: number): Profile {
    const seen = new Set<number>()
    const entries: ProfileEntry[] = []
    for (const { chunk, atMs } of order) {
      if (!Number.isInteger(chunk) || chunk < 0 || chunk >= manifest.chunks) throw invalid(`the image has no chunk ${chunk}`)
      const blob = manifest.blobOf[chunk] as number
      if (blob === ZERO || seen.has(blob)) continue
      seen.add(blob)
      entries.push({ chunk, digest: short(manifest, blob), atMs: Math.min(MAX_MS, Math.round(atMs)), seen: Math.max(1, traces) })
    }
    return new Profile(manifest.digest, manifest.chunkSize, traces, entries)
  }

  /**
   * What at least half of the traces have comes first, at its median time; the rest follows.
   *
   * @param profiles - of the same image
   * @throws StreamError `EINVAL` for profiles of different images, or none
   */
  static merge(profiles: readonly Profile[]): Profile {
    const [first] = profiles
    if (!first) throw invalid('there is no profile to merge')
    const all = new Map<string, { entry: ProfileEntry; seen: number; times: number[] }>()
    for (const profile of profiles) {
      if (profile.manifest !== first.manifest) throw invalid('these profiles are of different images: make them anew with one of them')
      for (const entry of profile.entries) {
        const key = `${entry.chunk} ${entry.digest}`
        const one = all.get(key) ?? { entry, seen: 0, times: [] }
        one.seen += entry.seen
        one.times.push(entry.atMs)
        all.set(key, one)
      }
    }
    const traces = profiles.reduce((sum, profile) => sum + profile.traces, 0)
    const merged = [...all.values()].map(({ entry, seen, times }) => {
      times.sort((a, b) => a - b)
      return { ...entry, seen, atMs: times[(times.length - 1) >> 1] as number }
    })
    const often = (entry: ProfileEntry): boolean => 2 * entry.seen >= traces
    merged.sort((a, b) => Number(often(b)) - Number(often(a)) || a.atMs - b.atMs)
    return new Profile(first.manifest, first.chunkSize, traces, merged)
  }

  /**
   * Reads a profile's text, which may come from anywhere.
   *
   * @param where - it is from, for the error
   * @throws StreamError `BAD_PROFILE`
   */
  static parse(text: string, where = 'This'): Profile {
    const bad = (what: string, cause?: unknown): StreamError =>
      new StreamError(`${where} is no profile of a streamable image: ${what}. Make one by \`hypertwin stream trace\``, {
        code: 'BAD_PROFILE',
        ...(cause !== undefined && { cause })
      })
    if (text.length > MAX_PROFILE_BYTES) throw bad(`it is longer than ${MAX_PROFILE_BYTES} bytes`)
    // Millions of small lists and objects would fill the memory before anybody looks at them.
    if (brackets(text) > text.length / MIN_ENTRY + 2) throw bad('it has more than chunks')
    let parsed: unknown
    try {
      parsed = JSON.parse(text)
    } catch (error) {
      throw bad((error as Error).message, error)
    }
    if (typeof parsed !== 'object' || parsed === null) throw bad('it is no object')
    const { format, version, manifest, chunkSize, traces, entries } = parsed as Record<string, unknown>
    if (format !== FORMAT) throw bad('it does not say that it is one')
    if (version !== VERSION) throw bad(`its version is ${String(version)}, and this program reads version ${VERSION}`)
    if (typeof manifest !== 'string' || !/^[0-9a-f]{64}$/.test(manifest)) throw bad('it names no manifest')
    if (!whole(chunkSize, MAX_CHUNK_SIZE) || !isChunkSize(chunkSize))
      throw bad('it has no size of chunks')
    if (!whole(traces, 1e6)) throw bad('it has no number of traces')
    if (!Array.isArray(entries) || entries.length > MAX_CHUNKS) throw bad('it has no list of chunks')
    const list = entries.map((entry: unknown): ProfileEntry => {
      const [chunk, digest, atMs, seen] = Array.isArray(entry) && entry.length === 4 ? (entry as unknown[]) : []
      if (!whole(chunk, MAX_CHUNKS - 1) || typeof digest !== 'string' || !/^[0-9a-f]{16}$/.test(digest) || !whole(atMs, MAX_MS) || !whole(seen, 1e6))
        throw bad('one of its chunks is none')
      return { chunk, digest, atMs, seen }
    })
    return new Profile(manifest, chunkSize, traces, list)
  }

  /**
   * Reads a profile's file.
   *
   * @throws StreamError `BAD_PROFILE`, or errno's name
   */
  static async load(file: string): Promise<Profile> {
    try {
      const stats = await stat(file)
      if (!stats.isFile() || stats.size > MAX_PROFILE_BYTES)
        throw new StreamError(`${file} is no profile of a streamable image`, { code: 'BAD_PROFILE' })
      return this.parse(await readFile(file, 'utf8'), file)
    } catch (error) {
      throw failed(`reading the profile ${file}`, error)
    }
  }

  /** The text of its file: JSON, a chunk a line. */
  toString(): string {
    const { manifest, chunkSize, traces } = this
    const head = JSON.stringify({ format: FORMAT, version: VERSION, manifest, chunkSize, traces })
    const lines = this.entries.map(({ chunk, digest, atMs, seen }) => JSON.stringify([chunk, digest, atMs, seen]))
    return `${head.slice(0, -1)},"entries":[\n${lines.join(',\n')}\n]}\n`
  }

  /** How it fits an image, be it the one that it was made with or a later one. */
  match(manifest: Manifest): ProfileMatch {
    const result: ProfileMatch = { wanted: [], unchanged: 0, moved: 0, stale: 0, placed: 0 }
    if (this.chunkSize !== manifest.chunkSize) return this.#place(manifest, result)
    const last: ProfileMatch['wanted'] = []
    let places: Map<string, number> | undefined
    for (const { chunk, digest, atMs } of this.entries) {
      const blob = chunk < manifest.chunks ? (manifest.blobOf[chunk] as number) : ZERO
      if (blob !== ZERO && short(manifest, blob) === digest) {
        result.unchanged++
        result.wanted.push({ chunk, atMs })
        continue
      }
      places ??= byDigest(manifest)
      const elsewhere = places.get(digest)
      if (elsewhere !== undefined) {
        result.moved++
        result.wanted.push({ chunk: elsewhere, atMs })
      } else {
        result.stale++
        // A file system's tables stay in their places when what they say changes.
        if (blob !== ZERO) last.push({ chunk, atMs })
      }
    }
    result.wanted.push(...last)
    return result
  }

  /** By where its chunks lie: digests say nothing of chunks of another size. */
  #place(manifest: Manifest, result: ProfileMatch): ProfileMatch {
    const seen = new Uint8Array(manifest.chunks)
    for (const { chunk, atMs } of this.entries) {
      const from = chunk * this.chunkSize
      const end = Math.min(from + this.chunkSize, manifest.imageSize)
      if (from >= end) result.stale++
      else result.placed++
      for (let one = Math.floor(from / manifest.chunkSize); one * manifest.chunkSize < end; one++) {
        if (seen[one] === 1 || manifest.blobOf[one] === ZERO) continue
        seen[one] = 1
        result.wanted.push({ chunk: one, atMs })
      }
    }
    return result
  }
}

/** How many lists and objects a text begins. */
function brackets(text: string): number {
  let count = 0
  for (const bracket of '[{') for (let at = text.indexOf(bracket); at >= 0; at = text.indexOf(bracket, at + 1)) count++
  return count
}

function short(manifest: Manifest, blob: number): string {
  return manifest.digestOf(blob).toString('hex', 0, DIGITS / 2)
}

function byDigest(manifest: Manifest): Map<string, number> {
  const places = new Map<string, number>()
  for (let blob = 0; blob < manifest.blobs; blob++) places.set(short(manifest, blob), manifest.chunkOf(blob))
  return places
}

function whole(value: unknown, max: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max
}
