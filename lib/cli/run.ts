// `hypertwin run`: a machine on a terminal, as a small QEMU.
import { once } from 'node:events'
import process from 'node:process'
import { GdbServer, Machine, type MachineBoard, type MachineEvent, type MachineOptions, type RestoreOptions } from '../machine/index.js'
import { macAddress } from '../machine/options.js'
import { memoryTrace, type Manifest, Profile, restoreStreamed, SnapshotStream, type StreamError } from '../stream/index.js'
import { writeWhole } from '../stream/whole_file.js'
import { bytes, CliError, count, Exit, interruption, note, printable, resolveGuest, toJson, usage } from './common.js'
import { diskSentence, trouble, type RunEnd } from './guest.js'
import { checkKvm } from './kvm.js'
import { isStreamed, streamOptions, Turn, type StreamedOptions } from './streamed.js'

interface RunOptions extends StreamedOptions {
  kernel?: string
  restore?: string
  cache?: string
  learn?: string
  initrd?: string
  append: string
  disk?: string[]
  net?: string[]
  cpus: number
  memory: string | number
  board: MachineBoard
  console: 'serial' | 'virtio'
  balloon?: boolean
  vsock?: string
  cid?: number
  reboot: boolean
  snapshot?: string
  gdb?: string
  paused?: boolean
  json?: boolean
  kvmDevice: string
}

const escape = 0x01 // Ctrl-A
const help = `
Ctrl-A h  this help
Ctrl-A p  press the power button
Ctrl-A s  write a snapshot (--snapshot <file>), and go on
Ctrl-A x  end the machine
Ctrl-A Ctrl-A  a Ctrl-A for the guest
`

/** `image.raw` or `image.raw,ro`. */
function disk(text: string): NonNullable<MachineOptions['disks']>[number] {
  const readOnly = text.endsWith(',ro')
  return { path: readOnly ? text.slice(0, -3) : text, readOnly }
}

/** The same of a machine that goes on: what its guest may do with a disk is in the snapshot. */
function restoredDisk(text: string): string {
  if (disk(text).readOnly)
    throw usage(`--disk ${text}: whether the guest may write is in the snapshot; give the file alone, a copy where it must not change`)
  return text
}

function vsock({ vsock: path, cid }: RunOptions): Pick<MachineOptions, 'vsock'> {
  return path === undefined ? {} : { vsock: { path, ...(cid === undefined ? {} : { cid }) } }
}

/** `tap0`, `tap0,52:54:00:12:34:56`, `tap0,vhost=off`; `-` is connected to nothing. */
function net(text: string): NonNullable<MachineOptions['nets']>[number] {
  const [tap = '', ...more] = text.split(',')
  const vhost = more.find(word => /^vhost=(on|off)$/.test(word))
  const [mac, ...rest] = more.filter(word => word !== vhost)
  if (rest.length > 0 || (tap === '-' && vhost !== undefined) || (mac !== undefined && !macAddress.test(mac)))
    throw usage(`--net ${text}: give a tap interface, perhaps a MAC address, and perhaps vhost=on or vhost=off: tap0,52:54:00:12:34:56`)
  return {
    ...(tap === '-' ? {} : { backend: { tap, ...(vhost === undefined ? {} : { vhost: vhost === 'vhost=on' }) } }),
    ...(mac === undefined ? {} : { mac })
  }
}

/** `port`, `host:port`, or the path of a UNIX socket. */
function gdbAddress(text: string): { port: number; host?: string } | { path: string } {
  if (text.includes('/')) return { path: text }
  const [, host, port] = /^(?:(.+):)?(\d{1,5})$/.exec(text) ?? []
  if (port === undefined || Number(port) > 65535) throw usage(`--gdb ${text}: give a port, host:port, or the path of a socket`)
  return { port: Number(port), ...(host === undefined ? {} : { host }) }
}

/** What runs here. */
interface Made extends AsyncDisposable {
  machine: Machine
  /** Why it was ended from outside. */
  failed?: unknown
}

/** A machine whose snapshot comes meanwhile, by this process, or by another one that streams into the cache until that ends. */
class Streamed implements Made {
  failed: unknown

  private constructor(
    readonly machine: Machine,
    readonly manifest: Manifest,
    readonly learn: string | undefined,
    readonly turn: Turn<SnapshotStream>
  ) {}

