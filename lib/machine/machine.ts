// A virtual machine on KVM: its life cycle, its events, and the ways into it.
import { setTimeout as sleep } from 'node:timers/promises'
import { Broadcast } from '../queue.js'
import { decodeRegisters, nativeHandle, type MemoryView, type Registers, type StateDigest } from '../state.js'
import { nativeMachines, type NativeMachine } from './addon.js'
import { Console } from './console.js'
import { MachineError, invalid, machineErrors } from './errors.js'
import { NetPort } from './net.js'
import type { Size } from '../kvm/size.js'
import {
  boolean,
  bytesOf,
  describe,
  nativeAdjust,
  nativeConfig,
  object,
  text,
  whole,
  type MachineBoard,
  type MachineOptions,
  type NativePaging,
  type RestoreOptions,
  type SnapshotInfo,
  type SnapshotOptions
} from './options.js'

/**
 * Where a machine is in its life. `stopped` and `failed` are final.
 *
 * @since 0.1.0
 */
export type MachineState = 'created' | 'running' | 'paused' | 'stopped' | 'failed'

/**
 * Why a machine is in its state.
 * - `'none'`: it was just created
 * - `'requested'`: start(), resume(), pause(), stop(), close() or a restore
 * - `'power-off'`, `'reset'`: the guest's wish
 * - `'halted'`: the guest halted with interrupts off, so nothing can wake it
 * - `'triple-fault'`: the guest's CPU gave up (KVM_EXIT_SHUTDOWN)
 * - `'error'`: a call failed, or KVM could not go on; see the message
 * - `'boundary'`, `'log-end'`, `'diverged'`: of a replay
 * - `'capture-failed'`: it is recorded, and the log cannot be written
 * - `'migrated'`: it runs on another host now
 * - `'in-doubt'`: it may run on another host (`MIGRATION_IN_DOUBT` of `hypertwin/migrate`)
 * - `'handed-over'`: its backup took over, as planned
 * - `'fenced'`: its backup or primary took over: it must not run here
 * - `'unprotected'`: its backup is lost, and the policy is to stop
 * - `'breakpoint'`: the guest came to one ({@link Debugger})
 *
 * @since 0.1.0
 */
export type MachineReason =
  | 'none'
  | 'requested'
  | 'power-off'
  | 'reset'
  | 'halted'
  | 'triple-fault'
  | 'error'
  | 'boundary'
  | 'log-end'
  | 'diverged'
  | 'capture-failed'
  | 'migrated'
  | 'in-doubt'
  | 'handed-over'
  | 'fenced'
  | 'unprotected'
  | 'breakpoint'

/**
 * What became of a disk's connection to its NBD server.
 * - `'lost'`: it broke; the server is sought, and requests wait
 * - `'silent'`: it stands, but nothing has been answered for 10 s; requests wait
 * - `'back'`: the server answers again
 * - `'given-up'`: it was sought for {@link DiskOptions.reconnectSeconds}; requests fail until it is back
 *
 * @since 0.1.0
 */
export type DiskLink = 'lost' | 'silent' | 'back' | 'given-up'

/**
 * What a machine tells.
 *
 * @since 0.1.0
 */
export type MachineEvent =
  | {
      /** Its state changed. */
      type: 'state'
      state: MachineState
      reason: MachineReason
      /** A sentence; empty when there is nothing to say. */
      message: string
      /** How many boundaries came before. */
      boundary: bigint
    }
  | {
      /** The guest wrote to its serial console. */
      type: 'console'
      bytes: Buffer
      /** The same as UTF-8; characters that are cut come whole in the next one. */
      text: string
    }
  | {
      /** The guest wrote a 32-bit value to its marker port. */
      type: 'marker'
      value: number
    }
  | {
      /** The connection of a disk on an NBD server changed. Of the host's side alone: no guest and no log learns of it. */
      type: 'disk'
      /** Its number, as in {@link Machine.disks}. */
      disk: number
      link: DiskLink
      /** The server's, without a password, and of its parameters the socket alone. */
      uri: string
      /** A sentence: what happened, and why. */
      message: string
    }
  | {
      /** So many console bytes or events were lost here because they were not taken in time. */
      type: 'dropped'
      what: 'console bytes' | 'events'
      count: number
    }

