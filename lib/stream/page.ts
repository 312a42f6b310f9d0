// A page where one watches a stream: how far it is, what waits, what came why, and the image's blocks. It only shows.
import { pagePolicy, plain, ReadOnlyServer, type Asked } from '../read_only_server.js'
import { blocksPicture, type Blocks } from './blocks.js'
import { StreamError } from './errors.js'
import type { StreamProgress } from './progress.js'

/**
 * Where a page is served.
 *
 * @since 0.1.0
 */
export interface StreamPageOptions {
  /** `'host:port'`; port 0: any. Default `'127.0.0.1:0'`. Whoever reaches it may look; nobody can change anything. */
  listen?: string
  /** Names by which browsers may call this server, besides IP addresses, `localhost` and this host's name. */
  allowedHosts?: readonly string[]
  /** What is streamed, for the title. Default: nothing. */
  title?: string
}

/** What a page shows: an {@link ImageStream} or a {@link SnapshotStream}. @since 0.1.0 */
export interface Watchable {
  /** See {@link ImageStream.progress}. */
  progress(): StreamProgress
  /** See {@link ImageStream.blocks}. */
  blocks(): Blocks | Promise<Blocks>
}

/**
 * A live page of a stream, with its progress as JSON (`/progress.json`) and the image's blocks as a picture
 * (`/blocks.svg`).
 *
 * @since 0.1.0
 */
export class StreamPage implements AsyncDisposable {
  /** `'http://127.0.0.1:9200/'`. */
  readonly url: string
  readonly #server: ReadOnlyServer
  readonly #stream: Watchable
  readonly #title: string
  #picture: Promise<string> | undefined
  /** So long it serves. */
  #until = 0

  private constructor(server: ReadOnlyServer, stream: Watchable, title: string) {
    this.url = server.url
    this.#server = server
    this.#stream = stream
    this.#title = title
    server.onAsked = asked => this.#answer(asked)
  }

  /** @throws StreamError `EINVAL`, or errno's name (`EADDRINUSE`) */
  static async serve(stream: Watchable, options: StreamPageOptions = {}): Promise<StreamPage> {
    const { listen = '127.0.0.1:0', allowedHosts = [], title = '' } = options
    return new StreamPage(await ReadOnlyServer.listen(listen, allowedHosts, StreamError), stream, title)
  }

  /** Twice is fine. */
  close(): Promise<void> {
    return this.#server.close()
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Of a large image it takes a while, and with an {@link ImageStream} it is the stream's thread that does it. */
  #blocks(): Promise<string> {
    if (!this.#picture || performance.now() >= this.#until) {
      this.#until = Infinity
      this.#picture = this.#draw()
    }
    return this.#picture
  }

  async #draw(): Promise<string> {
    let drawingMs = 0
    try {
      const blocks = await this.#stream.blocks()
      const begun = performance.now()
      const svg = blocksPicture(blocks, this.#title || 'The image')
      drawingMs = performance.now() - begun
      return svg
    } finally {
      this.#until = performance.now() + Math.max(500, 50 * drawingMs)
    }
  }

  async #answer({ path, send }: Asked): Promise<void> {
    if (path === '/') send(200, 'text/html; charset=utf-8', html, { 'content-security-policy': policy })
    else if (path === '/progress.json') send(200, 'application/json', `${JSON.stringify({ title: this.#title, ...this.#stream.progress() })}\n`)
    else if (path === '/blocks.svg') send(200, 'image/svg+xml', await this.#blocks())
    else send(404, plain, 'There is no such page: / /progress.json /blocks.svg\n')
  }
}

const style = `
:root { color-scheme: light; }
body { margin: 0; background: #f5f6f8; color: #1a2230; font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1100px; margin: 0 auto; padding: 20px; }
h1 { font-size: 18px; margin: 0 0 4px; overflow-wrap: anywhere; }
#state { color: #5c6778; margin: 0 0 16px; }
#state.bad { color: #c4314b; }
section { background: #fff; border-radius: 10px; padding: 16px 20px; margin: 0 0 16px; box-shadow: 0 1px 3px rgb(20 30 50 / 10%); }
label { display: block; margin: 8px 0 2px; }
progress { width: 100%; height: 10px; accent-color: #0f8a5f; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 8px 20px; margin: 0; }
dt { color: #5c6778; font-size: 13px; }
dd { margin: 0; font-size: 17px; }
img { width: 100%; }
`

