// A network for the demo: each host and the users in a network namespace of their own, joined by a bridge in one
// more. No namespace has a name: each lives as long as the processes in it, and those end with this one however it
// ends, so nothing can be left behind. Knows nothing of machines.
import { spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import type { Socket } from 'node:net'
import process from 'node:process'
import { HypertwinError } from '../../errors.js'

/** A network that cannot be made here; the message says why. */
export class TopologyError extends HypertwinError {
  override name = 'TopologyError'
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, { code: 'ENETWORK', ...options })
  }
}

/** The guest's address, the users', and the hosts'. */
export const guestAddress = '10.77.0.2'
const usersAddress = '10.77.0.1'

/** The address of a host's own, from 1 on. */
export function hostAddress(host: number): string {
  return `10.0.0.${host}`
}

/** The address of the bridge between the hosts. */
export const WIRE_ADDRESS = '10.0.0.254'

/** The tap interface for the guest, the same on every host. */
export const TAP = 'tap0'

/** A network namespace, held by a process that does nothing. */
class Namespace {
  readonly #holder: ChildProcess
  readonly #enter: string[]

  private constructor(holder: ChildProcess, enter: string[]) {
    this.#holder = holder
    this.#enter = enter
  }

  /** @param inside - where an unprivileged user's namespaces belong: in the user namespace of the first */
  static async create(inside?: Namespace): Promise<Namespace> {
    const unprivileged = process.getuid?.() !== 0
    const unshare = inside
      ? [...(unprivileged ? inside.command() : []), 'unshare', '--net']
      : ['unshare', ...(unprivileged ? ['--user', '--map-root-user'] : []), '--net']
    // `cat` ends when this process does: its input is our end of the pipe.
    const script = `for i in all default; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done 2>/dev/null
ip link set lo up && echo ready && exec cat >/dev/null`
    const [program, ...args] = [...unshare, 'sh', '-c', script]
    const holder = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true })
    let said = ''
    holder.stderr.on('data', (text: Buffer) => (said += text.toString()))
    holder.stdin.on('error', () => {})
    await new Promise<void>((resolve, reject) => {
      const failed = (why: string) =>
        reject(new TopologyError(`making a network namespace: ${said.trim() || why} (it needs root, or user namespaces)`))
      holder.once('error', error => failed(error.message))
      holder.once('close', code => failed(`unshare ended with ${String(code)}`))
      holder.stdout.once('data', () => resolve())
    })
    holder.removeAllListeners('close')
    holder.unref()
    for (const stream of [holder.stdin, holder.stdout, holder.stderr]) (stream as Socket).unref()
    return new Namespace(holder, [
      'nsenter',
      ...(unprivileged ? ['--preserve-credentials', '--user'] : []),
      '--net',
      '--target',
      String(holder.pid)
    ])
  }

  get pid(): number {
    return this.#holder.pid!
  }

  /** What runs a command in it. */
  command(...command: string[]): string[] {
    return [...this.#enter, '--', ...command]
  }

  /** Runs commands of ip(8), one a line. */
  ip(commands: string): void {
    const [program, ...args] = this.command('ip', '-batch', '-')
    const { status, stderr, error } = spawnSync(program!, args, { input: commands, encoding: 'utf8' })
    if (error || status !== 0)
      throw new TopologyError(`ip(8): ${error?.message ?? stderr.trim().replace(/\s*\n\s*/g, '; ')}`, { cause: error })
  }

  end(): void {
    this.#holder.kill('SIGKILL')
  }
}

function need(what: string, usable: () => boolean): void {
  if (!usable()) throw new TopologyError(what)
}

/** Hosts 1 to n, users, and the bridge between them. */
export class Topology {
  readonly #wire: Namespace
  readonly #users: Namespace
  readonly #hosts: Namespace[]
  #closed = false

  private constructor(wire: Namespace, users: Namespace, hosts: Namespace[]) {
    this.#wire = wire
    this.#users = users
    this.#hosts = hosts
  }

  /** @throws TopologyError with a sentence that says what is missing */
  static async create(hosts: number): Promise<Topology> {
    for (const program of ['ip', 'unshare', 'nsenter'])
      need(
        `the program ${program} is missing (Debian: apt-get install iproute2 util-linux)`,
        () => spawnSync(program, ['-V']).error === undefined
      )
    need('/dev/net/tun may not be used (it needs root; or the kernel module is missing: modprobe tun)', () => {
      try {
        accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
        return true
      } catch {
        return false
      }
    })
    const made: Namespace[] = []
    const make = async () => {
      const namespace = await Namespace.create(made[0])
      made.push(namespace)
      return namespace
    }
    try {
      const wire = await make()
      wire.ip(`link add wire type bridge forward_delay 0 mcast_snooping 0\naddress add ${WIRE_ADDRESS}/24 dev wire\nlink set wire up\n`)
      const plug = (name: string, into: Namespace) =>
        wire.ip(`link add ${name} type veth peer name uplink netns ${into.pid}
link set ${name} master wire
link set ${name} up
`)
      const users = await make()
      plug('users', users)
      users.ip(`address add ${usersAddress}/24 dev uplink\nlink set uplink up\n`)
      const list: Namespace[] = []
      for (let host = 1; host <= hosts; host++) {
        const namespace = await make()
        plug(`host${host}`, namespace)
        // The bridge's address is its own, so that no port that comes or goes changes it.
        namespace.ip(`link add br0 address 02:68:74:00:01:${host.toString(16).padStart(2, '0')} type bridge forward_delay 0 mcast_snooping 0
tuntap add dev ${TAP} mode tap
link set ${TAP} master br0
link set uplink master br0
address add ${hostAddress(host)}/24 dev br0
link set ${TAP} up
link set uplink up
link set br0 up
`)
        list.push(namespace)
      }
      return new Topology(wire, users, list)
    } catch (error) {
      for (const namespace of made) namespace.end()
      throw error
    }
  }

  /** The processes that hold the namespaces. */
  get pids(): number[] {
    return [this.#wire, this.#users, ...this.#hosts].map(namespace => namespace.pid)
  }

  /** A command as it runs on a host (from 1 on). */
  onHost(host: number, ...command: string[]): string[] {
    return this.#hosts[host - 1]!.command(...command)
  }

  /** A command as it runs where the users are. */
  onUsers(...command: string[]): string[] {
    return this.#users.command(...command)
  }

  /** A command as it runs where the bridge is. */
  onWire(...command: string[]): string[] {
    return this.#wire.command(...command)
  }

  /**
   * Something that cuts a host's cable and then kills a process, prepared so that neither has to wait for a program
   * to start. Resolves when both are done.
   */
  silentKiller(host: number, pid: number): { kill: () => Promise<void>; cancel: () => void } {
    const [program, ...args] = this.onWire('sh', '-c', `read x && { ip link set host${host} down; kill -9 ${pid}; }`)
    const child = spawn(program!, args, { stdio: ['pipe', 'ignore', 'ignore'] })
    const done = new Promise<void>(resolve => child.once('close', () => resolve()))
    child.stdin.on('error', () => {})
    return {
      kill: () => {
        child.stdin.end('now\n')
        return done
      },
      cancel: () => child.kill('SIGKILL')
    }
  }

  /** Ends every namespace that no process of ours lives in any more. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const namespace of [this.#users, ...this.#hosts, this.#wire]) namespace.end()
  }
}

/** A process of the demo, with an IPC channel. */
export function fork(command: string[], options: SpawnOptions = {}): ChildProcess {
  const [program, ...args] = command
  return spawn(program!, args, { stdio: ['ignore', 2, 2, 'ipc'], serialization: 'advanced', ...options })
}
