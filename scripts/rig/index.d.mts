import type { Duplex, Readable, Writable } from 'node:stream'
import type { Execution } from '../hosts/index.mjs'

/** Rigs cannot be made here, or one does not do as it is told; the message says why. */
export class RigError extends Error {
  /** As errno names it, where a command could not be started: ENOENT. */
  readonly code?: string
}

export interface CommandOptions {
  /** Default: the checkout. */
  cwd?: string
  /** Default: this process's. */
  env?: NodeJS.ProcessEnv
}

export interface ExecOptions extends CommandOptions {
  input?: string | Uint8Array
  /** Milliseconds after which it is killed. */
  timeout?: number
}

/** A command that runs in a rig. */
export interface RigCommand {
  /** Its number in the rig. */
  readonly pid: number
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable
  /**
   * How it ended, when it has; all of its output is then in the streams. What it has left in the background runs on.
   * Rejects with a RigError when the rig ends before.
   */
  readonly ended: Promise<{ status: number | null; signal: NodeJS.Signals | null }>
  /** Sends the command and what it has started a signal (SIGTERM). */
  kill(signal?: NodeJS.Signals): void
}

/** An emulated AMD host with a complete KVM. Its files are this machine's, with all writes in the rig's memory. */
export interface Rig {
  /** rig1, rig2, …: its name among the rigs, too. */
  readonly name: string
  /** Its address on the network of the rigs. */
  readonly address: string
  readonly folder: string
  /** The file that everything on its console is appended to. */
  readonly consoleLog: string
  /** What is in it. */
  readonly console: string
  /** False after kill(), or when its kernel has panicked. */
  readonly alive: boolean
  /** QEMU's process on this machine; undefined when it has ended. */
  readonly pid: number | undefined
  /**
   * Starts a command; resolves when it runs. It is killed when this process ends.
   * @throws RigError with `code` where it cannot be started
   */
  spawn(command: string[], options?: CommandOptions): Promise<RigCommand>
  /** Runs a command to its end; a status other than 0 does not reject. */
  exec(command: string[], options?: ExecOptions): Promise<Execution>
  /** SIGKILL, if not told otherwise: a server unplugged. Resolves when it has ended. */
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Boots it again, unless it runs; all that it had in memory is gone. */
  start(): Promise<void>
  /** Pulls the cable of its network; commands still reach it. */
  stopNetwork(): Promise<void>
  startNetwork(): Promise<void>
}

/** Rigs on a network of their own. */
export interface Rigs extends Iterable<Rig>, AsyncDisposable {
  readonly id: string
  readonly rigs: Rig[]
  readonly length: number
  /** MiB, each. */
  readonly memory: number
  /** Processors, each. */
  readonly cpus: number
  /** This machine's own address on the network of the rigs; see onWire(). */
  readonly wireAddress: string
  /** A command as it runs on this machine on the network of the rigs, for spawn(). */
  onWire(...command: string[]): [string, ...string[]]
  /** A TCP connection from this machine to an address on the network of the rigs. */
  connect(address: string, port: number): Duplex
  /** Ends them and removes all that they had. A second call does nothing. */
  down(): Promise<void>
}

/** True in a rig. */
export function insideRig(): boolean

/** Why rigs cannot be started here, or false. Installs and fetches what is missing, where it may. */
export function whyNoRigs(): Promise<string | false>

/**
 * Boots rigs (1). They end with this process, however it ends.
 * @param options - memory in MiB (1024) and processors (1) of each
 * @throws RigError with what is missing
 */
export function rigsUp(count?: number, options?: { memory?: number; cpus?: number }): Promise<Rigs>

/** The rigs of `npm run rig -- up` in this checkout; undefined when there are none. */
export function openRigs(): Rigs | undefined
