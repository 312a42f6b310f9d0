// One rig: a QEMU that emulates a machine with an AMD processor, and what can happen to it.
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { root } from '../support.mjs'
import { ToolError } from '../shared/error.mjs'
import { inMachineRoom, inNetwork } from '../shared/namespace.mjs'
import { ended, identify, isAlive, must, processesBeside, signalIfAlive } from '../shared/process.mjs'
import { portCount, startCommand } from './command.mjs'
import { rigImage } from './image.mjs'

const network = '10.77.0'

/** This machine's address on the network of the rigs. */
export const wireAddress = `${network}.254`
export const prefix = 24

/** The numbers of the processors on which this process may run. */
function processors() {
  const [, list] = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return list.split(',').flatMap(range => {
    const [first, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

export class Rig {
  #set
  #number
  #save

  /**
   * @param set - the record of all rigs: wire, rigs, memory (MiB), cpus
   * @param save - writes the record
   */
  constructor(set, folder, number, save) {
    this.#set = set
    this.#number = number
    this.#save = save
    this.name = `rig${number}`
    this.address = `${network}.${number}`
    this.folder = path.join(folder, String(number))
    this.consoleLog = path.join(this.folder, 'console.log')
  }

  get #record() {
    return this.#set.rigs[this.#number - 1]
  }

  get alive() {
    return isAlive(this.#record.qemu)
  }

  get pid() {
    return this.alive ? this.#record.qemu.pid : undefined
  }

  get console() {
    try {
      return readFileSync(this.consoleLog, 'latin1')
    } catch {
      return ''
    }
  }

  #socketOf = port => path.join(this.folder, String(port))

  /** Connects a tap to the bridge. */
  async plugIn() {
    await must(inNetwork(this.#set.wire.pid, 'ip', '-batch', '-'), {
      input: `tuntap add ${this.name} mode tap
link set ${this.name} master wire
link set ${this.name} up
`
    })
  }

  async #qemu() {
    const { kernel, initrd } = await rigImage()
    const { memory, cpus, rigs } = this.#set
    const names = rigs.map((_, i) => `${network}.${i + 1}=rig${i + 1}`)
    const words = [
      'console=ttyS0 quiet panic=-1 mitigations=off no_timer_check',
      `rig.name=${this.name}`,
      `rig.address=${this.address}/${prefix}`,
      `rig.hosts=${names.join(',')}`,
      `rig.key=${this.#record.key}`
    ]
    // Several fight for the same processors otherwise, since each one's threads wake each other.
    const allowed = processors()
    const pinned = rigs.length > 1 && cpus === 1
    const pin = pinned ? ['taskset', '-c', String(allowed[(this.#number - 1) % allowed.length])] : []
    const share = (tag, folder) => [
      ...['-fsdev', `local,id=${tag},path=${folder.replaceAll(',', ',,')},security_model=none,readonly=on,multidevs=remap`],
      ...['-device', `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`]
    ]
    const ports = Array.from({ length: portCount }, (_, i) => i + 1).flatMap(port => [
      ...['-chardev', `socket,id=port${port},path=${this.#socketOf(port)},server=on,wait=off`],
      ...['-device', `virtserialport,chardev=port${port},nr=${port}`]
    ])
    return [
      ...pin,
      ...['qemu-system-x86_64', '-name', this.name, '-nodefaults', '-no-user-config', '-display', 'none'],
      ...['-machine', 'q35', '-accel', 'tcg,thread=multi,tb-size=256', '-cpu', 'max,+svm,+npt'],
      ...['-smp', String(cpus), '-m', String(memory), '-no-reboot'],
      ...['-kernel', kernel, '-initrd', initrd, '-append', words.join(' ')],
      ...['-fw_cfg', `name=opt/rig/checkout,string=${root.replaceAll(',', ',,')}`],
      ...['-serial', `file:${this.consoleLog}`],
      ...share('root', '/'),
      ...share('checkout', root),
      ...['-device', 'virtio-rng-pci'],
      ...['-netdev', `tap,id=net,ifname=${this.name},script=no,downscript=no`],
      ...['-device', `virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:77:${this.#number.toString(16).padStart(2, '0')}`],
      ...['-device', `virtio-serial-pci,max_ports=${portCount + 1}`],
      ...ports,
      ...['-daemonize', '-pidfile', path.join(this.folder, 'pid')]
    ]
  }

  async start({ timeout = 180_000 } = {}) {
    if (this.alive) return
    rmSync(this.folder, { recursive: true, force: true })
    mkdirSync(this.folder, { recursive: true })
    this.#record.key = randomBytes(16).toString('hex')
    try {
      await must(inMachineRoom(this.#set.wire.pid, ...(await this.#qemu())), { timeout: 60_000 })
    } catch (error) {
      throw new ToolError(`${this.name} does not start: ${error.message}`, { cause: error })
    }
    const inner = Number(readFileSync(path.join(this.folder, 'pid'), 'utf8'))
    const found = processesBeside(this.#set.wire.pid).find(process => process.inner === inner)
    if (!found) throw new ToolError(`${this.name} has ended at once: ${this.#lastWords()}`)
    this.#record.qemu = identify(found.pid)
    this.#save()
    const timer = setTimeout(() => void this.kill(), timeout)
    try {
      await this.exec(['true'])
    } catch (error) {
      throw new ToolError(`${this.name} has not booted: ${this.#lastWords()}`, { cause: error })
    } finally {
      clearTimeout(timer)
    }
  }

  #lastWords() {
    return `its console (${this.consoleLog}) ends:\n${this.console.trim().split('\n').slice(-8).join('\n')}`
  }

  spawn(words, { cwd = root, env = process.env } = {}) {
    const [program] = words
    if (program === undefined) throw new ToolError('Which command?')
    if (!this.alive) throw new ToolError(`${this.name} is not running.`)
    const rig = {
      name: this.name,
      lock: `${this.#set.id}-${this.name}`,
      key: Buffer.from(this.#record.key, 'hex'),
      socketOf: this.#socketOf,
      whyGone: () => `${this.name} has ended while ${program} ran in it.`
    }
    return startCommand(rig, words, { cwd, env })
  }

  async exec(words, { input = '', timeout, ...options } = {}) {
    const command = await this.spawn(words, options)
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'])
      command[name].setEncoding('utf8').on('data', text => (output[name] += text))
    const drained = ['stdout', 'stderr'].map(name => new Promise(resolve => command[name].once('end', resolve)))
    const timer = timeout && setTimeout(() => command.kill('SIGKILL'), timeout)
    command.stdin.end(input)
    try {
      const result = await command.ended
      await Promise.all(drained)
      return { ...result, ...output }
    } finally {
      clearTimeout(timer)
    }
  }

  async kill(signal = 'SIGKILL') {
    const { qemu } = this.#record
    signalIfAlive(qemu, signal)
    if (signal === 'SIGKILL' || signal === 'SIGTERM') await ended(qemu)
  }

  async stopNetwork() {
    await must(inNetwork(this.#set.wire.pid, 'ip', 'link', 'set', this.name, 'down'))
  }

  async startNetwork() {
    await must(inNetwork(this.#set.wire.pid, 'ip', 'link', 'set', this.name, 'up'))
  }
}
