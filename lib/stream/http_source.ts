// A pack on a web server. The server needs nothing but byte ranges (RFC 9110, 14), as every file server has them.
import http from 'node:http'
import https from 'node:https'
import { check, invalid, StreamError } from './errors.js'
import type { Source, SourceOptions } from './source.js'

const MAX_REDIRECTS = 5
/** Connections that wait for the next request. */
const IDLE = 16

/** @internal */
export class HttpSource implements Source {
  readonly where: string
  readonly local = false
  readonly #base: URL
  readonly #agents: { 'http:': http.Agent; 'https:': https.Agent }
  readonly #silenceMs: number
  readonly #headers: Readonly<Record<string, string>>
  #knowsRanges = false

  constructor(location: string, options: SourceOptions) {
    let base: URL
    try {
      base = new URL(location)
    } catch (cause) {
      throw invalid(`${location} is no URL (${(cause as Error).message})`)
    }
    if (base.search !== '' || base.hash !== '') throw invalid(`${location} must be the URL of a folder, without ? and #`)
    if (!base.pathname.endsWith('/')) base.pathname += '/'
    this.#base = base
    // Without what is secret in it.
    this.where = `${base.origin}${base.pathname}`
    this.#silenceMs = options.silenceMs ?? 10_000
    this.#headers = headersOf(options.headers ?? {})
    const common = { keepAlive: true, noDelay: true, maxFreeSockets: IDLE, scheduling: 'lifo' } as const
    this.#agents = {
      'http:': new http.Agent(common),
      'https:': new https.Agent({ ...common, ...(options.ca !== undefined && { ca: options.ca as string | Buffer }) })
    }
  }

  async file(name: string, limit: number, signal?: AbortSignal): Promise<Buffer> {
    const response = await this.#get(name, {}, signal)
    if (response.statusCode !== 200) throw this.#refused(name, response)
    const pieces: Buffer[] = []
    let size = 0
    for await (const piece of this.#body(name, response, signal)) {
      size += piece.length
      if (size > limit) {
        response.destroy()
        throw new StreamError(`${this.where}${name} is longer than ${limit} bytes`, { code: 'SOURCE_REFUSED' })
      }
      pieces.push(piece)
    }
    const announced = response.headers['content-length']
    if (announced !== undefined && Number(announced) !== size) throw this.#broken(name, `${size} bytes came of ${announced}`)
    return Buffer.concat(pieces)
  }

  async range(name: string, from: number, to: number, signal: AbortSignal, fresh = false): Promise<AsyncIterable<Buffer>> {
    const response = await this.#get(
      name,
      { range: `bytes=${from}-${to - 1}`, ...(fresh && { 'cache-control': 'no-cache' }) },
      signal
    )
    if (response.statusCode === 200) {
      response.destroy()
      // Something on the way may answer in the place of a server that is known to know them.
      if (this.#knowsRanges) throw this.#broken(name, 'a whole file came where a range was asked for')
      throw new StreamError(`${this.where} gives whole files only: the server must know byte ranges`, { code: 'SOURCE_NO_RANGES' })
    }
    if (response.statusCode !== 206) throw this.#refused(name, response)
    const given = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers['content-range'] ?? '')
    if (!given || Number(given[1]) !== from || Number(given[2]) !== to - 1) {
      response.destroy()
      throw this.#broken(name, `bytes ${from}-${to - 1} were asked for and ${response.headers['content-range'] ?? 'others'} came`)
    }
    this.#knowsRanges = true
    return this.#exactly(name, response, to - from, signal)
  }

  close(): void {
    this.#agents['http:'].destroy()
    this.#agents['https:'].destroy()
  }

  async *#exactly(name: string, response: http.IncomingMessage, size: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    let got = 0
    for await (const piece of this.#body(name, response, signal)) {
      got += piece.length
      if (got > size) throw this.#broken(name, 'more bytes came than were asked for')
      yield piece
    }
    if (got !== size) throw this.#broken(name, `${got} bytes came of ${size}`)
  }

  /** Its bytes; whoever stops early ends the connection. */
  async *#body(name: string, response: http.IncomingMessage, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
    try {
      for await (const piece of response) yield piece as Buffer
    } catch (error) {
      check(signal)
      const { message } = error as Error
      throw this.#broken(name, message === 'aborted' ? 'the connection was closed before the answer had ended' : message, error)
    } finally {
      if (!response.complete) response.destroy()
    }
  }

  async #get(name: string, headers: http.OutgoingHttpHeaders, signal: AbortSignal | undefined): Promise<http.IncomingMessage> {
    let url = new URL(name, this.#base)
    for (let redirects = 0; ; redirects++) {
      check(signal)
      const own = url.origin === this.#base.origin ? this.#headers : {}
      const response = await this.#request(name, url, { ...own, 'accept-encoding': 'identity', ...headers }, signal)
      const { statusCode = 0 } = response
      const { location, 'content-encoding': encoding } = response.headers
      if (![301, 302, 303, 307, 308].includes(statusCode) || location === undefined) {
        if (encoding === undefined || encoding.toLowerCase() === 'identity' || statusCode >= 300) return response
        drain(response)
        // It would be another file.
        throw new StreamError(`${this.where}${name} comes compressed (content-encoding: ${encoding}): the server must give it as it is stored`, { code: 'SOURCE_REFUSED' })
      }
      drain(response)
      if (redirects === MAX_REDIRECTS) throw new StreamError(`${this.where}${name} is redirected again and again`, { code: 'SOURCE_REFUSED' })
      const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined
      if (!next || (next.protocol !== 'https:' && next.protocol !== url.protocol) || !/^https?:$/.test(next.protocol))
        throw new StreamError(`${this.where}${name} is redirected to ${location}, which is not followed`, { code: 'SOURCE_REFUSED' })
      url = next
    }
  }

  #request(name: string, url: URL, headers: http.OutgoingHttpHeaders, signal: AbortSignal | undefined): Promise<http.IncomingMessage> {
    const protocol = url.protocol as 'http:' | 'https:'
    return new Promise((resolve, reject) => {
      const request = (protocol === 'https:' ? https : http).get(url, {
        agent: this.#agents[protocol],
        headers,
        timeout: this.#silenceMs,
        ...(signal && { signal })
      })
      let response: http.IncomingMessage | undefined
      request.once('response', answer => resolve((response = answer)))
      request.once('timeout', () => (response ?? request).destroy(new Error(`no answer for ${this.#silenceMs / 1000} s`)))
      // An answer that nobody has asked for, as 101, comes as none.
      request.once('close', () => {
        if (!response) reject(this.#broken(name, 'the connection was closed without an answer'))
      })
      request.on('error', error => {
        if (signal?.aborted) reject(signal.reason as Error)
        else reject(this.#broken(name, error.message, error))
      })
    })
  }

  #refused(name: string, response: http.IncomingMessage): StreamError {
    drain(response)
    const { statusCode = 0, statusMessage = '' } = response
    // 408, 425, 429 and the server's own trouble pass; everything else will be said again.
    const passes = statusCode >= 500 || [408, 425, 429].includes(statusCode)
    return new StreamError(`${this.where}${name}: the server says ${statusCode} ${statusMessage}`.trimEnd(), {
      code: passes ? 'SOURCE_UNREACHABLE' : 'SOURCE_REFUSED'
    })
  }

  #broken(name: string, what: string, cause?: unknown): StreamError {
    return new StreamError(`${this.where}${name}: ${what}`, { code: 'SOURCE_UNREACHABLE', ...(cause !== undefined && { cause }) })
  }
}

/** What is wrong with them is said without them: there may be a secret in it. */
function headersOf(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  try {
    for (const [name, value] of Object.entries(headers)) {
      http.validateHeaderName(name)
      http.validateHeaderValue(name, value)
    }
  } catch {
    throw invalid("headers has a name or a value that HTTP does not allow: give { name: 'value' }, without line breaks")
  }
  return headers
}

/** Lets go of an answer that nobody wants; its connection is kept when little comes. */
function drain(response: http.IncomingMessage): void {
  let size = 0
  response.on('error', () => undefined)
  response.on('data', (piece: Buffer) => {
    size += piece.length
    if (size > 65536) response.destroy()
  })
}
