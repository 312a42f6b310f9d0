// Serves a local copy over NBD, by nbdkit and its plugin of ours (native/nbdkit). That process is one of its own: it goes
// on when the one that streams is killed, and its reads wait until another one takes its place.
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, readFileSync, type Stats } from 'node:fs'
import { lstat, mkdtemp, readFile, realpath, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { nbdkitPlugin, usesMusl } from '../native.js'
import { MAP_FILE } from './cache.js'
import { failed, invalid, StreamError } from './errors.js'
import { isInstalled, missing, startError, toolEnvironment } from './tool.js'

/**
 * How a local copy is served.
 *
 * @since 0.1.0
 */
export interface NbdOptions {
  /** The path of a UNIX socket, at most 107 bytes. Default: one in a new folder of the system's for temporary files. */
  socket?: string
  /** In place of a socket: `'host:port'`, the port from 1 to 65535. Whoever reaches it may read the image. */
  listen?: string
  /**
   * Clients may write: into a temporary file (in `TMPDIR`, or /var/tmp) that goes with the server. All of them see the same: two machines
   * would destroy each other's file system, so each has a server of its own. Default false.
   */
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
/** Reads of a client that may wait at once, so that those of what is here go on: as many as a disk of ours has under way. */
const THREADS = 64
/** For a server that listens already, and has yet to write who it is, in ms. */
const INTRODUCTION = 1_000

/**
 * Why nothing can be served here, with what to do about it; undefined when it can.
 *
 * @since 0.1.0
 */
export function whyNoNbd(): StreamError | undefined {
  if (!isInstalled('nbdkit')) return missing('nbdkit')
  if (nbdkitPlugin() !== undefined) return undefined
  const where = usesMusl ? 'comes built for glibc alone, and this system has musl' : 'is not there'
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
  /**
   * It was left at the socket and has been taken over: it serves as it was started, whatever `writable`, `trace`, `waitSeconds` and
   * `exitWithLastClient` say now. @since 0.1.0
   */
  readonly takenOver: boolean
  /** Settled when that has ended; keeps no process alive. */
  readonly ended: Promise<void>
  readonly #began: string | undefined
  readonly #folder: string
  #closing: Promise<void> | undefined

  private constructor({ pid, began, ended, takenOver = false }: Running, uri: string, socket: string | undefined, folder: string) {
    this.uri = uri
    this.socket = socket
    this.pid = pid
    this.takenOver = takenOver
    this.#began = began
    this.#folder = folder
    this.ended = ended
  }

  /**
   * Starts to serve. Where a process that has been killed has left a server at the socket, and it serves this cache, that
   * one is taken over, with its clients, as it was started; one of another cache, or of files that were in this one's place,
   * keeps it (`EADDRINUSE`).
   *
   * @param cache - the folder that an {@link ImageStream} has made
   * @throws StreamError `EINVAL`, `EADDRINUSE`, `TOOL_MISSING`, `TOOL_FAILED`
   */
  static async start(cache: string, options: NbdOptions = {}): Promise<NbdServer> {
    if (typeof cache !== 'string' || cache === '') throw invalid('cache must be the path of a folder')
    const { listen, writable = false, waitSeconds = 0, exitWithLastClient = false, startSeconds = 30 } = options
    if (options.socket !== undefined && listen !== undefined) throw invalid('give a socket or an address to listen at, not both')
    if (!Number.isInteger(waitSeconds) || waitSeconds < 0 || waitSeconds > 1e6) throw invalid('waitSeconds must be a whole number of seconds')
    if (!(startSeconds > 0 && startSeconds <= 1e6)) throw invalid('startSeconds must be a number of seconds, more than 0')
    const address = listen === undefined ? undefined : /^(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})$/.exec(listen)
    const port = Number(address?.[2] ?? 1)
    if (address === null || port < 1 || port > 65_535) throw invalid(`${listen} is no address: 'host:port', the port from 1 to 65535`)
    const none = whyNoNbd()
    const plugin = nbdkitPlugin()
    if (none || plugin === undefined) throw none ?? missing('nbdkit')
    const folder = await mkdtemp(path.join(tmpdir(), 'hypertwin-nbd-'))
    const socket = address ? undefined : path.resolve(options.socket ?? path.join(folder, 'nbd.sock'))
    const pidFile = options.socket === undefined ? path.join(folder, 'pid') : `${socket}.pid`
    const uri = socket === undefined ? `nbd://${listen}` : `nbd+unix:///?socket=${encodeURI(socket)}`
    const filters = [...(exitWithLastClient ? ['exitlast'] : []), ...(writable ? ['cow'] : [])]
    const args = [
      '--foreground', '--exit-with-parent', '--threads', String(THREADS), '--log=stderr', '--pidfile', pidFile, ...filters.map(name => `--filter=${name}`),
      ...(socket === undefined ? ['--ipaddr', (address?.[1] ?? '').replace(/^\[|\]$/g, ''), '--port', address?.[2] ?? ''] : ['--unix', socket]),
      ...(writable ? [] : ['--readonly']),
      plugin, `cache=${path.resolve(cache)}`, `wait=${waitSeconds}`, 'outlive=true',
      ...(options.trace === undefined ? [] : [`log=${path.resolve(options.trace)}`])
    ]
    const begin = (): Promise<Running> => launch(args, { log: path.join(folder, 'log'), pidFile, seconds: startSeconds })
    try {
      if (socket !== undefined && Buffer.byteLength(socket) > MAX_SOCKET)
        throw invalid(`the path ${socket} is longer than ${MAX_SOCKET} bytes, which no socket's may be`)
      const running =
        socket === undefined
          ? await begin()
          : await inTurn(socket, async () => {
              const owner = await ownerOf(socket, pidFile, path.resolve(cache))
              if (owner) return owner
              await checkLeft(socket, pidFile)
              for (const file of [socket, pidFile]) await rm(file, { force: true })
              return begin()
            })
      return new NbdServer(running, uri, socket, folder)
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
    const { socket, pid } = this
    // By now another one may serve there.
    if (socket !== undefined)
      await inTurn(socket, async () => {
        if ((await pidIn(`${socket}.pid`)) === pid) for (const file of [socket, `${socket}.pid`]) await rm(file, { force: true })
      })
    await rm(this.#folder, { recursive: true, force: true })
  }

  /** Once it has ended, its number may be another process's. */
  #kill(signal: NodeJS.Signals): void {
    if (this.#began !== undefined && beginOf(this.pid) === this.#began) kill(this.pid, signal)
  }
}

/** An nbdkit that serves. */
interface Running {
  pid: number
  /** As {@link beginOf}. */
  began: string | undefined
  ended: Promise<void>
  takenOver?: boolean
}

const turns = new Map<string, Promise<void>>()

/** What this process does at a socket it does one after the other. */
async function inTurn<T>(socket: string, work: () => Promise<T>): Promise<T> {
  const result = (turns.get(socket) ?? Promise.resolve()).then(work)
  const over = result.then(() => undefined, () => undefined)
  turns.set(socket, over)
  try {
    return await result
  } finally {
    if (turns.get(socket) === over) turns.delete(socket)
  }
}

/**
 * It is this process's child, so that it is known from its first moment on and ends with this one until it serves, which its
 * pid file says; then it goes on (the plugin's `outlive`). In a session of its own it hears no terminal's signals. One that
 * does not come so far is gone when this throws.
 */
async function launch(args: readonly string[], how: { log: string; pidFile: string; seconds: number }): Promise<Running> {
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
      return { pid: child.pid, began: beginOf(child.pid), ended }
    }
    if (failure) break
    if (performance.now() >= until) {
      failure = new StreamError(`nbdkit did not begin to serve within ${how.seconds} s (startSeconds), and was ended`, { code: 'TOOL_FAILED' })
      // It leads a group of processes: what it has started goes with it.
      if (child.pid !== undefined) kill(-child.pid, 'SIGKILL')
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

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended just now.
  }
}

/** What is written there once it is whole. */
async function pidIn(pidFile: string): Promise<number | undefined> {
  const text = await readFile(pidFile, 'utf8').catch(() => '')
  return /^[1-9]\d*\n$/.test(text) ? Number(text) : undefined
}

/** Whether somebody listens at a socket. Rejects where that cannot be known. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error: NodeJS.ErrnoException) => (['ENOENT', 'ECONNREFUSED'].includes(error.code ?? '') ? resolve(false) : reject(error)))
  })
}

/** The server of this cache's that a socket belongs to; undefined when it is nobody's. Throws when it is another's. */
async function ownerOf(socket: string, pidFile: string, cache: string): Promise<Running | undefined> {
  const listening = await answers(socket)
  const until = performance.now() + (listening ? INTRODUCTION : 0)
  let pid: number | undefined
  while ((pid = await pidIn(pidFile)) === undefined && performance.now() < until) await new Promise(resolve => setTimeout(resolve, 10))
  const began = pid === undefined ? undefined : beginOf(pid)
  const words = pid === undefined ? [] : (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
  const owner = pid !== undefined && began !== undefined && words.includes(socket) ? { pid, began, ended: untilGone(pid, began), takenOver: true } : undefined
  if (listening && owner && words.includes(`cache=${cache}`)) {
    if (await maps(owner.pid, path.join(cache, MAP_FILE))) return owner
    throw new StreamError(
      `The server at the socket ${socket}, process ${owner.pid}, serves files of ${cache} that are no longer there: end that one, or choose another socket`,
      { code: 'EADDRINUSE' }
    )
  }
  if (!listening && !owner) return undefined
  throw new StreamError(`The socket ${socket} belongs to another server${owner ? `, process ${owner.pid}` : ''}: end that one, or choose another socket`, {
    code: 'EADDRINUSE'
  })
}

/** Whether a process has this file in its memory, and not another one that was there before. */
async function maps(pid: number, file: string): Promise<boolean> {
  const real = await realpath(file).catch(() => undefined)
  const lines = (await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')).split('\n')
  // The name of one that has been removed has ' (deleted)' behind it.
  return real !== undefined && lines.some(line => line.endsWith(` ${real.replaceAll('\n', '\\012')}`))
}

/** What is there in a server's place is what an earlier one has left, and no file of somebody's. */
async function checkLeft(socket: string, pidFile: string): Promise<void> {
  const at = async (file: string): Promise<Stats | undefined> => lstat(file).catch(() => undefined)
  const [there, pid] = [await at(socket), await at(pidFile)]
  const foreign = there && !there.isSocket() ? socket : pid && !(pid.isFile() && (pid.size === 0 || (await pidIn(pidFile)) !== undefined)) ? pidFile : undefined
  if (foreign !== undefined)
    throw new StreamError(`${foreign} is a file that no server has left there: choose another socket, or remove it`, { code: 'EADDRINUSE' })
}

/** When a process began, in the kernel's ticks; undefined once it is gone, or only waits to be buried. */
function beginOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
  } catch {
    return undefined
  }
}

/** Of a process that is nobody's child here. */
async function untilGone(pid: number, began: string): Promise<void> {
  while (beginOf(pid) === began) await new Promise(resolve => setTimeout(resolve, 50).unref())
}