// Runs in the browser.
const script = `
const $ = id => document.getElementById(id)
const bytes = n => n < 1024 ? n + ' B' : n < 1048576 ? (n / 1024).toFixed(0) + ' KiB' : n < 1073741824 ? (n / 1048576).toFixed(1) + ' MiB' : (n / 1073741824).toFixed(2) + ' GiB'
const bar = (id, part, whole) => { $(id).value = whole ? part / whole : 1; $(id + '-text').textContent = bytes(part) + ' of ' + bytes(whole) }
const states = { gate: 'What the start waits for is coming', rest: 'The start may be made; the rest is coming', complete: 'The copy is whole', failed: 'Nothing more will come', closed: 'Closed' }
const row = (name, value) => { const dt = document.createElement('dt'), dd = document.createElement('dd'), div = document.createElement('div'); dt.textContent = name; dd.textContent = value; div.append(dt, dd); return div }
async function look() {
  let wait = 1000
  try {
    const p = await (await fetch('progress.json')).json()
    document.title = $('title').textContent = p.title || 'hypertwin stream'
    $('state').className = p.trouble ? 'bad' : ''
    $('state').textContent = states[p.state] + (p.state === 'gate' && p.startInMs ? ', start in ' + (p.startInMs / 1000).toFixed(1) + ' s' : '') + (p.trouble ? ': ' + p.trouble.message : '')
    bar('gate', p.profile.bytes - p.profile.missingBytes, p.profile.bytes)
    bar('all', p.storedBytes - p.missingBytes, p.storedBytes)
    const f = p.fetched, r = p.reads, fit = p.profile, entries = fit.unchanged + fit.moved + fit.stale + fit.placed
    $('rows').replaceChildren(
      row('waited for now', p.waiting),
      ...(r.count ? [
        row('reads', r.count + (r.failed ? ', ' + r.failed + ' failed' : '')),
        row('waited for nothing', (100 * r.hits / r.count).toFixed(1) + ' % of the reads'),
        row('waited for more than 100 ms', r.stalls + ' reads')] : []),
      row('waited for altogether', p.demands.count + ' chunks, ' + (p.demands.ms / 1000).toFixed(1) + ' s'),
      row('longest wait', p.demands.longestMs.toFixed(0) + ' ms'),
      row('profile', !entries ? '-' : fit.placed ? 'of chunks of another size' : (100 * (fit.unchanged + fit.moved) / entries).toFixed(1) + ' % is as it was'),
      row('link', p.bytesPerSecond ? bytes(p.bytesPerSecond) + '/s, ' + (p.roundTripMs ?? 0).toFixed(1) + ' ms' : 'not known yet'),
      row('came because a read waited', bytes(f.demand)),
      row('before the start', bytes(f.gate)),
      row('of the profile, after it', bytes(f.profile)),
      row('behind reads', bytes(f.ahead)),
      row('of the rest', bytes(f.fill)),
      row('requests', p.requests.count + (p.requests.failed ? ', ' + p.requests.failed + ' failed' : '')),
      row('came damaged', p.corrupt))
    $('blocks').src = 'blocks.svg?' + Date.now()
    if (p.state === 'complete') wait = 5000
  } catch { $('state').className = 'bad'; $('state').textContent = 'The process that streams has gone' }
  setTimeout(look, wait)
}
look()
`

const policy = pagePolicy(script, style, "'self' data:")

const html = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>hypertwin stream</title><link rel="icon" href="data:,"><style>${style}</style></head>
<body><main>
<h1 id="title">hypertwin stream</h1><p id="state" role="status">Connecting</p>
<section>
<label for="gate">What the start needs: <span id="gate-text"></span></label><progress id="gate" value="0"></progress>
<label for="all">All of it: <span id="all-text"></span></label><progress id="all" value="0"></progress>
</section>
<section><dl id="rows"></dl></section>
<section><img id="blocks" alt="The image's blocks, by state and by the order in which they came"></section>
</main><script>${script}</script></body></html>
`