/**
 * How often things happened since the machine was created or restored.
 *
 * @since 0.1.0
 */
export interface MachineCounters {
  /** Exits that the guest's own instructions caused; goes on from the snapshot's in a restored machine. */
  boundaries: bigint
  /** Interrupts that the guest took; of the standard board, that this process signalled: not the kernel's own. */
  interrupts: bigint
  /** KVM_EXIT_IO. */
  portExits: bigint
  /** KVM_EXIT_MMIO. */
  mmioExits: bigint
  /** KVM_EXIT_HLT. */
  haltExits: bigint
  /** Packets given to network devices. */
  packetsIn: bigint
  /** Packets that the guest sent. */
  packetsOut: bigint
  /** Requests of block devices. */
  diskRequests: bigint
  /** Returns of KVM_RUN that no instruction of the guest caused. */
  kicks: bigint
}

/**
 * Guest physical RAM of a machine.
 *
 * @since 0.1.0
 */
export interface MachineMemory extends MemoryView {
  /**
   * Writes guest physical memory; a dirty tracker sees it. Not while the machine is recorded (no log holds it), nor while
   * its memory is copied, for a snapshot or in the stop of a migration.
   *
   * @param address - guest physical
   * @throws MachineError `ERANGE` when not all of it is RAM, `BAD_STATE`; nothing is written then
   */
  write(address: bigint, data: Uint8Array): void
}

/** Machines that run: as active as a server or a child process, and so not collected. */
const running = new Set<Machine>()

const finalStates: readonly string[] = ['stopped', 'failed']
const states: readonly string[] = ['created', 'running', 'paused', ...finalStates]

/**
 * A balloon: memory that the guest gives up.
 *
 * @since 0.1.0
 */
export interface BalloonState {
  /** Bytes that the guest shall give up. */
  target: number
  /** Bytes that it has given up. */
  actual: number
  /** The guest's own account, as far as it gave one; asking for the state asks it for a newer one. */
  stats: {
    /** Bytes that the guest read from its swap space. */
    swapIn?: bigint
    /** Bytes that it wrote to it. */
    swapOut?: bigint
    /** Page faults that read from a disk; a count. */
    majorFaults?: bigint
    /** Page faults that did not; a count. */
    minorFaults?: bigint
    /** Bytes of memory that nothing uses. */
    free?: bigint
    /** Bytes of memory that the guest has. */
    total?: bigint
    /** Bytes that programs could get without swapping. */
    available?: bigint
    /** Bytes of caches that can be given up. */
    caches?: bigint
    /** Huge pages handed out; a count. */
    hugePages?: bigint
    /** Huge pages that could not be had; a count. */
    hugePageFailures?: bigint
  }
}

// By virtio's tag (virtio 1.2, 5.5.6.4).
const balloonStats = [
  'swapIn',
  'swapOut',
  'majorFaults',
  'minorFaults',
  'free',
  'total',
  'available',
  'caches',
  'hugePages',
  'hugePageFailures'
] as const

const pageSize = 4096

/**
 * Memory that comes while a machine runs.
 *
 * @since 0.1.0
 */
export interface PagingState {
  /** Of memory that holds something. */
  bytes: number
  /** Of them, that have come. */
  hereBytes: number
  /** Pages that the guest, or a device of it, waited for. */
  waits: number
  /** How long altogether, in milliseconds. */
  waitedMs: number
  /** The longest, in milliseconds. */
  longestMs: number
  /** Of these pages, those that came after more than 100 ms. */
  stalls: number
  /** All has come. */
  complete: boolean
}

