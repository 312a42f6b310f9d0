// An HTTP server that only shows: answers to GET alone, to nobody who was led here by another name, with headers that let
// a browser do nothing else.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { isIP, type AddressInfo } from 'node:net'
import { hostname } from 'node:os'
import type { HypertwinErrorDetails } from './errors.js'

type Failure = new (message: string, details: HypertwinErrorDetails) => Error

/** @internal */
export interface Asked {
  path: string
  request: IncomingMessage
  response: ServerResponse
  /** Answers with a whole body. */
  send: (status: number, type: string, body: string, headers?: Record<string, string>) => void
}

/** @internal */
export class ReadOnlyServer {
  /** `'http://127.0.0.1:9200/'`. */
  readonly url: string
  /** Answers what may be asked. */
  onAsked: (asked: Asked) => void | Promise<void> = ({ send }) => send(503, plain, 'Not yet.\n')
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
    const { address, port, family } = server.address() as AddressInfo
    const host = address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '[::1]' : family === 'IPv6' ? `[${address}]` : address
    this.url = `http://${host}:${port}/`
  }

  /**
   * @param listen - `'host:port'`; port 0: any
   * @param allowedHosts - names by which it may be called, besides IP addresses, `localhost` and this host's name
   * @param failure - what is thrown: `EINVAL`, or errno's name
   */
  static async listen(listen: string, allowedHosts: readonly string[], failure: Failure): Promise<ReadOnlyServer> {
    const [host, port] = address(listen, failure)
    const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 })
    server.listen(port, host)
    try {
      await once(server, 'listening')
    } catch (error) {
      const { code, errno, syscall, message } = error as NodeJS.ErrnoException
      throw new failure(`serving on ${listen}: ${message}`, {
        code: code ?? 'EIO',
        errno: errno === undefined ? undefined : Math.abs(errno),
        call: syscall,
        cause: error
      })
    }
    const made = new ReadOnlyServer(server)
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      const asked = received(request, response, allowedHosts)
      if (asked)
        void (async () => made.onAsked(asked))().catch((error: unknown) => {
          if (!response.headersSent) asked.send(500, plain, `${(error as Error).message}\n`)
          else response.destroy()
        })
    })
    return made
  }

  /** Cuts off who is there. */
  async close(): Promise<void> {
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }
}

/** Undefined for what has been refused. */
function received(request: IncomingMessage, response: ServerResponse, allowedHosts: readonly string[]): Asked | undefined {
  const send: Asked['send'] = (status, type, body, headers = {}) => {
    response.writeHead(status, {
      'content-type': type,
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'referrer-policy': 'no-referrer',
      'cross-origin-resource-policy': 'same-origin',
      ...headers
    })
    response.end(request.method === 'HEAD' ? undefined : body)
  }
  if (!mayCall(request.headers.host, allowedHosts))
    send(421, plain, 'This server is not known by that name: see the option allowedHosts (--allow-host).\n')
  else if (request.method !== 'GET' && request.method !== 'HEAD')
    send(405, plain, 'Only GET: nothing can be changed here.\n', { allow: 'GET, HEAD' })
  else return { path: (request.url ?? '/').split('?')[0] as string, request, response, send }
  return undefined
}

/** Lets a browser run and show only what is in the page, and images from `images`. @internal */
export function pagePolicy(script: string, style: string, images: string): string {
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
  return [
    "default-src 'none'",
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    "connect-src 'self'",
    `img-src ${images}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'"
  ].join('; ')
}

/** @internal */
export const plain = 'text/plain; charset=utf-8'

/** A name of somebody's own domain may be made to lead here: pages from there must not read this one. */
function mayCall(header: string | undefined, allowedHosts: readonly string[]): boolean {
  const match = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(:\d+)?$/i.exec(header ?? '')
  const name = match?.[1]?.toLowerCase().replace(/^\[|\]$/g, '')
  if (name === undefined) return false
  return (
    isIP(name) !== 0 ||
    name === 'localhost' ||
    name === hostname().toLowerCase() ||
    allowedHosts.some(allowed => allowed.toLowerCase() === name)
  )
}

function address(text: unknown, failure: Failure): [host: string, port: number] {
  const match = typeof text === 'string' ? /^(?:(\[[0-9a-f:.]+\]|[^:[\]]*):)?(\d{1,5})$/i.exec(text) : null
  if (!match || Number(match[2]) > 65535)
    throw new failure(`listen must be 'host:port' such as '127.0.0.1:9200', not ${JSON.stringify(text) ?? 'nothing'}`, {
      code: 'EINVAL'
    })
  return [match[1]?.replace(/^\[|\]$/g, '') || '127.0.0.1', Number(match[2])]
}
