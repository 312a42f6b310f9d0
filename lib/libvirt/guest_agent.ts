// The agent in a guest (qemu-guest-agent): its commands, typed, and a program run there.
import { setTimeout as sleep } from 'node:timers/promises'
import { day, invalid, whole, within } from './checks.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import { DomainQemuAgentCommandTimeoutValues } from './generated/enums.js'

type None = Record<never, never>

/**
 * Commands of the agent that are typed here: what each takes, and what it returns. Any other can be called as well.
 *
 * @since 0.1.0
 */
export interface GuestAgentCommands {
  /** Answers. */
  'guest-ping': [args: None, result: None]
  /** Returns a number. */
  'guest-sync': [args: { id: number }, result: number]
  /** The agent's version and its commands. */
  'guest-info': [
    args: None,
    result: { version: string; supported_commands: { name: string; enabled: boolean; 'success-response': boolean }[] }
  ]
  /** The guest's operating system. */
  'guest-get-osinfo': [
    args: None,
    result: { id?: string; name?: string; 'pretty-name'?: string; version?: string; 'kernel-release'?: string; machine?: string }
  ]
  /** The guest's name. */
  'guest-get-host-name': [args: None, result: { 'host-name': string }]
  /** Nanoseconds since 1970. */
  'guest-get-time': [args: None, result: number]
  /** Sets the clock, in nanoseconds since 1970; left out: from its hardware. */
  'guest-set-time': [args: { time?: number }, result: None]
  /** CPUs. */
  'guest-get-vcpus': [args: None, result: { 'logical-id': number; online: boolean; 'can-offline'?: boolean }[]]
  /** Network interfaces. */
  'guest-network-get-interfaces': [
    args: None,
    result: {
      name: string
      'hardware-address'?: string
      'ip-addresses'?: { 'ip-address': string; 'ip-address-type': 'ipv4' | 'ipv6'; prefix: number }[]
    }[]
  ]
  /** File systems. */
  'guest-get-fsinfo': [args: None, result: { name: string; mountpoint: string; type: string }[]]
  /** Whether file systems are at rest. */
  'guest-fsfreeze-status': [args: None, result: 'thawed' | 'frozen']
  /** Starts a program. */
  'guest-exec': [
    args: { path: string; arg?: readonly string[]; env?: readonly string[]; 'input-data'?: string; 'capture-output'?: boolean },
    result: { pid: number }
  ]
  /** How a program is doing. */
  'guest-exec-status': [
    args: { pid: number },
    result: {
      exited: boolean
      exitcode?: number
      signal?: number
      'out-data'?: string
      'err-data'?: string
      'out-truncated'?: boolean
      'err-truncated'?: boolean
    }
  ]
  /** Opens a file. */
  'guest-file-open': [args: { path: string; mode?: string }, result: number]
  /** Reads a file: base64. */
  'guest-file-read': [args: { handle: number; count?: number }, result: { count: number; 'buf-b64': string; eof: boolean }]
  /** Writes a file: base64. */
  'guest-file-write': [args: { handle: number; 'buf-b64': string; count?: number }, result: { count: number; eof: boolean }]
  /** Writes a file out. */
  'guest-file-flush': [args: { handle: number }, result: None]
  /** Closes a file. */
  'guest-file-close': [args: { handle: number }, result: None]
}

/**
 * How long the agent may take.
 *
 * @since 0.1.0
 */
export interface GuestAgentOptions {
  /** Seconds to wait for an answer. Default: libvirt's own, 5. */
  timeoutSeconds?: number
}

/**
 * A program to run in the guest.
 *
 * @since 0.1.0
 */
export interface GuestExecOptions extends GuestAgentOptions {
  /** Its standard input. */
  input?: string | Uint8Array
  /** Its environment, `NAME: value`. Default: that of the agent. */
  env?: Record<string, string>
  /** How often the agent is asked whether it has ended, in milliseconds. Default 100. */
  intervalMs?: number
  /** Gives up waiting, with its reason: the program runs on. */
  signal?: AbortSignal
}

/**
 * How a program in the guest ended.
 *
 * @since 0.1.0
 */
export interface GuestExecution {
  /** Undefined when a signal has ended it. */
  exitCode: number | undefined
  /** The number of the signal that has ended it. */
  signal: number | undefined
  /** What it has written. */
  stdout: Buffer
  /** What it has complained of. */
  stderr: Buffer
  /** The agent did not keep all of it. */
  truncated: boolean
}

/**
 * The agent in a guest.
 *
 * ```ts
 * const { stdout } = await domain.agent.exec('/bin/uname', ['-r'])
 * ```
 *
 * @since 0.1.0
 */
