// What commands have in common that stream an image or a snapshot: how its source is reached, what of it comes first, and
// how it is shown meanwhile.
import { writeFile } from 'node:fs/promises'
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { Cache } from '../stream/cache.js'
import {
  blocksPicture,
  ImageStream,
  Profile,
  StreamError,
  StreamPage,
  type Gate,
  type Manifest,
  type StreamOptions,
  type StreamProgress,
  type Watchable
} from '../stream/index.js'
import type { SourceOptions } from '../stream/source.js'
import { count, sleep, usage } from './common.js'
import { textOf } from './tls.js'

export interface StreamedOptions {
  digest?: string
  header?: string[]
  ca?: string
  wait?: number
  profile?: string
  gate?: Gate
  fill: boolean
  page?: string | true
  allowHost?: string[]
  picture?: string
}

/** Whether any of them was given. */
export function isStreamed(options: StreamedOptions): boolean {
  const { digest, header, ca, wait, profile, gate, fill, page, allowHost, picture } = options
  return !fill || [digest, header, ca, wait, profile, gate, page, allowHost, picture].some(given => given !== undefined)
}

/** For the API. */
export async function streamOptions({ digest, profile, gate, fill, ...reach }: StreamedOptions): Promise<Omit<StreamOptions, 'cache'>> {
  return {
    fill,
    ...reachOf(reach),
    ...(digest !== undefined && { digest }),
    ...(gate !== undefined && { gate }),
    ...(profile !== undefined && { profile: profile === 'none' ? (false as const) : await Profile.load(profile) })
  }
}

