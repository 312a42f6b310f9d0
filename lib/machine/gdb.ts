// GDB's remote serial protocol: gdb attaches to a machine (`target remote`). What it sends is hostile input.
import { createServer, type Server, type Socket } from 'node:net'
import type { Regs } from '../kvm/structs.js'
import { Debugger, type DebugStop } from './debugger.js'
import { MachineError, invalid } from './errors.js'
import type { Machine } from './machine.js'

const general = [
  'rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rbp', 'rsp',
  'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15', 'rip'
] as const // prettier-ignore
const segments = ['cs', 'ss', 'ds', 'es', 'fs', 'gs'] as const
const x87 = ['fctrl', 'fstat', 'ftag', 'fiseg', 'fioff', 'foseg', 'fooff', 'fop']

// The registers in the order of their numbers, so that gdb knows the processor without a file of its symbols.
const description = `<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">
<target><architecture>i386:x86-64</architecture><feature name="org.gnu.gdb.i386.core">
${general.map(name => `<reg name="${name}" bitsize="64" type="${name === 'rip' ? 'code_ptr' : name === 'rsp' || name === 'rbp' ? 'data_ptr' : 'int64'}"/>`).join('\n')}
<reg name="eflags" bitsize="32" type="int32"/>
${segments.map(name => `<reg name="${name}" bitsize="32" type="int32"/>`).join('\n')}
${Array.from({ length: 8 }, (_, i) => `<reg name="st${i}" bitsize="80" type="i387_ext"/>`).join('\n')}
${x87.map(name => `<reg name="${name}" bitsize="32" type="int" group="float"/>`).join('\n')}
</feature></target>`

const longestPacket = 1 << 16
const sigInt = 2
const sigTrap = 5

const eflagsNumber = general.length
const generalBytes = general.length * 8
const eflagsAndSegments = 4 + segments.length * 4

/**
 * A GDB server for one machine; one gdb at a time.
 *
 * @example
 * ```ts
 * await using server = await GdbServer.listen(machine, { port: 1234 })
 * // $ gdb vmlinux -ex 'target remote :1234'
 * ```
 *
 * @since 0.1.0
 */
export class GdbServer implements AsyncDisposable {
  readonly #server: Server
  readonly #machine: Machine
  #session: Session | undefined

  private constructor(machine: Machine, server: Server) {
    this.#machine = machine
    this.#server = server
    server.on('connection', socket => this.#connected(socket))
  }

  /**
   * Listens for gdb. The machine goes on until one attaches, which pauses it; when gdb detaches, or its connection breaks,
   * the machine goes on. Anybody who can connect controls the machine: choose an address that others cannot reach.
   *
   * @param address - `port` (0: any that is free) on `host` (default 127.0.0.1), or the `path` of a UNIX socket
   * @throws MachineError with the errno of what failed (`EADDRINUSE`)
   */
  static async listen(
    machine: Machine,
    address: { port: number; host?: string } | { path: string }
  ): Promise<GdbServer> {
    if (typeof address !== 'object' || (!('port' in address) && !('path' in address)))
      throw invalid('an address must be { port, host } or { path }')
    const server = createServer()
    const made = new GdbServer(machine, server)
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) =>
        reject(new MachineError(`the GDB server cannot listen: ${error.message}`, { code: error.code ?? 'EIO', cause: error }))
      )
      server.listen('path' in address ? address.path : { port: address.port, host: address.host ?? '127.0.0.1' }, resolve)
    })
    return made
  }

  /** Where it listens: `host:port`, or the path. */
  get address(): string {
    const address = this.#server.address()
    return typeof address === 'object' && address !== null ? `${address.address}:${address.port}` : String(address)
  }

  /** Whether a gdb is attached. */
  get attached(): boolean {
    return this.#session !== undefined
  }

  #connected(socket: Socket): void {
    socket.on('error', () => undefined) // 'close' follows
    if (this.#session) {
      socket.destroy()
      return
    }
    const session = new Session(this.#machine, socket)
    this.#session = session
    void session.done.finally(() => {
      if (this.#session === session) this.#session = undefined
    })
  }

  /** Detaches gdb and stops listening. */
  async close(): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()))
    this.#session?.end()
    await this.#session?.done
    await closed
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Of a packet's body, as two digits. */
const checksum = (body: string): string =>
  (Buffer.from(body, 'latin1').reduce((sum, byte) => sum + byte, 0) & 0xff).toString(16).padStart(2, '0')
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const little = (value: bigint, size: number): string => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt.asUintN(64, value))
  return hex(bytes.subarray(0, size))
}
const number = (text: string): bigint => {
  if (!/^[0-9a-f]{1,16}$/i.test(text)) throw new Refused()
  return BigInt(`0x${text}`)
}
const bytesOf = (text: string): Buffer => {
  if (!/^([0-9a-f]{2})*$/i.test(text)) throw new Refused()
  return Buffer.from(text, 'hex')
}

