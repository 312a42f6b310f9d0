// What the tests of streams share: an image with all kinds of chunks, a pack of it, and a web server that does what it
// is told, good or bad.
import { execFileSync, spawnSync } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import { once } from 'node:events'
import { createReadStream, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import type { Test } from 'tap'
import { insideRig } from '../../scripts/rig/index.mjs'
import { Cache } from '../../lib/stream/cache.js'
import { pack, type ImageStream, type PackOptions, type PackResult } from '../../lib/stream/index.js'
import { scratch } from '../machine/support.js'

export { code, scratch } from '../machine/support.js'

export const CHUNK = 65536

/** Why no guest is emulated here. */
export const noEmulation = insideRig() ? 'this is a rig, where an emulated guest takes hours' : undefined

/** Which of these programs are missing, in words; false when none is. */
export function noTools(...names: string[]): string | false {
  const missing = names.filter(name => spawnSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${name}`]).status !== 0)
  return missing.length > 0 && `missing: ${missing.join(', ')}`
}

/** Why there can be no small disk here; false when there can. */
export const noMount = ((): string | false => {
  if (process.getuid?.() !== 0) return 'mounting a tmpfs needs root'
  const { status, stderr } = spawnSync('unshare', ['--mount', 'true'], { encoding: 'utf8' })
  return status !== 0 && `mounting is not allowed here: ${stderr}`
})()

/** A folder that has room for so much. */
export function smallDisk(t: Test, size: string): string {
  const disk = path.join(scratch(t), 'disk')
  mkdirSync(disk)
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', disk])
  t.teardown(() => execFileSync('umount', ['--lazy', disk]))
  return disk
}

/** The same bytes each time, which do not compress. */
export function noise(size: number, seed: string): Buffer {
  const key = createHash('sha256').update(seed).digest()
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size))
}

/** Chunks in turn of noise, of text, of zeros, and one that is everywhere the same; the last one is short. */
export function imageBytes(chunks: number, seed = 'image'): Buffer {
  const pieces = Array.from({ length: chunks }, (_, i) => {
    if (i % 4 === 0) return noise(CHUNK, `${seed} ${i}`)
    if (i % 4 === 1) return Buffer.alloc(CHUNK, `${seed}, chunk ${i}\n`)
    return Buffer.alloc(CHUNK, i % 4 === 2 ? 0 : 'everywhere')
  })
  return Buffer.concat(pieces).subarray(0, chunks * CHUNK - 5000)
}

export interface Packed extends PackResult {
  bytes: Buffer
  image: string
}

export async function packed(t: Test, bytes: Buffer, options: PackOptions = {}, folder = scratch(t)): Promise<Packed> {
  const image = path.join(folder, 'image.raw')
  writeFileSync(image, bytes)
  return { ...(await pack(image, path.join(folder, 'pack'), options)), bytes, image }
}

/** What a server has been asked for. */
export interface Asked {
  name: string
  from: number
  to: number
  headers: IncomingMessage['headers']
}

/** Serves a folder, until told otherwise. */
export class WebServer {
  readonly asked: Asked[] = []
  /** Answers in the server's place when it returns true. */
  trouble: (asked: Asked, response: ServerResponse) => boolean | Promise<boolean> = () => false
  /** What is sent in place of the file's bytes. */
  spoil: (bytes: Buffer, asked: Asked) => Buffer = bytes => bytes
  port = 0
  #server: Server & { closeAllConnections(): void } = createServer()

  constructor(
    public folder: string,
    readonly host = '127.0.0.1',
    readonly tls?: { cert: Buffer; key: Buffer }
  ) {}

  static async start(t: Test, folder: string, tls?: { cert: Buffer; key: Buffer }): Promise<WebServer> {
    const server = new WebServer(folder, '127.0.0.1', tls)
    await server.listen()
    t.teardown(() => server.stop())
    return server
  }

  get url(): string {
    return `http${this.tls ? 's' : ''}://${this.host}:${this.port}/pack/`
  }

  async listen(): Promise<void> {
    this.#server = this.#made()
    this.#server.listen(this.port, this.host)
    await once(this.#server, 'listening')
    this.port = (this.#server.address() as AddressInfo).port
  }

  /** As a power failure: nothing under way is finished. */
  async stop(): Promise<void> {
    if (!this.#server.listening) return
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }

  ranges(): Asked[] {
    return this.asked.filter(({ name }) => name.endsWith('.chunks'))
  }

  #made(): Server & { closeAllConnections(): void } {
    const answer = (request: IncomingMessage, response: ServerResponse): void => void this.#answer(request, response)
    return this.tls ? createTlsServer(this.tls, answer) : createServer(answer)
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const name = path.basename(request.url ?? '')
    const file = path.join(this.folder, name)
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    const asked = { name, from: Number(range?.[1] ?? 0), to: Number(range?.[2] ?? -1) + 1, headers: request.headers }
    this.asked.push(asked)
    response.on('error', () => undefined)
    if (await this.trouble(asked, response)) return
    const size = statSync(file, { throwIfNoEntry: false })?.size
    if (size === undefined) return void response.writeHead(404).end('no such file')
    if (!range) return void response.writeHead(200, { 'content-length': size }).end(readFileSync(file))
    if (asked.to > size) return void response.writeHead(416).end()
    response.writeHead(206, { 'content-length': asked.to - asked.from, 'content-range': `bytes ${asked.from}-${asked.to - 1}/${size}` })
    const pieces: Buffer[] = []
    for await (const piece of createReadStream(file, { start: asked.from, end: asked.to - 1 })) pieces.push(piece as Buffer)
    response.end(this.spoil(Buffer.concat(pieces), asked))
  }
}

/** The bytes of the local copy. */
export function copyOf(stream: ImageStream): Buffer {
  return readFileSync(path.join(stream.cache, 'image'))
}

/** Throws when a chunk counts as here and is not what it must be. How many are here. */
export async function checkCache(folder: string, bytes: Buffer): Promise<number> {
  const manifest = await Cache.manifestIn(folder)
  if (!manifest) return 0
  const map = readFileSync(path.join(folder, 'chunks')).subarray(4096)
  const image = readFileSync(path.join(folder, 'image'))
  let here = 0
  for (let chunk = 0; chunk < manifest.chunks; chunk++) {
    if (map[chunk] === 0) continue
    here++
    const [from, to] = [chunk * manifest.chunkSize, Math.min(bytes.length, (chunk + 1) * manifest.chunkSize)]
    if (!image.subarray(from, to).equals(bytes.subarray(from, to))) throw new Error(`chunk ${chunk} counts as here, and is not`)
  }
  return here
}

/** Until it is true. */
export async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await what())) await new Promise(resolve => setTimeout(resolve, 5))
}
