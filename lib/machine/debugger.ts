// A machine under a debugger: breakpoints, single steps, registers, memory as a vCPU sees it.
import { regsLayout, type Regs } from '../kvm/structs.js'
import { nativeHandle, type Registers } from '../state.js'
import type { NativeMachine } from './addon.js'
import { MachineError, invalid, machineErrors } from './errors.js'
import { whole } from './options.js'
import type { Machine } from './machine.js'

const int3 = 0xcc
const page = 4096n
const turn = 2000 // instructions

/**
 * Why the guest stands still.
 *
 * @since 0.1.0
 */
export interface DebugStop {
  /** `'breakpoint'`: one of ours, or an int3 of the guest's own; `'step'`; `'paused'` by whomever; `'ended'`. */
  why: 'breakpoint' | 'step' | 'paused' | 'ended'
  /** The vCPU that came to it. */
  vcpu: number
}

/**
 * Debugs a machine's guest. Addresses are linear (virtual), as the vCPU's page tables map them now. Breakpoints are
 * int3 instructions in the guest's memory: who reads it by {@link Debugger.read} sees what was there before.
 *
 * Where the processor's virtualisation leaves int3 to the guest ({@link Debugger.stepping}), memory stays as it is, and
 * while there are breakpoints {@link Debugger.run} executes the guest instruction by instruction, its vCPUs in turns:
 * ten thousands of instructions a second, and without interrupts.
 *
 * A machine that is recorded or protected cannot be debugged; and one that is debugged cannot be recorded, protected,
 * migrated, snapshotted or debugged by another. Other users of the machine may pause and resume it meanwhile.
 *
 * @example
 * ```ts
 * await using debug = await Debugger.attach(machine)
 * await debug.setBreakpoint(0xffffffff81001234n)
 * const { vcpu } = await debug.run()
 * console.log((await debug.registers(vcpu)).regs.rip)
 * ```
 *
 * @since 0.1.0
 */
export class Debugger implements AsyncDisposable {
  readonly machine: Machine
  /** Breakpoints are found by single steps here. */
  readonly stepping: boolean
  readonly #native: NativeMachine
  /** Where their linear addresses lie. */
  readonly #breakpoints = new Map<bigint, bigint>()
  /** What was in memory where an int3 is now, by the physical address: several linear ones may be the same. */
  readonly #before = new Map<bigint, number>()
  /** The vCPU that was told last. */
  #told = 0
  #closing: Promise<void> | undefined

  private constructor(machine: Machine, native: NativeMachine, stepping: boolean) {
    this.machine = machine
    this.stepping = stepping
    this.#native = native
  }

  /**
   * Attaches to a machine, and pauses it when it runs.
   *
   * @throws MachineError `BAD_STATE` (it is recorded, protected or debugged already, or has ended), `CLOSED`
   */
  static async attach(machine: Machine): Promise<Debugger> {
    const native = machine[nativeHandle] as NativeMachine
    const stepping = !(await machineErrors(() => native.breakpointsExit()))
    // It is ours before it is paused: another debugger of it notices nothing.
    await machineErrors(() => native.setDebugging(true))
    try {
      if (machine.state === 'running') await machine.pause()
      if (machine.state !== 'paused' && machine.state !== 'created')
        throw new MachineError(`a machine that is ${machine.state} cannot be debugged`, { code: 'BAD_STATE' })
      return new Debugger(machine, native, stepping)
    } catch (error) {
      await machineErrors(() => native.setDebugging(false)).catch(() => undefined)
      throw error
    }
  }

