// Serves a local copy over NBD, by nbdkit and its plugin of ours (native/nbdkit). That process is one of its own: it goes
// on when the one that streams is killed, and its reads wait until another one takes its place.
import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, openSync, closeSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { failed, invalid, StreamError } from './errors.js'
import { missing } from './tool.js'

/**
 * How a local copy is served.
 *
 * @since 0.1.0
 */
export interface NbdOptions {
  /** The path of a UNIX socket, at most 107 bytes. Default: one in a new folder of the system's for temporary files. */
  socket?: string
  /** In place of a socket: `'host:port'`. Whoever reaches it may read the image. */
  listen?: string
  /** Clients may write: into a temporary file (in `TMPDIR`, or /var/tmp) that goes with the server. Default false. */
  writable?: boolean
  /** The file in which what is read is written down, for {@link readTrace}; what is there is replaced. */
  trace?: string
  /** How long a read waits for a chunk before it fails, in seconds. Default: for ever. */
  waitSeconds?: number
  /** It ends with its last client, also when nobody closes it. Default false. */
  exitWithLastClient?: boolean
}

const plugin = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../dist/nbdkit/hypertwin.so')
const MAX_SOCKET = 107

/**
 * Why nothing can be served here, with what to do about it; undefined when it can.
 *
 * @since 0.1.0
 */
export function whyNoNbd(): StreamError | undefined {
  const folders = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(':')]
  if (!folders.some(folder => existsSync(path.join(folder, 'nbdkit')))) return missing('nbdkit')
  if (existsSync(plugin)) return undefined
  return new StreamError(
    `The nbdkit plugin ${plugin} is not there: install Debian's package nbdkit-plugin-dev and build hypertwin (npm run build)`,
    { code: 'TOOL_MISSING' }
  )
}

/**
 * An NBD server for a cache. It needs no {@link ImageStream} in the same process, only one somewhere.
 *
 * @since 0.1.0
 */
export class NbdServer implements AsyncDisposable {
  /** For QEMU, libvirt, libnbd: `'nbd+unix:///?socket=…'` or `'nbd://host:port'`. */
  readonly uri: string
  /** The path of its UNIX socket; undefined when it listens elsewhere. */
  readonly socket: string | undefined
  /** nbdkit's process. */
  readonly pid: number
  /** Settled when that has ended. */
  readonly ended: Promise<void>
  readonly #folder: string
  #closing: Promise<void> | undefined

  private constructor(child: ChildProcess, uri: string, socket: string | undefined, folder: string) {
    this.uri = uri
    this.socket = socket
    this.pid = child.pid as number
    this.#folder = folder
    this.ended = new Promise(resolve => {
      if (child.exitCode !== null || child.signalCode !== null) resolve()
      else child.once('exit', () => resolve())
    })
  }

  /**
   * Starts to serve.
   *
   * @param cache - the folder that an {@link ImageStream} has made
   * @throws StreamError `EINVAL`, `TOOL_MISSING`, `TOOL_FAILED`
   */
  static async start(cache: string, options: NbdOptions = {}): Promise<NbdServer> {
    const { listen, writable = false, waitSeconds = 0, exitWithLastClient = false } = options
    if (options.socket !== undefined && listen !== undefined) throw invalid('give a socket or an address to listen at, not both')
    if (!Number.isInteger(waitSeconds) || waitSeconds < 0 || waitSeconds > 1e6) throw invalid('waitSeconds must be a whole number of seconds')
    const address = listen === undefined ? undefined : /^(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})$/.exec(listen)
    if (address === null) throw invalid(`${listen} is no address: 'host:port'`)
    const none = whyNoNbd()
    if (none) throw none
    const folder = await mkdtemp(path.join(tmpdir(), 'hypertwin-nbd-'))
    const socket = address ? undefined : path.resolve(options.socket ?? path.join(folder, 'nbd.sock'))
    try {
      if (socket !== undefined && Buffer.byteLength(socket) > MAX_SOCKET)
        throw invalid(`the path ${socket} is longer than ${MAX_SOCKET} bytes, which no socket's may be`)
      if (socket !== undefined && options.socket !== undefined) await freeSocket(socket)
      const pidFile = path.join(folder, 'pid')
      const filters = [...(exitWithLastClient ? ['exitlast'] : []), ...(writable ? ['cow'] : [])]
      const args = [
        '--foreground', '--pidfile', pidFile, ...filters.map(name => `--filter=${name}`),
        ...(socket === undefined ? ['--ipaddr', (address?.[1] ?? '').replace(/^\[|\]$/g, ''), '--port', address?.[2] ?? ''] : ['--unix', socket]),
        ...(writable ? [] : ['--readonly']),
        plugin, `cache=${path.resolve(cache)}`, `wait=${waitSeconds}`,
        ...(options.trace === undefined ? [] : [`log=${path.resolve(options.trace)}`])
      ]
      const child = await launch(args, path.join(folder, 'log'))
      await ready(child, pidFile, path.join(folder, 'log'))
      const uri = socket === undefined ? `nbd://${listen}` : `nbd+unix:///?socket=${encodeURI(socket)}`
      return new NbdServer(child, uri, socket, folder)
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw failed('starting nbdkit', error)
    }
  }

  /** Ends the server; its clients are cut off. Twice is fine. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    try {
      process.kill(this.pid, 'SIGTERM')
    } catch {
      // It has ended.
    }
    const hard = setTimeout(() => {
      try {
        process.kill(this.pid, 'SIGKILL')
      } catch {
        // It has ended.
      }
    }, 5_000)
    await this.ended
    clearTimeout(hard)
    if (this.socket !== undefined) await rm(this.socket, { force: true })
    await rm(this.#folder, { recursive: true, force: true })
  }
}

/** Of its own session: what ends this process need not end it. */
async function launch(args: readonly string[], log: string): Promise<ChildProcess> {
  const output = openSync(log, 'w', 0o600)
  try {
    const env = { ...process.env, PATH: `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` }
    const child = spawn('nbdkit', args, { env, detached: true, stdio: ['ignore', output, output] })
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve)
      child.once('error', error => reject((error as NodeJS.ErrnoException).code === 'ENOENT' ? missing('nbdkit', error) : error))
    })
    // Who wants to wait for it does; it alone keeps no process alive.
    child.unref()
    return child
  } finally {
    closeSync(output)
  }
}

/** nbdkit writes its process id when it listens. */
async function ready(child: ChildProcess, pidFile: string, log: string): Promise<void> {
  while (!existsSync(pidFile)) {
    if (child.exitCode !== null || child.signalCode !== null) {
      const said = (await readFile(log, 'utf8')).trim().slice(-2000)
      throw new StreamError(`nbdkit ended: ${said || (child.signalCode ?? `status ${child.exitCode}`)}`, { code: 'TOOL_FAILED' })
    }
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** A socket that a killed server has left behind goes; one that somebody listens at does not. */
async function freeSocket(socket: string): Promise<void> {
  const used = await new Promise<boolean>(resolve => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
  if (used) throw new StreamError(`Another server listens at ${socket} already`, { code: 'EADDRINUSE' })
  await rm(socket, { force: true })
}
