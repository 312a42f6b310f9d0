// Shows what protections and standbys are at, over HTTP: /state.json, /events (server-sent), /metrics, and for
// people the page. It only reads.
import type { ServerResponse } from 'node:http'
import { plain, ReadOnlyServer, type Asked } from '../read_only_server.js'
import { HaError, invalid } from './errors.js'
import { HaMetrics } from './metrics.js'
import { contentSecurityPolicy, page } from './page.js'
import type { HaSource, HaStatus } from './status.js'
import { Watched } from './watch.js'

/**
 * Where and how statuses are served.
 *
 * @since 0.1.0
 */
export interface StatusServerOptions {
  /** `'host:port'`; port 0: any. Default `'127.0.0.1:0'`. Whoever reaches it may read all; nobody can change anything. */
  listen?: string
  /** Names by which browsers may call this server, besides IP addresses, `localhost` and this host's name. */
  allowedHosts?: readonly string[]
  /** What the application measures, with each status: for example `() => ({ 'operations/s': 1234 })`. */
  figures?: () => Record<string, number>
}

/**
 * What a page shows.
 *
 * @since 0.1.0
 */
export interface PageOptions extends StatusServerOptions {
  /** Protections and standbys of this process. */
  sources?: readonly HaSource[]
  /** Status servers of other processes, `'http://10.0.0.2:7201'`. */
  watch?: readonly string[]
}

/** What /state.json gives, and each event of /events. @internal */
export interface StateJson {
  version: 1
  at: string
  sources: HaStatus[]
}

/** Between two looks for /events and the history. */
const LOOK_MS = 250
/** Of the history that a new visitor gets: two minutes. */
const HISTORY = 480
const MAX_VISITORS = 64

/**
 * Serves the status of a protection or a standby, for `hypertwin ha serve --watch`, `hypertwin ha status` and
 * Prometheus: /state.json, /events, /metrics.
 *
 * @throws HaError `EINVAL`, or the errno of what failed (`EADDRINUSE`)
 * @since 0.1.0
 */
export async function statusServer(source: HaSource, options: StatusServerOptions = {}): Promise<HaServer> {
  return HaServer.listen({ ...options, sources: [source] }, false)
}

/**
 * Serves a live page of protections and standbys of this process and of others: roles, states, lag, log rate, held
 * outputs, and the last failover as a picture. Also /state.json, /events and /metrics of them all.
 *
 * @throws HaError `EINVAL`, or the errno of what failed (`EADDRINUSE`)
 * @since 0.1.0
 */
export async function servePage(options: PageOptions): Promise<HaServer> {
  return HaServer.listen(options, true)
}

/**
 * A server from {@link statusServer} or {@link servePage}.
 *
 * @since 0.1.0
 */
export class HaServer implements AsyncDisposable {
  /** Where it is, `'http://127.0.0.1:9200/'`. */
  readonly url: string
  /** prom-client's registry is in it. */
  readonly metrics: HaMetrics
  readonly #server: ReadOnlyServer
  readonly #options: PageOptions
  readonly #withPage: boolean
  readonly #watched: Watched[]
  readonly #visitors = new Set<ServerResponse>()
  readonly #history: StateJson[] = []
  readonly #timer: NodeJS.Timeout
  readonly #stop = new AbortController()
  #closing: Promise<void> | undefined

  private constructor(server: ReadOnlyServer, options: PageOptions, withPage: boolean) {
    this.#server = server
    this.#options = options
    this.#withPage = withPage
    this.url = server.url
    server.onAsked = asked => this.#answer(asked)
    this.metrics = new HaMetrics(() => this.state().sources)
    this.#watched = (options.watch ?? []).map(url => new Watched(url))
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    for (const source of options.sources ?? []) void this.#follow(source)
    this.#look()
  }

  /** @internal */
  static async listen(options: PageOptions, withPage: boolean): Promise<HaServer> {
    for (const source of options.sources ?? [])
      if (typeof (source as Partial<HaSource> | undefined)?.status !== 'function')
        throw invalid('a source must be a Protection or a Standby')
    for (const url of options.watch ?? []) Watched.check(url)
    const server = await ReadOnlyServer.listen(options.listen ?? '127.0.0.1:0', options.allowedHosts ?? [], HaError)
    return new HaServer(server, options, withPage)
  }

  /** What it shows now. @internal */
  state(): StateJson {
    const { sources = [], figures } = this.#options
    const own = sources.map(source => {
      const status = source.status()
      return figures ? { ...status, figures: figures() } : status
    })
    return { version: 1, at: new Date().toISOString(), sources: [...own, ...this.#watched.flatMap(one => one.statuses())] }
  }

  /** Stops serving. Calling it again is fine. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      clearInterval(this.#timer)
      this.#stop.abort()
      for (const one of this.#watched) one.close()
      for (const visitor of this.#visitors) visitor.end()
      await this.#server.close()
    })()
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Visitors need not wait for a change of state. */
  async #follow(source: HaSource): Promise<void> {
    try {
      for await (const event of source.events({ signal: this.#stop.signal, limit: 64 }))
        if (event.type === 'state' || event.type === 'failover') this.#look()
    } catch {
      // It is closed.
    }
  }

  #look(): void {
    const state = this.state()
    this.#history.push(state)
    if (this.#history.length > HISTORY) this.#history.shift()
    const text = `data: ${JSON.stringify(state)}\n\n`
    for (const visitor of this.#visitors)
      // Who does not read gets less, not more memory.
      if (visitor.writableLength < 1 << 20) visitor.write(text)
  }

  async #answer({ path, response, send }: Asked): Promise<void> {
    if (path === '/' && this.#withPage)
      return send(200, 'text/html; charset=utf-8', page, {
        'content-security-policy': contentSecurityPolicy
      })
    if (path === '/') return send(200, plain, 'hypertwin: /state.json /events /metrics\n')
    if (path === '/state.json') return send(200, 'application/json', `${JSON.stringify(this.state())}\n`)
    if (path === '/metrics') return send(200, this.metrics.contentType, await this.metrics.text())
    if (path !== '/events') return send(404, plain, 'There is no such page: / /state.json /events /metrics\n')
    if (this.#visitors.size >= MAX_VISITORS) return send(503, plain, 'Too many visitors.\n', { 'retry-after': '10' })
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    response.write(`retry: 1000\nevent: history\ndata: ${JSON.stringify(this.#history.map(brief))}\n\n`)
    response.write(`data: ${JSON.stringify(this.state())}\n\n`)
    this.#visitors.add(response)
    response.on('close', () => this.#visitors.delete(response))
  }
}

/** Of a past state what the charts need. */
function brief(state: StateJson): object {
  return {
    at: state.at,
    sources: state.sources.map(({ name, role, state, session, stats, figures }) => ({ name, role, state, session, stats, figures }))
  }
}