  static async restore(options: RunOptions, cache: string, restore: RestoreOptions, signal: AbortSignal): Promise<Streamed> {
    const { learn, wait } = options
    const prefetch = learn === undefined
    // What is learnt is what this machine touches, whatever earlier ones did.
    const how = { ...(await streamOptions(options)), ...(!prefetch && { fill: false, profile: false as const, gate: 'none' as const }) }
    const turn = new Turn(cache, opening => SnapshotStream.open(options.restore ?? '', { ...how, cache, signal: opening }), options, note, signal)
    const nothingMore = (error: unknown): void => note(`Nothing more comes: ${(error as Error).message}`)
    const watch = (stream: SnapshotStream): void => void stream.complete.catch((error: StreamError) => error.code !== 'CLOSED' && nothingMore(error))
    let made: Streamed | undefined
    let failed: unknown
    try {
      if (await turn.take()) watch(turn.stream as SnapshotStream)
      else {
        note('Another process streams into this cache, as it was told; this one takes over when that ends')
        turn.begin(
          error => {
            if (made) return made.#end(error)
            // What is being restored may wait for it.
            nothingMore((failed = error))
          },
          stream => {
            note('This process streams now')
            watch(stream)
          }
        )
      }
      const manifest = turn.stream?.manifest ?? (await turn.others())
      if (prefetch) await Promise.race([turn.mayStart(), signal.aborted || once(signal, 'abort')])
      signal.throwIfAborted()
      const changes = { ...restore, prefetch, ...(wait !== undefined && { waitSeconds: wait }) }
      const { stream } = turn
      const machine = await (stream ? stream.restore(changes) : restoreStreamed(cache, { ...changes, ...(how.profile && { profile: how.profile }) }))
      made = new Streamed(machine, manifest, learn, turn)
      if (failed === undefined) return made
      await machine.close()
      throw failed
    } catch (error) {
      await Streamed.#over(turn)
      throw error
    }
  }

  static async #over(turn: Turn<SnapshotStream>): Promise<void> {
    await turn.end().catch((error: unknown) => note(`No picture: ${(error as Error).message}`))
  }

  /** Nobody streams any more, and this process cannot. */
  #end(error: unknown): void {
    if (this.machine.closed || this.machine.paging()?.complete !== false) return
    this.failed = error
    void this.machine.stop().catch(() => undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      const { learn, manifest } = this
      const memory = this.machine.paging()
      if (memory)
        note(
          `${bytes(memory.hereBytes)} of ${bytes(memory.bytes)} of memory came; ${count(memory.waits)} pages were waited for, ` +
            `${(memory.waitedMs / 1000).toFixed(1)} s altogether, ${memory.longestMs.toFixed(0)} ms at most, ${count(memory.stalls)} for more than 100 ms`
        )
      if (learn !== undefined) await writeWhole(learn, String(Profile.fromTrace(manifest, memoryTrace(this.machine, manifest))))
    } finally {
      await this.machine.close().finally(() => Streamed.#over(this.turn))
    }
  }
}

async function make(options: RunOptions, signal: AbortSignal): Promise<Made> {
  const device = options.kvmDevice
  if (options.restore !== undefined) {
    const changes: RestoreOptions = {
      device,
      ...(options.disk === undefined ? {} : { disks: options.disk.map(restoredDisk) }),
      ...(options.net === undefined ? {} : { nets: options.net.map(text => ({ backend: 'queue' as const, ...net(text) })) }),
      ...vsock(options)
    }
    if (options.cache !== undefined) return Streamed.restore(options, options.cache, changes, signal)
    return alone(await Machine.restore(options.restore, changes))
  }
  const machine = await Machine.create({
    device,
    kernel: resolveGuest(options.kernel ?? ''),
    ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    commandLine: options.append,
    board: options.board,
    vcpus: options.cpus,
    memory: options.memory,
    disks: (options.disk ?? []).map(disk),
    nets: (options.net ?? []).map(net),
    console: options.console,
    balloon: options.balloon === true,
    ...vsock(options)
  })
  return alone(machine)
}

const alone = (machine: Machine): Made => ({ machine, [Symbol.asyncDispose]: () => machine.close() })

/** What is typed, on its way to the guest, which may not take it at once. */
class Keyboard {
  readonly #machine: Machine
  #waiting = Buffer.alloc(0)
  #timer: NodeJS.Timeout | undefined

  constructor(machine: Machine) {
    this.#machine = machine
  }