  /** The addresses of the breakpoints. */
  get breakpoints(): bigint[] {
    return [...this.#breakpoints.keys()]
  }

  /**
   * Puts a breakpoint at the beginning of an instruction. One that is there already stays.
   *
   * @param options - `vcpu`: whose page tables map the address, default 0
   * @throws MachineError `ERANGE` when it is not mapped to RAM; `BAD_STATE` unless the machine stands still
   */
  async setBreakpoint(address: bigint, options: { vcpu?: number } = {}): Promise<void> {
    this.#atRest()
    if (this.#breakpoints.has(address)) return
    const physical = await this.#translate(address, options.vcpu ?? 0)
    await this.machine.bring(physical, 1)
    this.#atRest()
    this.#arm(physical)
    this.#breakpoints.set(address, physical)
  }

  /** Takes a breakpoint away; false when there is none. */
  clearBreakpoint(address: bigint): boolean {
    this.#atRest()
    const physical = this.#breakpoints.get(address)
    if (physical === undefined) return false
    if (![...this.#breakpoints].some(([other, where]) => other !== address && where === physical)) this.#disarm(physical)
    return this.#breakpoints.delete(address)
  }

  /** A vCPU's registers. */
  registers(vcpu = 0): Promise<Registers> {
    return this.machine.registers(vcpu)
  }

  /**
   * Sets general registers of a vCPU; those that are left out stay.
   *
   * @throws MachineError `BAD_STATE` unless the machine stands still
   */
  async setRegisters(changes: Partial<Regs>, vcpu = 0): Promise<void> {
    this.#atRest()
    const { regs } = await this.machine.registers(vcpu)
    const bytes = regsLayout.encode({ ...regs, ...changes })
    await machineErrors(() => this.#native.setRegisters(vcpu, bytes))
  }

  /**
   * Reads memory as a vCPU sees it, with breakpoints not shown.
   *
   * @throws MachineError `ERANGE` when not all of it is mapped to RAM
   */
  async read(address: bigint, length: number, vcpu = 0): Promise<Buffer> {
    whole(length, 0, 1 << 30, 'length')
    const into = Buffer.alloc(length)
    for (const { at, physical, size } of await this.#pieces(address, length, vcpu)) {
      const bytes = this.machine.memory.read(physical, size)
      for (const [where, byte] of this.#armedIn(physical, bytes)) bytes[where] = byte
      bytes.copy(into, at)
    }
    return into
  }

  /**
   * Writes memory as a vCPU sees it; breakpoints stay.
   *
   * @throws MachineError `ERANGE` when not all of it is mapped to RAM, and nothing is written
   */
  async write(address: bigint, data: Uint8Array, vcpu = 0): Promise<void> {
    this.#atRest()
    const bytes = Buffer.from(data)
    const pieces = await this.#pieces(address, bytes.length, vcpu)
    this.#atRest()
    // Throws, before anything is written, where there is no RAM.
    for (const piece of pieces.map(it => ({ ...it, there: this.machine.memory.read(it.physical, it.size) })))
      for (const [where] of this.#armedIn(piece.physical, piece.there)) {
        this.#before.set(piece.physical + BigInt(where), bytes[piece.at + where] ?? 0)
        bytes[piece.at + where] = int3
      }
    for (const { at, physical, size } of pieces) this.machine.memory.write(physical, bytes.subarray(at, at + size))
  }

  /**
   * Executes one instruction of a vCPU, also where a breakpoint is; the others stand still.
   *
   * @throws MachineError `BAD_STATE` unless the machine stands still
   */
  async step(vcpu = 0): Promise<DebugStop> {
    this.#atRest()
    const { regs } = await this.machine.registers(vcpu)
    // By whatever address the vCPU came to it.
    const here = this.#before.size > 0 ? await this.#translate(regs.rip, vcpu).catch(() => undefined) : undefined
    this.#atRest()
    this.#told = vcpu
    const armed = here !== undefined && this.#disarm(here)
    try {
      await machineErrors(() => this.#native.step(vcpu, 1, new BigUint64Array()))
    } finally {
      if (armed && [...this.#breakpoints.values()].includes(here)) this.#arm(here)
    }
    return { why: this.machine.state === 'paused' || this.machine.state === 'created' ? 'step' : 'ended', vcpu }
  }

  /**
   * Lets the guest run until it comes to a breakpoint, somebody pauses the machine, or it ends.
   *
   * @param options - `signal`: when it is aborted the machine is paused, and that is the result
   */
  async run(options: { signal?: AbortSignal } = {}): Promise<DebugStop> {
    this.#atRest()
    // Past the one that was told last. Another vCPU may have come to one at the same moment, and is told next.
    const { regs } = await this.machine.registers(this.#told)
    if (this.#breakpoints.has(regs.rip) || (!this.stepping && (await this.#isInt3(regs.rip)))) await this.step(this.#told)
    if (this.machine.state !== 'paused' && this.machine.state !== 'created') return { why: 'ended', vcpu: 0 }
    const stop = await (this.stepping && this.#breakpoints.size > 0 ? this.#runBySteps(options.signal) : this.#runFreely(options.signal))
    this.#told = stop.vcpu
    return stop
  }

  async #runFreely(signal: AbortSignal | undefined): Promise<DebugStop> {
    const pause = () => void this.machine.pause().catch(() => undefined)
    const events = this.machine.events()
    await (this.machine.state === 'created' ? this.machine.start() : this.machine.resume())
    if (signal?.aborted) pause()
    signal?.addEventListener('abort', pause, { once: true })
    try {
      let begun = false
      for await (const event of events) {
        if (event.type !== 'state') continue
        if (event.state === 'running') begun = true
        else if (event.state === 'stopped' || event.state === 'failed') return { why: 'ended', vcpu: 0 }
        else if (begun) {
          const vcpu = Number(/^vCPU (\d+)/.exec(event.message)?.[1] ?? 0)
          return { why: event.reason === 'breakpoint' ? 'breakpoint' : 'paused', vcpu }
        }
      }
      return { why: 'ended', vcpu: 0 }
    } finally {
      signal?.removeEventListener('abort', pause)
    }
  }

  /**
   * Takes all breakpoints away and lets go of the machine, which stays paused. Twice is fine; and when it rejects, it can
   * be tried again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#letGo().catch((error: unknown) => {
      this.#closing = undefined
      throw error
    })
    return this.#closing
  }

  async #letGo(): Promise<void> {
    if (this.machine.closed) return
    if (this.machine.state === 'running') await this.machine.pause().catch(() => undefined)
    for (const physical of [...this.#before.keys()]) this.#disarm(physical)
    this.#breakpoints.clear()
    await machineErrors(() => this.#native.setDebugging(false))
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Each vCPU in turns, until one comes to a breakpoint. */
  async #runBySteps(signal: AbortSignal | undefined): Promise<DebugStop> {
    const until = BigUint64Array.from(this.#breakpoints.keys())
    for (let vcpu = 0; vcpu < this.machine.vcpus; vcpu++)
      if (this.#breakpoints.has((await this.machine.registers(vcpu)).regs.rip)) return { why: 'breakpoint', vcpu }
    for (;;) {
      let executed = 0
      for (let vcpu = 0; vcpu < this.machine.vcpus; vcpu++) {
        executed += await machineErrors(() => this.#native.step(vcpu, turn, until))
        if (this.machine.state !== 'paused' && this.machine.state !== 'created') return { why: 'ended', vcpu }
        const { regs } = await this.machine.registers(vcpu)
        if (this.#breakpoints.has(regs.rip)) return { why: 'breakpoint', vcpu }
        if (signal?.aborted) return { why: 'paused', vcpu }
      }
      // All wait for an interrupt, which only time brings.
      if (executed === 0) {
        await (this.machine.state === 'created' ? this.machine.start() : this.machine.resume())
        await new Promise(resolve => setTimeout(resolve, 1))
        if (this.machine.state === 'running') await this.machine.pause().catch(() => undefined)
        if (this.machine.state !== 'paused') return { why: 'ended', vcpu: 0 }
      }
    }
  }

  /** Whether the guest has an int3 of its own there. */
  async #isInt3(address: bigint): Promise<boolean> {
    try {
      const physical = await this.#translate(address, this.#told)
      await this.machine.bring(physical, 1)
      return this.machine.memory.read(physical, 1)[0] === int3
    } catch {
      return false
    }
  }

  #arm(physical: bigint): void {
    // Throws where there is no RAM.
    const [byte = 0] = this.machine.memory.read(physical, 1)
    if (this.stepping || (byte === int3 && this.#before.has(physical))) return
    this.machine.memory.write(physical, Uint8Array.of(int3))
    this.#before.set(physical, byte)
  }

  /** False where it was none of ours any more: what the guest has put there since stays. */
  #disarm(physical: bigint): boolean {
    const byte = this.#before.get(physical)
    if (byte === undefined) return false
    const armed = this.machine.memory.read(physical, 1)[0] === int3
    if (armed) this.machine.memory.write(physical, Uint8Array.of(byte))
    this.#before.delete(physical)
    return armed
  }

  /** The places in these bytes of memory where an int3 of ours is, and what was there before. */
  #armedIn(physical: bigint, bytes: Uint8Array): [number, number][] {
    return [...this.#before]
      .map(([where, byte]): [number, number] => [Number(where - physical), byte])
      .filter(([at]) => bytes[at] === int3)
  }

  #atRest(): void {
    if (this.#closing) throw new MachineError('the debugger is closed', { code: 'CLOSED' })
    if (this.machine.state !== 'paused' && this.machine.state !== 'created')
      throw new MachineError(`the machine is ${this.machine.state}: a debugger works on one that is paused`, {
        code: 'BAD_STATE'
      })
  }

  async #translate(address: bigint, vcpu: number): Promise<bigint> {
    if (typeof address !== 'bigint' || address < 0n || address >= 1n << 64n)
      throw invalid('an address must be a bigint of 64 bits')
    const physical = await machineErrors(() => this.#native.translate(vcpu, address))
    if (physical === undefined)
      throw new MachineError(`address 0x${address.toString(16)} is not mapped on vCPU ${vcpu}`, { code: 'ERANGE' })
    return physical
  }

  async #pieces(address: bigint, length: number, vcpu: number): Promise<{ at: number; physical: bigint; size: number }[]> {
    const pieces = []
    for (let at = 0; at < length; ) {
      const linear = address + BigInt(at)
      const size = Math.min(length - at, Number(page - (linear % page)))
      const physical = await this.#translate(linear, vcpu)
      await this.machine.bring(physical, size)
      pieces.push({ at, physical, size })
      at += size
    }
    return pieces
  }
}
