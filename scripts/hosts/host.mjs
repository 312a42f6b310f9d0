// One host: a libvirtd in namespaces of its own, and what can happen to it.
import { randomUUID } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { lend } from './capabilities.mjs'
import { ToolError } from '../shared/error.mjs'
import { inNetwork, onHost } from '../shared/namespace.mjs'
import { ended, execute, identify, isAlive, must, processesBeside, signalIfAlive } from '../shared/process.mjs'

export const wireAddress = '10.0.0.254'
export const prefix = 16

const daemonConfiguration = uuid => `# libvirtd of one host
host_uuid = "${uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`

// Nothing that needs a user, a security module, cgroups or another daemon.
const qemuConfiguration = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
`

// libvirt does not start without the user that it would run QEMU as by default, though no QEMU of ours runs as it.
const qemuUser = {
  passwd: 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n',
  group: 'libvirt-qemu:x:64055:\n'
}

/** Writes the files of a host that is to be; its folder. */
export function prepareHost(instance, number, count) {
  const folder = path.join(instance, String(number))
  for (const name of ['run', 'etc', 'var/lib', 'var/log', 'var/cache'])
    mkdirSync(path.join(folder, name, 'libvirt'), { recursive: true })
  const etc = path.join(folder, 'etc')
  writeFileSync(path.join(etc, 'libvirt/libvirtd.conf'), daemonConfiguration(randomUUID()))
  writeFileSync(path.join(etc, 'libvirt/qemu.conf'), qemuConfiguration)
  const names = Array.from({ length: count }, (_, i) => `10.0.0.${i + 1} host${i + 1}\n`)
  for (const [name, line] of Object.entries(qemuUser)) {
    const machine = readFileSync(`/etc/${name}`, 'utf8')
    writeFileSync(path.join(etc, name), /^libvirt-qemu:/m.test(machine) ? machine : machine + line)
  }
  writeFileSync(path.join(etc, 'hosts'), `127.0.0.1 localhost\n${names.join('')}`)
  lend(folder)
  return folder
}

/** Connects a host to the bridge in the network namespace of `wire`. */
export async function plugIn(wire, init, number) {
  const ip = (pid, input) => must(inNetwork(pid, 'ip', '-batch', '-'), { input })
  await ip(
    wire.pid,
    `link add host${number} type veth peer name uplink netns ${init.pid}
link set host${number} master wire
link set host${number} up
`
  )
  // The bridge's address is its own, so that no guest that comes or goes changes it.
  await ip(
    init.pid,
    `link add br0 address 02:68:74:00:02:${number.toString(16).padStart(2, '0')} type bridge forward_delay 0 mcast_snooping 0
link set uplink master br0
address add 10.0.0.${number}/${prefix} dev br0
link set uplink up
link set br0 up
`
  )
}

export class Host {
  #wire
  #init
  #number

  /** @param init - the process 1 of the host, as identify() gives it */
  constructor(instance, number, wire, init) {
    this.#wire = wire
    this.#init = init
    this.#number = number
    this.name = `host${number}`
    this.address = `10.0.0.${number}`
    this.folder = path.join(instance, String(number))
    this.socket = path.join(this.folder, 'run/libvirt/libvirt-sock')
    this.uri = `qemu+unix:///system?socket=${this.socket}`
    this.adminUri = `libvirtd+unix:///system?socket=${path.join(this.folder, 'run/libvirt/libvirt-admin-sock')}`
    this.peerUri = `qemu+tcp://${this.name}/system`
    this.bridge = 'br0'
    this.log = path.join(this.folder, 'var/log/libvirt/libvirtd.log')
  }

  /** False when the whole host has crashed. */
  get alive() {
    return isAlive(this.#init)
  }

  get processes() {
    return this.alive ? processesBeside(this.#init.pid) : []
  }

  get pid() {
    try {
      const inner = Number(readFileSync(path.join(this.folder, 'run/libvirt/libvirtd.pid'), 'utf8'))
      return this.processes.find(found => found.inner === inner && found.name === 'libvirtd')?.pid
    } catch {
      return undefined
    }
  }

  qemuPid(domain) {
    const isIt = args => args[args.indexOf('-name') + 1]?.split(',')[0] === `guest=${domain}`
    return this.processes.find(({ name, args }) => name.startsWith('qemu-system') && isIt(args))?.pid
  }

  command(...command) {
    if (!this.alive) throw new ToolError(`${this.name} has crashed; start new hosts.`)
    return onHost(this.#init.pid, ...command)
  }

  exec(...command) {
    return execute(this.command(...command))
  }

  virsh(...args) {
    return this.#virsh(args)
  }

  #virsh(args, options) {
    const env = { ...process.env, LC_ALL: 'C' }
    return must(['virsh', '--quiet', '--connect', this.uri, ...args], { env, ...options })
  }

  async start() {
    if (this.pid !== undefined) return
    try {
      // It goes into the background when it has its sockets, and answers when its drivers are ready.
      const options = ['--daemon', '--listen', '--pid-file', '/run/libvirt/libvirtd.pid']
      await must(this.command('libvirtd', ...options), { timeout: 60_000 })
      await this.#askQemu()
    } catch (error) {
      const why = `${error.message}${this.#lastLog()}`
      throw new ToolError(`libvirtd of ${this.name} does not start: ${why}`, { cause: error })
    }
  }

  // Has libvirt ask QEMU what it can. On a busy machine QEMU 7.2 may wait for a second connection instead of answering
  // the first one, for ever (seen in one of some hundred starts): then that QEMU is ended and another one asked.
  async #askQemu() {
    for (let tries = 1; ; tries++) {
      try {
        await this.#virsh(['domcapabilities', '--virttype', 'qemu'], { timeout: 20_000 * tries })
        return
      } catch (error) {
        const asked = this.processes.filter(({ args }) => args.some(arg => /\/qmp\.monitor,/.test(arg)))
        if (asked.length === 0 || tries === 3) throw error
        for (const { pid } of asked)
          try {
            process.kill(pid, 'SIGKILL')
          } catch {
            // It has ended by itself.
          }
      }
    }
  }

  #lastLog() {
    try {
      return `\n${readFileSync(this.log, 'utf8').trim().split('\n').slice(-5).join('\n')}`
    } catch {
      return ''
    }
  }

  async kill(signal = 'SIGKILL') {
    const { pid } = this
    if (pid === undefined) return
    const daemon = identify(pid)
    signalIfAlive(daemon, signal)
    if (signal === 'SIGKILL' || signal === 'SIGTERM') await ended(daemon)
  }

  async restart(signal = 'SIGTERM') {
    await this.kill(signal)
    await this.start()
  }

  async crash() {
    signalIfAlive(this.#init, 'SIGKILL')
    await ended(this.#init)
  }

  async stopNetwork() {
    await must(inNetwork(this.#wire.pid, 'ip', 'link', 'set', this.name, 'down'))
  }

  async startNetwork() {
    await must(inNetwork(this.#wire.pid, 'ip', 'link', 'set', this.name, 'up'))
  }
}