/** A header that begins with @ names a file of headers, a line each: command lines are for all to see. */
function reachOf({ header = [], ca }: Pick<StreamedOptions, 'header' | 'ca'>): Pick<SourceOptions, 'headers' | 'ca'> {
  const headers: Record<string, string> = {}
  for (const given of header)
    for (const line of given.startsWith('@') ? textOf(given.slice(1)).split(/\r?\n/) : [given]) {
      if (line.trim() === '') continue
      const [, name = '', value = ''] = /^([^:]*):[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
      try {
        validateHeaderName(name)
        validateHeaderValue(name, value)
      } catch {
        // Not what it says: it may be a secret.
        throw usage(`--header wants name: value, as "authorization: Bearer …"${given.startsWith('@') ? `, in each line of ${given.slice(1)}` : ''}`)
      }
      headers[name.toLowerCase()] = value
    }
  return { ...(header.length > 0 && { headers }), ...(ca !== undefined && { ca: textOf(ca) }) }
}

/** What is to be said of a profile that was not made of just this image. */
function misfitOf({ unchanged, moved, stale, placed }: StreamProgress['profile']): string | undefined {
  if (placed > 0)
    return `The profile is of chunks of another size: what lies in the places of its ${count(placed)} chunks comes first, which is right as far as the image is the same`
  if (moved + stale === 0) return undefined
  return (
    `The profile is of another image, or an earlier version: of its ${count(unchanged + moved + stale)} chunks ${count(unchanged)} are as they were, ` +
    `${count(moved)} lie elsewhere now, and ${count(stale)} are there no more`
  )
}

type Stream = Watchable & { readonly source: string }

/** A stream that is shown while it comes: what its profile does not fit is said, a page served, and a picture drawn at the end. */
class Shown {
  private constructor(
    readonly page: StreamPage | undefined,
    private readonly stream: Stream,
    private readonly picture: string | undefined
  ) {}

  /** @param must - false: it goes on where no page can be served */
  static async begin(stream: Stream, options: StreamedOptions, say: (text: string) => void, must = true): Promise<Shown> {
    const misfit = misfitOf(stream.progress().profile)
    if (misfit !== undefined) say(misfit)
    const { page, allowHost = [], picture } = options
    if (page === undefined) return new Shown(undefined, stream, picture)
    let served: StreamPage | undefined
    try {
      served = await StreamPage.serve(stream, { ...(page !== true && { listen: page }), allowedHosts: allowHost, title: stream.source })
      say(`Watch it at ${served.url}`)
    } catch (error) {
      if (must) throw error
      say(`It cannot be watched: ${(error as Error).message}`)
    }
    return new Shown(served, stream, picture)
  }

  /** Before the stream is closed. */
  async end(): Promise<void> {
    await this.page?.close()
    if (this.picture !== undefined) await writeFile(this.picture, blocksPicture(await this.stream.blocks(), this.stream.source))
  }
}

/** Between two looks at another process's stream. */
const LOOK_MS = 250

/** Opens a stream when no other process streams into the cache, and takes over when that ends; shows it meanwhile. */
export class Turn<S extends Stream & { readonly ready: Promise<void>; close(): Promise<void> }> {
  stream: S | undefined
  #shown: Shown | undefined
  #opening: Promise<void> | undefined
  #failed: unknown
  readonly #over = new AbortController()
  readonly #signal: AbortSignal

  constructor(
    readonly cache: string,
    private readonly open: (signal: AbortSignal) => Promise<S>,
    private readonly options: StreamedOptions,
    private readonly say: (text: string) => void,
    signal: AbortSignal
  ) {
    this.#signal = AbortSignal.any([signal, this.#over.signal])
  }

  /**
   * True when this process streams; false when another one does.
   *
   * @param hasBegun - somebody uses the copy already: what can only be seen does not end that
   */
  async take(hasBegun = false): Promise<boolean> {
    try {
      this.stream = await this.open(this.#signal)
    } catch (error) {
      if (error instanceof StreamError && error.code === 'IN_USE') return false
      throw error
    }
    this.#shown = await Shown.begin(this.stream, this.options, this.say, !hasBegun)
    return true
  }

  /** The manifest of what another process streams, once that is served: it is the one that was asked for. */
  async others(): Promise<Manifest> {
    const manifest = await Cache.manifestIn(this.cache, this.options.digest)
    if (!manifest) throw new StreamError(`${this.cache} is no cache any more: run the same command again`, { code: 'BAD_CACHE' })
    return manifest
  }

  /** Until it is this process's turn. */
  async wait(): Promise<void> {
    do await ImageStream.released(this.cache, this.#signal)
    while (!(await this.take(true)))
  }

  /** In the background. */
  begin(failed: (error: unknown) => void, taken: (stream: S) => void = () => undefined): void {
    this.#opening = this.wait().then(
      () => this.stream && taken(this.stream),
      (error: unknown) => {
        if (this.#signal.aborted) return
        this.#failed = error
        failed(error)
      }
    )
  }

  /**
   * Until the start may be made by this process's gate; while another one streams by that one's, or for `all` when its copy is whole.
   *
   * @param told - how far the other one is, again and again
   */
  async mayStart(told: (progress: StreamProgress) => void = () => undefined): Promise<void> {
    const { gate } = this.options
    while (!this.stream) {
      if (gate === 'none') return
      if (this.#failed !== undefined) throw this.#failed
      const progress = await ImageStream.status(this.cache).catch((error: unknown) => {
        // It has ended, or says nothing.
        if (error instanceof StreamError && error.code === 'NOT_RUNNING') return undefined
        throw error
      })
      if (progress) {
        told(progress)
        const { state, startInMs, trouble } = progress
        if (gate === 'all' ? state === 'complete' : startInMs === 0) return
        if (state === 'failed') throw new StreamError(trouble?.message ?? 'Nothing more comes', { code: trouble?.code ?? 'CLOSED' })
      }
      if (!(await sleep(LOOK_MS, this.#signal))) return
    }
    await this.stream.ready
  }

  get page(): string | undefined {
    return this.#shown?.page?.url
  }

  async end(): Promise<void> {
    this.#over.abort()
    await this.#opening
    try {
      await this.#shown?.end()
    } finally {
      await this.stream?.close()
    }
  }
}
