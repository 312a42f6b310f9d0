// Serves a local copy over NBD, by nbdkit and its plugin of ours (native/nbdkit). That process is one of its own: it goes
// on when the one that streams is killed, and its reads wait until another one takes its place.
import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, openSync, closeSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { nbdkitPlugin, usesMusl } from '../native.js'
import { failed, invalid, StreamError } from './errors.js'
import { missing, startError, toolEnvironment } from './tool.js'

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
  /** How long nbdkit may take until it serves, in seconds; one that takes longer is ended. Default 30. */
  startSeconds?: number
}

const MAX_SOCKET = 107
/** For a server that listens already, and has yet to write who it is, in ms. */
const INTRODUCTION = 1_000

/**
 * Why nothing can be served here, with what to do about it; undefined when it can.
 *
 * @since 0.1.0
 */
export function whyNoNbd(): StreamError | undefined {
  const folders = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(':')]
  if (!folders.some(folder => existsSync(path.join(folder, 'nbdkit')))) return missing('nbdkit')
  if (nbdkitPlugin() !== undefined) return undefined
  const where = usesMusl() ? 'comes built for glibc alone, and this system has musl' : 'is not there'
  return new StreamError(
    `hypertwin's plugin for nbdkit ${where}: install nbdkit's header (Debian: nbdkit-plugin-dev, Alpine: nbdkit-dev) and build it, by ` +
      'node scripts/build-native.mjs in the folder of the package hypertwin',
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
  /** Settled when that has ended; keeps no process alive. */
  readonly ended: Promise<void>
  readonly #folder: string
  #gone = false
  #closing: Promise<void> | undefined

  private constructor(pid: number, ended: Promise<void>, uri: string, socket: string | undefined, folder: string) {
    this.uri = uri
    this.socket = socket
    this.pid = pid
    this.#folder = folder
    this.ended = ended.then(() => void (this.#gone = true))
  }

  /**
   * Starts to serve. Where a process that has been killed has left a server at the socket, and it serves this cache, that
   * one is taken over, with its clients, as it was started.
   *
   * @param cache - the folder that an {@link ImageStream} has made
   * @throws StreamError `EINVAL`, `EADDRINUSE`, `TOOL_MISSING`, `TOOL_FAILED`
   */
  static async start(cache: string, options: NbdOptions = {}): Promise<NbdServer> {
    const { listen, writable = false, waitSeconds = 0, exitWithLastClient = false, startSeconds = 30 } = options
    if (options.socket !== undefined && listen !== undefined) throw invalid('give a socket or an address to listen at, not both')
    if (!Number.isInteger(waitSeconds) || waitSeconds < 0 || waitSeconds > 1e6) throw invalid('waitSeconds must be a whole number of seconds')
    if (!(startSeconds > 0 && startSeconds <= 1e6)) throw invalid('startSeconds must be a number of seconds, more than 0')
    const address = listen === undefined ? undefined : /^(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})$/.exec(listen)
    if (address === null) throw invalid(`${listen} is no address: 'host:port'`)
    const none = whyNoNbd()
    const plugin = nbdkitPlugin()
    if (none || plugin === undefined) throw none ?? missing('nbdkit')
    const folder = await mkdtemp(path.join(tmpdir(), 'hypertwin-nbd-'))
    const socket = address ? undefined : path.resolve(options.socket ?? path.join(folder, 'nbd.sock'))
    try {
      if (socket !== undefined && Buffer.byteLength(socket) > MAX_SOCKET)
        throw invalid(`the path ${socket} is longer than ${MAX_SOCKET} bytes, which no socket's may be`)
      const pidFile = options.socket === undefined ? path.join(folder, 'pid') : `${socket}.pid`
      const uri = socket === undefined ? `nbd://${listen}` : `nbd+unix:///?socket=${encodeURI(socket)}`
      if (socket !== undefined && (await answers(socket))) {
        const pid = await serverOf(pidFile, path.resolve(cache))
        if (pid === undefined) throw new StreamError(`Another server listens at ${socket} already`, { code: 'EADDRINUSE' })
        return new NbdServer(pid, untilGone(pid), uri, socket, folder)
      }
      if (socket !== undefined) for (const file of [socket, pidFile]) await rm(file, { force: true })
      const filters = [...(exitWithLastClient ? ['exitlast'] : []), ...(writable ? ['cow'] : [])]
      const args = [
        '--foreground', '--log=stderr', '--pidfile', pidFile, ...filters.map(name => `--filter=${name}`),
        ...(socket === undefined ? ['--ipaddr', (address?.[1] ?? '').replace(/^\[|\]$/g, ''), '--port', address?.[2] ?? ''] : ['--unix', socket]),
        ...(writable ? [] : ['--readonly']),
        plugin, `cache=${path.resolve(cache)}`, `wait=${waitSeconds}`, 'outlive=true',
        ...(options.trace === undefined ? [] : [`log=${path.resolve(options.trace)}`])
      ]
      const { pid, ended } = await launch(args, { log: path.join(folder, 'log'), pidFile, seconds: startSeconds })
      return new NbdServer(pid, ended, uri, socket, folder)
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
    this.#kill('SIGTERM')
    const hard = setInterval(() => this.#kill('SIGKILL'), 5_000)
    await this.ended
    clearInterval(hard)
    if (this.socket !== undefined) for (const file of [this.socket, `${this.socket}.pid`]) await rm(file, { force: true })
    await rm(this.#folder, { recursive: true, force: true })
  }

  /** Once it has ended, its number may be another process's. */
  #kill(signal: NodeJS.Signals): void {
    if (this.#gone) return
    try {
      process.kill(this.pid, signal)
    } catch {
      // It has ended just now.
    }
  }
}

/**
 * It is this process's child, so that it is known from its first moment on and ends with this one until it serves, which its
 * pid file says; then it goes on (the plugin's `outlive`). In a session of its own it hears no terminal's signals. One that
 * does not come so far is gone when this throws.
 */
async function launch(args: readonly string[], how: { log: string; pidFile: string; seconds: number }): Promise<{ pid: number; ended: Promise<void> }> {
  const output = openSync(how.log, 'w', 0o600)
  let child: ChildProcess
  try {
    // Its folder is nobody's that may want to be removed or unmounted.
    child = spawn('nbdkit', args, { env: toolEnvironment(), cwd: '/', detached: true, stdio: ['ignore', output, output] })
  } finally {
    closeSync(output)
  }
  let failure: Error | undefined
  const ended = new Promise<void>(resolve => {
    child.once('error', error => {
      failure ??= startError('nbdkit', error)
      resolve()
    })
    child.once('exit', (status, signal) => {
      failure ??= new StreamError(`nbdkit ended: ${signal ?? `status ${status}`}`, { code: 'TOOL_FAILED' })
      resolve()
    })
  })
  const until = performance.now() + how.seconds * 1000
  for (;;) {
    if ((await pidIn(how.pidFile)) === child.pid && child.pid !== undefined && !failure) {
      child.unref()
      return { pid: child.pid, ended }
    }
    if (failure) break
    if (performance.now() >= until) {
      failure = new StreamError(`nbdkit did not begin to serve within ${how.seconds} s (startSeconds), and was ended`, { code: 'TOOL_FAILED' })
      child.kill('SIGKILL')
      break
    }
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  await ended
  const said = (await readFile(how.log, 'utf8')).trim().slice(-2000)
  throw said === '' || !(failure instanceof StreamError) || failure.code !== 'TOOL_FAILED'
    ? failure
    : new StreamError(`${failure.message}: ${said}`, { code: 'TOOL_FAILED' })
}

/** What is written there once it is whole. */
async function pidIn(pidFile: string): Promise<number | undefined> {
  const text = await readFile(pidFile, 'utf8').catch(() => '')
  return /^[1-9]\d*\n$/.test(text) ? Number(text) : undefined
}

/** Whether somebody listens at a socket. */
function answers(socket: string): Promise<boolean> {
  return new Promise(resolve => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
}

/** The process of a server of this cache's, by what it wrote when it began. */
async function serverOf(pidFile: string, cache: string): Promise<number | undefined> {
  const until = performance.now() + INTRODUCTION
  let pid: number | undefined
  while ((pid = await pidIn(pidFile)) === undefined && performance.now() < until) await new Promise(resolve => setTimeout(resolve, 10))
  if (pid === undefined) return undefined
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
  return words.includes(`cache=${cache}`) ? pid : undefined
}

/** Of a process that is nobody's child here; one that only waits to be buried is gone. */
async function untilGone(pid: number): Promise<void> {
  while (await readFile(`/proc/${pid}/stat`, 'utf8').then(text => !/^\d+ \(.*\) Z/s.test(text), () => false))
    await new Promise(resolve => setTimeout(resolve, 50).unref())
}