export class GuestAgent {
  readonly #domain: Domain

  /** @internal */
  constructor(domain: Domain) {
    this.#domain = domain
  }

  /**
   * Calls a command of the agent.
   *
   * @param name - a name of {@link GuestAgentCommands}, or any other
   * @param args - what it takes
   * @throws LibvirtError `VIR_ERR_AGENT_UNRESPONSIVE` when no agent answers; what the agent itself refuses comes as
   * `VIR_ERR_INTERNAL_ERROR` with its words
   * @see [virDomainQemuAgentCommand](https://libvirt.org/html/libvirt-libvirt-qemu.html#virDomainQemuAgentCommand)
   */
  command<N extends keyof GuestAgentCommands>(
    name: N,
    args?: GuestAgentCommands[N][0],
    options?: GuestAgentOptions
  ): Promise<GuestAgentCommands[N][1]>
  command(name: string, args?: Record<string, unknown>, options?: GuestAgentOptions): Promise<unknown>
  async command(name: string, args: object = {}, options: GuestAgentOptions = {}): Promise<unknown> {
    const { timeoutSeconds } = options
    const timeout =
      timeoutSeconds === undefined
        ? DomainQemuAgentCommandTimeoutValues.DEFAULT
        : whole(timeoutSeconds, 'timeoutSeconds', 0, 86_400)
    const execute = Object.keys(args).length === 0 ? { execute: name } : { execute: name, arguments: args }
    const answer = await this.#domain.qemuAgentCommand(
      JSON.stringify(execute),
      timeout as DomainQemuAgentCommandTimeoutValues
    )
    try {
      return (JSON.parse(answer) as { return: unknown }).return
    } catch (cause) {
      throw new LibvirtError(`the agent's answer to ${name} is no JSON`, { code: 'BAD_ANSWER', cause })
    }
  }

  /**
   * Runs a program in the guest, to its end.
   *
   * @param path - of the program
   * @param args - its arguments
   * @throws LibvirtError as {@link command}
   */
  async exec(path: string, args: readonly string[] = [], options: GuestExecOptions = {}): Promise<GuestExecution> {
    const { input, env, intervalMs = 100, signal } = options
    within(intervalMs, 'intervalMs', 1, day)
    if (typeof path !== 'string' || path === '') throw invalid('exec() needs the path of a program')
    signal?.throwIfAborted()
    const { pid } = await this.command(
      'guest-exec',
      {
        path,
        arg: args,
        ...(env && { env: Object.entries(env).map(([name, value]) => `${name}=${value}`) }),
        ...(input !== undefined && { 'input-data': Buffer.from(input as Uint8Array).toString('base64') }),
        'capture-output': true
      },
      options
    )
    for (;;) {
      const status = await this.command('guest-exec-status', { pid }, options)
      if (status.exited)
        return {
          exitCode: status.exitcode,
          signal: status.signal,
          stdout: Buffer.from(status['out-data'] ?? '', 'base64'),
          stderr: Buffer.from(status['err-data'] ?? '', 'base64'),
          truncated: Boolean(status['out-truncated'] ?? status['err-truncated'])
        }
      try {
        await sleep(intervalMs, undefined, signal ? { signal } : {})
      } catch (error) {
        signal?.throwIfAborted()
        throw error
      }
    }
  }

  /**
   * Reads a file of the guest.
   *
   * @throws LibvirtError as {@link command}
   */
  async readFile(path: string, options: GuestAgentOptions = {}): Promise<Buffer> {
    const handle = await this.command('guest-file-open', { path }, options)
    const parts: Buffer[] = []
    try {
      for (;;) {
        const { 'buf-b64': part, eof } = await this.command('guest-file-read', { handle, count: 1 << 16 }, options)
        parts.push(Buffer.from(part, 'base64'))
        if (eof) return Buffer.concat(parts)
      }
    } finally {
      await this.command('guest-file-close', { handle }, options)
    }
  }

  /**
   * Writes a file of the guest, anew.
   *
   * @throws LibvirtError as {@link command}
   */
  async writeFile(path: string, data: string | Uint8Array, options: GuestAgentOptions = {}): Promise<void> {
    const all = Buffer.from(data as Uint8Array)
    const handle = await this.command('guest-file-open', { path, mode: 'w' }, options)
    try {
      for (let at = 0; at < all.length; ) {
        const part = all.subarray(at, at + (1 << 16))
        at += (await this.command('guest-file-write', { handle, 'buf-b64': part.toString('base64') }, options)).count
      }
    } finally {
      await this.command('guest-file-close', { handle }, options)
    }
  }
}