/**
 * A virtual machine, with the deterministic or the standard board ({@link MachineOptions.board}): vCPUs on threads of
 * their own, serial console, real-time clock, virtio devices over PCI.
 *
 * ```
 *   created --start--> running <--pause/resume--> paused
 *   any of these --stop, or the guest's power-off--> stopped;  --an error--> failed
 * ```
 *
 * A running machine keeps the process alive, as a child process does; see {@link unref}. A machine that is not
 * running and that nobody refers to is closed by the garbage collector; `close()` it yourself, it holds its RAM.
 *
 * @example
 * ```ts
 * await using machine = await Machine.create({ kernel: guestPath('hello'), memory: '16MiB' })
 * await machine.start()
 * await machine.waitFor('stopped')
 * console.log(machine.console.text)
 * ```
 *
 * @since 0.1.0
 */
export class Machine implements AsyncDisposable {
  /** The serial console. */
  readonly console: Console
  /** Which board it has. @since 0.1.0 */
  readonly board: MachineBoard
  /** How many virtual CPUs it has. @since 0.1.0 */
  readonly vcpus: number
  /** Guest physical RAM. */
  readonly memory: MachineMemory
  /** The network devices, by number. */
  readonly nets: readonly NetPort[]
  /** The block devices, by number. */
  readonly disks: readonly { path: string; size: number; readOnly: boolean }[]
  readonly #native: NativeMachine
  readonly #streams = new Broadcast<MachineEvent>()
  #referenced = true
  #over = false
  #closing: Promise<void> | undefined

  private constructor(native: NativeMachine) {
    this.#native = native
    const config = native.config()
    this.board = config.board
    this.vcpus = config.vcpus
    this.console = new Console(native)
    this.nets = config.nets.map((net, i) => new NetPort(native, i, net.mac, net.tap))
    this.disks = config.disks
    this.memory = {
      size: config.memory,
      read(address, length) {
        if (!Number.isSafeInteger(length) || length < 0 || length > config.memory)
          throw new MachineError(`a length of ${describe(length)}: the machine has ${config.memory} bytes of RAM`, {
            code: 'ERANGE'
          })
        const into = Buffer.allocUnsafeSlow(length)
        machineErrors(() => native.readMemory(address, into))
        return into
      },
      write(address, data) {
        machineErrors(() => native.writeMemory(address, data))
      }
    }
  }

  /** @internal */
  get [nativeHandle](): object {
    return this.#native
  }

  /**
   * Makes a machine: creates the VM, loads the kernel, opens disks and taps.
   *
   * @throws MachineError `EINVAL`, `BAD_CONFIG`, `BAD_KERNEL`, `NO_MEMORY`, or the errno of what failed (`ENOENT`,
   *   `EACCES`: see `hypertwin doctor`)
   */
  static async create(options: MachineOptions): Promise<Machine> {
    const config = await nativeConfig(options)
    return Machine.around(notify => nativeMachines.create(config, notify))
  }

  /**
   * Makes a machine from a snapshot. It is paused; a deterministic one continues identically with resume(), given
   * the same inputs, while a standard one is told then that it is another (ACPI's generation identifier: Linux takes
   * new entropy). Its memory is the file's, mapped copy on write: so it is there at once, and many go on from one
   * file. The file may be removed or renamed meanwhile; a machine whose file is cut or fails to be read fails. The
   * disks' contents are not in a snapshot: copy the image files while the machine is paused.
   *
   * @param path - a file that {@link snapshot} wrote
   * @throws MachineError `CORRUPT`, `SNAPSHOT_VERSION`, `SNAPSHOT_PARENT`, and as {@link create}
   */
  static async restore(path: string, options: RestoreOptions = {}): Promise<Machine> {
    text(path, 'path')
    const adjust = nativeAdjust(options)
    return Machine.around(notify => nativeMachines.restore(path, adjust, notify))
  }