  type(bytes: Uint8Array): void {
    this.#waiting = Buffer.concat([this.#waiting, bytes])
    // Who pastes without end waits.
    if (this.#waiting.length > 1 << 16) process.stdin.pause()
    this.#push()
  }

  #push(): void {
    clearTimeout(this.#timer)
    while (this.#waiting.length > 0) {
      const piece = this.#waiting.subarray(0, 1024)
      try {
        if (!this.#machine.console.write(piece)) {
          this.#timer = setTimeout(() => this.#push(), 10)
          return
        }
      } catch {
        return // the machine has ended
      }
      this.#waiting = this.#waiting.subarray(piece.length)
    }
    process.stdin.resume()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}

export async function run(options: RunOptions): Promise<number> {
  if ((options.kernel === undefined) === (options.restore === undefined))
    throw usage(`Give ${options.kernel === undefined ? 'what to run' : 'one of the two'}: --kernel <file>, or --restore <snapshot>`)
  if (options.cache === undefined ? isStreamed(options) || options.learn !== undefined : options.restore === undefined)
    throw usage('--restore <URL> and --cache <folder> go together, and what is said of a stream goes with them: --digest, --learn, --profile, --page and others')
  if (options.paused === true && options.gdb === undefined) throw usage('--paused waits for gdb: give --gdb <address>, too')
  if (options.kernel !== undefined) resolveGuest(options.kernel)
  if (options.gdb !== undefined) gdbAddress(options.gdb)
  options.net?.forEach(net)
  options.disk?.forEach(options.restore === undefined ? disk : restoredDisk)
  if (options.cid !== undefined && options.vsock === undefined) throw usage('--cid goes with --vsock <socket>')
  const signal = interruption()
  await checkKvm(options.kvmDevice)
  try {
    for (;;) {
      const end = await session(options, signal)
      if (end.reason === 'reset' && options.reboot && options.restore === undefined) continue
      if (options.json === true) process.stdout.write(`${toJson(end)}\n`)
      if (end.reason === 'reset' && options.reboot) note('The guest asked for a reset: what was restored is not made anew')
      const problem = trouble(end)
      if (problem) note(problem.message)
      return problem ? Exit.failed : signal.aborted ? Exit.interrupted : Exit.ok
    }
  } finally {
    if (process.stdin.isTTY) process.stdin.setRawMode(false)
    process.stdin.pause()
  }
}

async function session(options: RunOptions, signal: AbortSignal): Promise<RunEnd> {
  await using made = await make(options, signal)
  const { machine } = made
  // Until now Ctrl-C was for this command.
  if (process.stdin.isTTY) process.stdin.setRawMode(true)
  const screen = options.json === true ? process.stderr : process.stdout
  const tell = (text: string) => process.stderr.write(`\n${printable(text)}\n`.replaceAll('\n', '\r\n'))
  const keyboard = new Keyboard(machine)
  const size = () => {
    if (!process.stdout.isTTY) return
    try {
      machine.console.resize(process.stdout.columns, process.stdout.rows)
    } catch {
      // A serial line has no size; where its memory is still coming the next change will tell.
    }
  }
  let escaped = false
  const command = (key: string): void => {
    if (key === 'x') void machine.stop().catch(() => undefined)
    else if (key === 'p') {
      if (machine.board !== 'standard' || !machine.pressPowerButton()) tell('The guest does not listen to a power button.')
    } else if (key === 's') {
      if (options.snapshot === undefined) tell('Where to? Start with --snapshot <file>.')
      else
        machine.snapshot(options.snapshot).then(
          () => tell(`Written: ${options.snapshot ?? ''}`),
          (error: Error) => tell(`No snapshot: ${error.message}`)
        )
    } else tell(help)
  }
  const typed = (bytes: Buffer): void => {
    if (process.stdin.isTTY !== true) return keyboard.type(bytes)
    const plain: number[] = []
    for (const byte of bytes) {
      if (!escaped && byte === escape) {
        escaped = true
        continue
      }
      if (escaped && byte !== escape) command(String.fromCharCode(byte))
      else plain.push(byte)
      escaped = false
    }
    if (plain.length > 0) keyboard.type(Uint8Array.from(plain))
  }
  await using gdb = options.gdb === undefined ? undefined : await GdbServer.listen(machine, gdbAddress(options.gdb))
  if (gdb) tell(`gdb: target remote ${gdb.address}`)
  const events = machine.events({ signal })
  if (options.paused !== true) await (options.restore === undefined ? machine.start() : machine.resume())
  size()
  process.stdin.on('data', typed).resume()
  process.stdout.on('resize', size)
  try {
    for await (const event of events) {
      const disk = diskSentence(event)
      if (disk !== undefined) tell(disk)
      if (await show(event, screen, signal)) break
    }
  } catch (error) {
    if (!(error instanceof CliError) || !signal.aborted) throw error
  } finally {
    process.stdin.off('data', typed)
    process.stdout.off('resize', size)
    keyboard.stop()
  }
  if (made.failed !== undefined) throw made.failed
  return { state: machine.state, reason: machine.reason, message: machine.message }
}

/** True when the machine has ended. */
async function show(event: MachineEvent, screen: NodeJS.WriteStream, signal: AbortSignal): Promise<boolean> {
  // Where nobody reads any more, the signal is aborted.
  if (event.type === 'console' && !screen.write(event.bytes)) await once(screen, 'drain', { signal }).catch(() => undefined)
  return event.type === 'state' && ['stopped', 'failed'].includes(event.state)
}