/** Answered by an error; gdb goes on. */
class Refused extends Error {}

/** One gdb. */
class Session {
  readonly done: Promise<void>
  readonly #machine: Machine
  readonly #socket: Socket
  #debugger: Debugger | undefined
  #input = ''
  #acknowledge = true
  #thread = 0 // whose registers are meant
  #stop: DebugStop = { why: 'paused', vcpu: 0 }
  #running: AbortController | undefined
  #work: Promise<void>
  #resume = true

  constructor(machine: Machine, socket: Socket) {
    this.#machine = machine
    this.#socket = socket
    socket.setNoDelay(true)
    this.#work = (async () => {
      try {
        this.#debugger = await Debugger.attach(machine)
      } catch {
        socket.destroy()
      }
    })()
    socket.on('data', data => this.#received(data.toString('latin1')))
    this.done = new Promise(resolve => {
      socket.on('close', () => {
        this.#running?.abort()
        void this.#work.then(() => this.#detach()).finally(resolve)
      })
    })
  }

  /** What is under way is answered still. */
  end(): void {
    this.#running?.abort()
    void this.#work.then(() => this.#socket.end())
    // gdb may not close its side.
    setTimeout(() => this.#socket.destroy(), 1000).unref()
  }

  async #detach(): Promise<void> {
    const attached = this.#debugger
    this.#debugger = undefined
    try {
      await attached?.close()
      if (attached && this.#resume && this.#machine.state === 'paused') await this.#machine.resume()
    } catch {
      // The machine has ended.
    }
  }

  #received(text: string): void {
    this.#input += text
    for (;;) {
      // Acknowledgements, and what is between packets.
      this.#input = this.#input.replace(/^[+-]+/, '')
      if (this.#input.startsWith('\x03')) {
        this.#input = this.#input.slice(1)
        this.#running?.abort()
        continue
      }
      const packet = /^\$([^#]*)#([0-9a-f]{2})/i.exec(this.#input)
      if (!packet) break
      this.#input = this.#input.slice(packet[0].length)
      const [, body = '', sum = ''] = packet
      if (checksum(body) !== sum.toLowerCase()) {
        if (this.#acknowledge) this.#socket.write('-')
        continue
      }
      if (this.#acknowledge) this.#socket.write('+')
      this.#work = this.#work.then(() => this.#serve(body))
    }
    if (this.#input.length > longestPacket || (this.#input !== '' && !/^[$\x03+-]/.test(this.#input))) this.#socket.destroy()
  }

  #send(body: string): void {
    if (!this.#socket.destroyed) this.#socket.write(`$${body}#${checksum(body)}`)
  }

  async #serve(body: string): Promise<void> {
    if (this.#socket.destroyed) return
    try {
      const answer = await this.#answer(body)
      if (answer !== undefined) this.#send(answer)
    } catch {
      this.#send('E01')
    }
  }

  async #answer(body: string): Promise<string | undefined> {
    const debug = this.#debugger
    if (!debug) throw new Refused()
    const rest = body.slice(1)
    switch (body[0]) {
      case '?':
        return this.#stopReply()
      case 'g':
        return this.#allRegisters(debug)
      case 'G':
        return this.#setAll(debug, bytesOf(rest))
      case 'p':
        return this.#oneRegister(debug, Number(number(rest)))
      case 'P': {
        const [which = '', value = ''] = rest.split('=')
        return this.#setOne(debug, Number(number(which)), bytesOf(value))
      }
      case 'm': {
        const [address = '', length = ''] = rest.split(',')
        const size = number(length)
        if (size > 16384n) throw new Refused()
        return hex(await debug.read(number(address), Number(size), this.#thread))
      }
      case 'M': {
        const [where = '', data = ''] = rest.split(':')
        const [address = '', length = ''] = where.split(',')
        const bytes = bytesOf(data)
        if (BigInt(bytes.length) !== number(length)) throw new Refused()
        await debug.write(number(address), bytes, this.#thread)
        return 'OK'
      }
      case 'c':
      case 's':
        if (rest !== '') await debug.setRegisters({ rip: number(rest) }, this.#thread)
        return this.#go(debug, body[0] === 's' ? this.#thread : undefined)
      case 'H':
        return this.#chooseThread(rest.slice(1))
      case 'T':
        if (number(rest) < 1n || number(rest) > BigInt(this.#machine.vcpus)) throw new Refused()
        return 'OK'
      case 'Z':
      case 'z': {
        const [type, address = ''] = rest.split(',')
        if (type !== '0') return '' // hardware breakpoints: none
        if (body[0] === 'Z') await debug.setBreakpoint(number(address), { vcpu: this.#thread })
        else debug.clearBreakpoint(number(address))
        return 'OK'
      }
      case 'D':
        this.#send('OK')
        this.#socket.end()
        return undefined
      case 'k':
        this.#resume = false
        await this.#machine.stop()
        this.#socket.end()
        return undefined
      case 'v':
        return this.#verbose(debug, body)
      case 'q':
      case 'Q':
        return this.#query(body)
      default:
        return ''
    }
  }

  async #verbose(debug: Debugger, body: string): Promise<string | undefined> {
    if (body === 'vCont?') return 'vCont;c;C;s;S'
    if (!body.startsWith('vCont;')) return ''
    // The first action that names a step is it; else all go on.
    for (const action of body.slice(6).split(';')) {
      const step = /^[sS](?:[0-9a-f]{2})?(?::(?:p[0-9a-f]+\.)?([0-9a-f]+))?$/i.exec(action)
      if (step) return this.#go(debug, step[1] === undefined ? this.#thread : Math.max(0, Number(number(step[1])) - 1))
    }
    return this.#go(debug, undefined)
  }

  #query(body: string): string {
    if (body.startsWith('qSupported'))
      return 'PacketSize=8000;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+'
    if (body === 'QStartNoAckMode') {
      // This answer is acknowledged still.
      setImmediate(() => (this.#acknowledge = false))
      return 'OK'
    }
    if (body === 'qAttached') return '1'
    if (body === 'qC') return `QC${(this.#thread + 1).toString(16)}`
    if (body === 'qfThreadInfo')
      return `m${Array.from({ length: this.#machine.vcpus }, (_, i) => (i + 1).toString(16)).join(',')}`
    if (body === 'qsThreadInfo') return 'l'
    if (body.startsWith('qThreadExtraInfo,'))
      return hex(Buffer.from(`vCPU ${Number(number(body.slice(17))) - 1}`))
    const part = /^qXfer:features:read:target\.xml:([0-9a-f]+),([0-9a-f]+)$/i.exec(body)
    if (part) {
      const from = Number(number(part[1] ?? ''))
      const piece = description.slice(from, from + Math.min(Number(number(part[2] ?? '')), 16384))
      return `${from + piece.length < description.length ? 'm' : 'l'}${piece}`
    }
    return ''
  }

  #chooseThread(text: string): string {
    if (text === '-1' || text === '0') return 'OK'
    const thread = number(text)
    if (thread < 1n || thread > BigInt(this.#machine.vcpus)) throw new Refused()
    this.#thread = Number(thread) - 1
    return 'OK'
  }

  /** Runs, or steps one vCPU; answers when the guest stands still again. */
  async #go(debug: Debugger, step: number | undefined): Promise<string> {
    const running = new AbortController()
    this.#running = running
    try {
      this.#stop = step === undefined ? await debug.run({ signal: running.signal }) : await debug.step(step)
    } finally {
      this.#running = undefined
    }
    this.#thread = this.#stop.vcpu
    return this.#stopReply()
  }

  #stopReply(): string {
    const { why, vcpu } = this.#stop
    if (why === 'ended') return this.#machine.state === 'failed' ? 'X06' : 'W00'
    const signal = (why === 'paused' ? sigInt : sigTrap).toString(16).padStart(2, '0')
    return `T${signal}thread:${(vcpu + 1).toString(16)};${why === 'breakpoint' ? 'swbreak:;' : ''}`
  }

  async #allRegisters(debug: Debugger): Promise<string> {
    const { regs, sregs } = await debug.registers(this.#thread)
    return (
      general.map(name => little(regs[name], 8)).join('') +
      little(regs.rflags, 4) +
      segments.map(name => little(BigInt(sregs[name].selector), 4)).join('') +
      'x'.repeat(2 * (8 * 10 + x87.length * 4))
    )
  }

  async #oneRegister(debug: Debugger, which: number): Promise<string> {
    const { regs, sregs } = await debug.registers(this.#thread)
    const name = general[which]
    if (name) return little(regs[name], 8)
    if (which === eflagsNumber) return little(regs.rflags, 4)
    const segment = segments[which - eflagsNumber - 1]
    if (segment) return little(BigInt(sregs[segment].selector), 4)
    return 'x'.repeat(which < eflagsNumber + 1 + segments.length + 8 ? 20 : 8)
  }

  async #setOne(debug: Debugger, which: number, value: Buffer): Promise<string> {
    const name = general[which]
    if (name && value.length === 8) await debug.setRegisters({ [name]: value.readBigUInt64LE() }, this.#thread)
    else if (which === eflagsNumber && value.length === 4)
      await debug.setRegisters({ rflags: BigInt(value.readUInt32LE()) }, this.#thread)
    else throw new Refused() // segments are the guest's
    return 'OK'
  }

  async #setAll(debug: Debugger, bytes: Buffer): Promise<string> {
    if (bytes.length < generalBytes + eflagsAndSegments) throw new Refused()
    const changes: Partial<Regs> = { rflags: BigInt(bytes.readUInt32LE(generalBytes)) }
    general.forEach((name, i) => (changes[name] = bytes.readBigUInt64LE(8 * i)))
    await debug.setRegisters(changes, this.#thread)
    return 'OK'
  }
}