  /**
   * From a snapshot of somebody else's, which names nothing of this host's; with `stream` from its local copy's folder, from
   * which its memory comes while the machine runs.
   *
   * @internal
   */
  static async restoreForeign(path: string, options: RestoreOptions, stream?: NativePaging): Promise<Machine> {
    const adjust = { ...nativeAdjust(options), foreign: true, ...(stream && { stream }) }
    return Machine.around(notify => nativeMachines.restore(path, adjust, notify))
  }

  /**
   * The machine whose native handle `make` gives; it may have run before.
   *
   * @internal
   */
  static async around(make: (notify: (what: number) => void) => Promise<NativeMachine>): Promise<Machine> {
    // The addon keeps `notify`; only a running machine is kept (see `running`).
    const found: { machine?: WeakRef<Machine> } = {}
    const notify = Machine.#notifier(found)
    const native = await machineErrors(() => make(notify))
    const machine = new Machine(native)
    found.machine = new WeakRef(machine)
    // What it told before there was anybody to hear it.
    for (let what = 0; what <= machine.nets.length; what++) machine.#notified(what)
    return machine
  }

  // Made where nothing else is in scope: what lies there, the kernel's bytes for one, would be kept with it.
  static #notifier(found: { machine?: WeakRef<Machine> }): (what: number) => void {
    return what => {
      const here = found.machine?.deref()
      if (here) here.#notified(what)
    }
  }

  /** Its state now. An event of it may still be on its way. */
  get state(): MachineState {
    return this.#native.status()[0] as MachineState
  }

  /** Why it is in this state. */
  get reason(): MachineReason {
    return this.#native.status()[1] as MachineReason
  }

  /** What there is to say about it, for example what failed; may be empty. */
  get message(): string {
    return this.#native.status()[2]
  }

  /** close() was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /** How many boundaries the guest reached. */
  get boundary(): bigint {
    return machineErrors(() => this.#native.boundary())
  }

  /** How often things happened. */
  counters(): MachineCounters {
    const values = machineErrors(() => this.#native.counters())
    const at = (i: number): bigint => values[i] ?? 0n
    return {
      boundaries: at(0),
      interrupts: at(1),
      portExits: at(2),
      mmioExits: at(3),
      haltExits: at(4),
      packetsIn: at(5),
      packetsOut: at(6),
      diskRequests: at(7),
      kicks: at(8)
    }
  }

  /**
   * From created to running.
   *
   * @throws MachineError `BAD_STATE`, `CLOSED`
   */
  async start(): Promise<void> {
    return this.#toRunning(() => this.#native.start())
  }

  /**
   * From running to paused: on the deterministic board at a boundary when one comes within 20 ms, else between two
   * instructions. Virtual time stands still while a machine is paused. Does nothing when it is paused.
   *
   * @throws MachineError `BAD_STATE`, `CLOSED`
   */
  async pause(): Promise<void> {
    return machineErrors(() => this.#native.pause())
  }

  /**
   * From paused to running.
   *
   * @throws MachineError `BAD_STATE`, `CLOSED`
   */
  async resume(): Promise<void> {
    return this.#toRunning(() => this.#native.resume())
  }

  /**
   * To stopped, for good, wherever the guest is. Its state can still be looked at. Does nothing when the machine
   * is stopped or failed.
   *
   * @throws MachineError `CLOSED`
   */
  async stop(): Promise<void> {
    return machineErrors(() => this.#native.stop())
  }

  /**
   * Stops the machine and gives everything back. A recording of it ends without its last record, as in a crash:
   * stop() that one first. Calling it again is fine.
   */
  close(): Promise<void> {
    this.#closing ??= machineErrors(() => this.#native.close()).then(() => this.#end())
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /**
   * Writes the machine's state and memory to a file (docs/snapshot-format.md), whole or not at all. A running
   * machine waits meanwhile. Disks are not in it.
   *
   * @param path - replaced when it exists
   * @throws MachineError with the errno of what failed; `BAD_STATE` (incremental, without a base; or the machine is
   *   debugged), `EINVAL` (in place of one that it adds to), `SNAPSHOT_LIMIT` (it would add to too many), `BUSY` (another
   *   is being written to that path), `DIRTY_BUSY` (`track` beside a DirtyTracker), `CLOSED`
   */
  async snapshot(path: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    const { incremental, track } = object(options, 'the options')
    return machineErrors(() =>
      this.#native.snapshot(
        text(path, 'path'),
        boolean(incremental ?? false, 'incremental'),
        boolean(track ?? false, 'track')
      )
    )
  }

  /**
   * The digests of the machine's state. A running machine waits meanwhile (about 1 ms for each 10 MiB of
   * memory in use).
   *
   * @throws MachineError `CLOSED`
   */
  async stateDigest(): Promise<StateDigest> {
    return machineErrors(() => this.#native.stateDigest())
  }

  /**
   * A vCPU's registers. A running machine is interrupted for it. See KVM_GET_REGS, KVM_GET_SREGS.
   *
   * @param vcpu - its number, from 0
   * @throws MachineError `ERANGE`, `CLOSED`
   */
  async registers(vcpu = 0): Promise<Registers> {
    return decodeRegisters(await machineErrors(() => this.#native.registers(whole(vcpu, 0, 254, 'vcpu'))))
  }

  /**
   * How its memory comes; undefined for a machine whose memory is there.
   *
   * @throws MachineError `CLOSED`
   * @since 0.1.0
   */
  paging(): PagingState | undefined {
    const values = machineErrors(() => this.#native.paging())
    if (!values) return undefined
    const at = (i: number): number => Number(values[i] ?? 0n)
    return {
      bytes: at(0) * pageSize,
      hereBytes: at(1) * pageSize,
      waits: at(2),
      waitedMs: at(3) / 1e6,
      longestMs: at(4) / 1e6,
      stalls: at(6),
      complete: at(5) !== 0
    }
  }

  /** @internal */
  touchedPages(): { page: number; atMs: number; waitedMs: number }[] {
    const values = machineErrors(() => this.#native.touched())
    const at = (i: number): number => Number(values[i] ?? 0n)
    return Array.from({ length: values.length / 3 }, (_, i) => ({
      page: at(3 * i),
      atMs: at(3 * i + 1) / 1e6,
      waitedMs: at(3 * i + 2) / 1e6
    }))
  }

  /**
   * Waits until guest physical memory is here, where it comes while the machine runs (`SnapshotStream` of
   * `hypertwin/stream`): {@link memory} waits for none, and throws `NOT_HERE`. Of other machines all is here.
   *
   * @param address - guest physical
   * @param length - in bytes
   * @throws MachineError `FINAL_STATE` when the machine ended before, `CLOSED`
   * @since 0.1.0
   */
  async bring(address: bigint, length: number): Promise<void> {
    const size = BigInt(whole(length, 0, Number.MAX_SAFE_INTEGER, 'length'))
    const here = (): boolean => machineErrors(() => this.#native.memoryHere(address, size))
    if (here()) return
    machineErrors(() => this.#native.wantMemory(address, size))
    while (!here()) {
      if (finalStates.includes(this.state))
        throw new MachineError(`the machine is ${this.state}, and this memory of it has not come: ${this.message || this.reason}`, {
          code: 'FINAL_STATE'
        })
      await sleep(2)
    }
  }

  /**
   * Linux's ids of the virtual CPUs' threads, in their order: to pin them to processors, or to put them into a cgroup of
   * their own. They stay the same until the machine is closed.
   *
   * @throws MachineError `CLOSED`
   * @since 0.1.0
   */
  get vcpuThreads(): number[] {
    return machineErrors(() => this.#native.vcpuThreads())
  }

  /**
   * Presses ACPI's power button: a guest that listens to it shuts itself down, and the machine stops with the reason
   * `'power-off'`.
   *
   * @returns false when the guest does not listen to it
   * @throws MachineError `BAD_BOARD` (not the standard board), `CLOSED`
   * @since 0.1.0
   */
  pressPowerButton(): boolean {
    return machineErrors(() => this.#native.pressPowerButton())
  }

  /**
   * Asks the guest to give up so much memory to the host, or to take it back.
   *
   * @param size - in whole pages of 4 KiB, at most the machine's memory
   * @throws MachineError `EINVAL`, `ERANGE` (too much, or no balloon), `BAD_BOARD`, `NOT_HERE` (its memory is still coming),
   *   `CLOSED`
   * @since 0.1.0
   */
  setBalloon(size: Size): void {
    const bytes = bytesOf(size, 'size')
    if (bytes % pageSize) throw invalid(`size must be a multiple of 4096 bytes, not ${describe(size)}`)
    machineErrors(() => this.#native.setBalloon(whole(bytes / pageSize, 0, 0xffffffff, 'size in pages')))
  }

  /**
   * How much memory the guest has given up.
   *
   * @throws MachineError `ERANGE` (no balloon), `BAD_BOARD`, `NOT_HERE` (its memory is still coming), `CLOSED`
   * @since 0.1.0
   */
  balloon(): BalloonState {
    const [target, actual, ...values] = machineErrors(() => this.#native.balloon())
    const stats: BalloonState['stats'] = {}
    balloonStats.forEach((name, tag) => {
      const value = values[tag]
      if (value !== undefined) stats[name] = value
    })
    return { target: target * pageSize, actual: actual * pageSize, stats }
  }

  /**
   * A network device.
   *
   * @param index - its number, from 0
   * @throws MachineError `ERANGE` when the machine has no such device
   */
  net(index: number): NetPort {
    const port = this.nets[index]
    if (!port)
      throw new MachineError(`network device ${describe(index)}: the machine has ${this.nets.length}`, {
        code: 'ERANGE'
      })
    return port
  }

  /**
   * What happens to the machine: its present state first, then everything from now on. Ends after `stopped`,
   * `failed` or close(). Each iteration has a buffer of its own; when it is full, all but state events are
   * dropped, oldest first, and a `dropped` event says how many. State events are never dropped.
   *
   * @param options - `limit`: events that the buffer holds, default 1024; `signal`: ends the iteration with its
   *   reason
   */
  events(options: { signal?: AbortSignal; limit?: number } = {}): AsyncIterableIterator<MachineEvent> {
    const limit = options.limit ?? 1024
    if (!Number.isSafeInteger(limit) || limit < 1) throw invalid(`limit must be a positive integer, not ${describe(limit)}`)
    let [state, reason, message] = this.#native.status()
    // All that led there is told before: who finds the machine stopped finds what it said, too.
    while (!this.closed && this.#take()) [state, reason, message] = this.#native.status()
    const boundary = this.closed ? 0n : this.boundary
    const stream = this.#streams.iterate(
      { limit, onFull: dropOldest, signal: options.signal },
      { type: 'state', state: state as MachineState, reason: reason as MachineReason, message, boundary }
    )
    if (finalStates.includes(state)) stream.end()
    return stream
  }

  /**
   * Waits until the machine is in `state`, or in one of several.
   *
   * @returns the state
   * @throws MachineError `FINAL_STATE` when it ended in another one, with the reason; `CLOSED`
   */
  async waitFor(
    state: MachineState | readonly MachineState[],
    options: { signal?: AbortSignal } = {}
  ): Promise<MachineState> {
    const wanted: readonly string[] = typeof state === 'string' ? [state] : state
    if (!Array.isArray(wanted) || wanted.length === 0 || wanted.some((name: string) => !states.includes(name)))
      throw invalid(`a state is one of ${states.join(', ')}, not ${describe(state)}`)
    options.signal?.throwIfAborted()
    for await (const event of this.events(options)) {
      if (event.type !== 'state') continue
      if (wanted.includes(event.state)) return event.state
      if (finalStates.includes(event.state))
        throw new MachineError(
          `the machine is ${event.state} (${event.reason}) and will not be ${wanted.join(' or ')}` +
            (event.message === '' ? '' : `: ${event.message}`),
          { code: 'FINAL_STATE' }
        )
    }
    throw new MachineError(`the machine was closed before it was ${wanted.join(' or ')}`, { code: 'CLOSED' })
  }

  /** While it runs, the machine keeps the process alive (the default). */
  ref(): this {
    this.#referenced = true
    this.#native.hold(running.has(this))
    return this
  }

  /** The process may end while the machine runs. */
  unref(): this {
    this.#referenced = false
    this.#native.hold(false)
    return this
  }

  /** A machine that begins to run must not be collected before its state event arrives. */
  async #toRunning(begin: () => Promise<void>): Promise<void> {
    running.add(this)
    try {
      await machineErrors(begin)
    } finally {
      if (this.state !== 'running') running.delete(this)
    }
  }

  #notified(what: number): void {
    if (what > 0) {
      this.nets[what - 1]?.notify()
      return
    }
    this.#take()
  }

  /** Tells what has happened; whether anything has. */
  #take(): boolean {
    const events = this.#native.takeEvents()
    for (const event of events) {
      switch (event[0]) {
        case 'state':
          this.#entered(event)
          break
        case 'console': {
          if (event[2] > 0) this.#tell({ type: 'dropped', what: 'console bytes', count: event[2] })
          const text = this.console.push(event[1])
          const { buffer, byteOffset, byteLength } = event[1]
          this.#tell({ type: 'console', bytes: Buffer.from(buffer, byteOffset, byteLength), text })
          break
        }
        case 'marker':
          this.#tell({ type: 'marker', value: event[1] })
          break
        case 'disk': {
          const [, disk, link, uri, message] = event
          this.#tell({ type: 'disk', disk, link: link as DiskLink, uri, message })
        }
      }
    }
    return events.length > 0
  }

  #entered([, state, reason, message, boundary]: [string, string, string, string, bigint]): void {
    if (state === 'running') running.add(this)
    else running.delete(this)
    this.#native.hold(state === 'running' && this.#referenced)
    this.#tell({ type: 'state', state: state as MachineState, reason: reason as MachineReason, message, boundary })
    if (finalStates.includes(state)) this.#end()
  }

  #tell(event: MachineEvent): void {
    this.#streams.push(event)
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    running.delete(this)
    this.#streams.end()
    this.console.end()
    for (const port of this.nets) port.end()
  }
}

/** Makes room for `item` by an event that may be lost, and keeps count at its place. */
function dropOldest(items: MachineEvent[], item: MachineEvent): MachineEvent[] {
  const notice = items.findIndex(event => event.type === 'dropped' && event.what === 'events')
  const oldest = items.findIndex((event, i) => i !== notice && event.type !== 'state')
  const dropped = notice < 0 ? 0 : (items[notice] as { count: number }).count
  if (oldest < 0 && item.type !== 'state') {
    // Nothing but states: the new one is lost.
    if (notice < 0) return [...items, { type: 'dropped', what: 'events', count: 1 }]
    return items.map((event, i) => (i === notice ? { type: 'dropped', what: 'events', count: dropped + 1 } : event))
  }
  const first: MachineEvent = { type: 'dropped', what: 'events', count: dropped + (oldest < 0 ? 0 : 1) }
  const kept = items.filter((_, i) => i !== notice && i !== oldest)
  return first.count === 0 ? [...kept, item] : [first, ...kept, item]
}
