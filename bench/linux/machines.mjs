// The two sides of the Linux benchmark as one interface: a guest in a machine of ours, or in QEMU's microvm.
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { Machine } from '../../dist/machine/index.js'

const counters = '/sys/kernel/debug/kvm'

/** The one with which microvm starts soonest. */
export const firmware = '/usr/share/qemu/qboot.rom'

/** What a guest says on its console, a line or a mark at a time. */
class Console {
  #text = ''
  #waiting

  take = text => {
    this.#text += text
    this.#look()
  }

  end = why => {
    this.ended ??= why
    this.#look()
  }

  /** What is there is not waited for any more. */
  forget() {
    this.#text = ''
  }

  #look() {
    const { mark, resolve, reject } = this.#waiting ?? {}
    if (!mark) return
    const at = this.#text.indexOf(mark)
    if (at >= 0) {
      const before = this.#text.slice(0, at)
      this.#text = this.#text.slice(at + mark.length)
      this.#waiting = undefined
      resolve(before)
    } else if (this.ended) {
      this.#waiting = undefined
      reject(new Error(`${this.ended}; its console ends: ${this.#text.slice(-500)}`))
    }
  }

  /** Resolves with what comes before the mark. */
  until(mark, seconds = 120) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.end(`nothing for ${seconds} s`), seconds * 1000)
      const settle = then => value => {
        clearTimeout(timer)
        then(value)
      }
      this.#waiting = { mark, resolve: settle(resolve), reject: settle(reject) }
      this.#look()
    })
  }
}

/** How many KiB of a process's memory are its own, but for the guest's RAM. */
export function overheadOf(pid, ram) {
  let total = 0
  let counts = true
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    const mapping = /^([\da-f]+)-([\da-f]+) /.exec(line)
    if (mapping) counts = parseInt(mapping[2], 16) - parseInt(mapping[1], 16) !== ram && !line.includes('kvm-vcpu')
    else if (counts && line.startsWith('Pss:')) total += Number(/\d+/.exec(line)[0])
  }
  return total
}

class Guest {
  console = new Console()

  /** How often this guest has left, and how often for user space, as KVM counts it. */
  counts() {
    const read = name => Number(readFileSync(path.join(counters, this.counters(), name), 'latin1'))
    return { exits: read('exits'), user: read('io_exits') + read('mmio_exits') + read('signal_exits') }
  }

  /** Has the agent do something; resolves with {operations, bytes, seconds}, and exits while it lasted. */
  async command(text) {
    const before = this.counts()
    this.type(`${text}\n`)
    const line = await this.console.until('\n')
    const after = this.counts()
    const [word, operations, bytes, nanoseconds] = line.trim().split(' ')
    if (word !== 'done') throw new Error(`${this.constructor.name}: ${text}: ${line}`)
    return {
      operations: Number(operations),
      bytes: Number(bytes),
      seconds: Number(nanoseconds) / 1e9,
      exits: after.exits - before.exits,
      user: after.user - before.user
    }
  }
}

const agentWords = address => `console=ttyS0 quiet rdinit=/agent${address ? ` address=${address}` : ''}`

export class Ours extends Guest {
  #machine
  #counters

  async #follow(machine) {
    this.#machine = machine
    void (async () => {
      for await (const text of machine.console.output()) this.console.take(text)
      this.console.end(`the machine is ${machine.state}: ${machine.message}`)
    })()
  }

  async boot({ kernel, initrd, memory, disk, tap, address, vhost = false }) {
    const before = new Set(readdirSync(counters))
    await this.#follow(
      await Machine.create({
        board: 'standard',
        kernel,
        initrd,
        memory,
        commandLine: agentWords(address),
        disks: disk ? [{ path: disk }] : [],
        nets: tap ? [{ backend: { tap, vhost } }] : []
      })
    )
    // Its name begins with the number of the thread that made it.
    this.#counters = readdirSync(counters).find(name => name.includes('-') && !before.has(name))
    await this.#machine.start()
  }

  counters() {
    return this.#counters
  }

  type(text) {
    if (!this.#machine.console.write(text)) throw new Error('the console is full')
  }

  async save(folder) {
    await this.#machine.pause()
    await this.#machine.snapshot(path.join(folder, 'ours.snapshot'))
  }

  /** From nothing to a machine that runs. */
  async restore(folder) {
    const machine = await Machine.restore(path.join(folder, 'ours.snapshot'))
    await this.#follow(machine)
    await machine.resume()
  }

  async end() {
    await this.#machine?.close()
  }
}

export class Qemu extends Guest {
  #process
  #monitor = new Console()
  #negotiated = false

  async boot({ kernel, initrd, memory, disk, tap, address, vhost, state, load }) {
    const args = [
      ...['-accel', 'kvm', '-cpu', 'host,-kvm-asyncpf-int', '-M', 'microvm,acpi=on,pcie=on,pit=off,pic=off'],
      ...['-bios', firmware, '-m', `${memory / 2 ** 20}M`],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
      ...['-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control', '-device', 'virtio-rng-pci'],
      ...['-kernel', kernel, '-initrd', initrd, '-append', agentWords(address)],
      ...(disk ? ['-drive', `if=none,id=disk,format=raw,file=${disk}`, '-device', 'virtio-blk-pci,drive=disk'] : []),
      ...(tap
        ? [
            ...['-netdev', `tap,id=net,ifname=${tap},script=no,downscript=no,vhost=${vhost ? 'on' : 'off'}`],
            ...['-device', 'virtio-net-pci,netdev=net,romfile=']
          ]
        : []),
      ...(state ? ['-drive', `if=none,id=state,format=qcow2,file=${state}`] : []),
      ...(load ? ['-loadvm', load] : [])
    ]
    this.#process = spawn('qemu-system-x86_64', args, { stdio: ['pipe', 'pipe', 'inherit', 'pipe'] })
    this.#process.stdout.setEncoding('latin1').on('data', this.console.take)
    this.#process.stdin.on('error', () => {})
    const monitor = this.#process.stdio[3]
    monitor.setEncoding('latin1').on('data', this.#monitor.take)
    monitor.on('error', () => {})
    this.#process.once('error', error => this.console.end(error.message))
    this.ended = new Promise(resolve =>
      this.#process.once('close', code => {
        this.console.end(`QEMU has ended with ${code}`)
        this.#monitor.end('QEMU has ended')
        resolve()
      })
    )
  }

  counters() {
    return readdirSync(counters).find(name => name.startsWith(`${this.pid}-`))
  }

  get pid() {
    return this.#process.pid
  }

  type(text) {
    this.#process.stdin.write(text)
  }

  /** A command to the monitor as a person types it. */
  async monitor(text) {
    if (!this.#negotiated) await this.#execute('qmp_capabilities')
    this.#negotiated = true
    const said = await this.#execute('human-monitor-command', { 'command-line': text })
    if (said) throw new Error(`QEMU: ${text}: ${said}`)
  }

  async #execute(execute, words = {}) {
    this.#process.stdio[3].write(JSON.stringify({ execute, arguments: words }))
    for (;;) {
      const answer = JSON.parse(await this.#monitor.until('\n'))
      if (answer.error) throw new Error(`QEMU: ${answer.error.desc}`)
      if ('return' in answer) return answer.return
    }
  }

  async end() {
    this.#process?.kill('SIGKILL')
    await this.ended
  }
}
