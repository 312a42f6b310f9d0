// What a machine's state looks like from outside, for the layers that have machines.
import { regsLayout, sregsLayout, type Regs, type Sregs } from './kvm/structs.js'

/**
 * The digests of all that a machine is, at one boundary: 32 hexadecimal digits each. Equal digests: equal
 * states. They find accidents, not forgeries (XXH3, 128 bits).
 *
 * @since 0.1.0
 */
export interface StateDigest {
  /** How many boundaries (exits that the guest's own instructions caused) came before. */
  boundary: bigint
  /** Registers, MSRs, FPU and pending events. The time-stamp counter is left out. */
  vcpu: string
  /** All devices of the board. */
  devices: string
  /** Guest RAM. */
  memory: string
  /** Of the three. */
  combined: string
}

/**
 * The registers of a machine's vCPU.
 *
 * @since 0.1.0
 */
export interface Registers {
  /** General registers: `struct kvm_regs`. */
  regs: Regs
  /** Segments, tables and control registers: `struct kvm_sregs`. */
  sregs: Sregs
}

/** @internal */
export interface NativeRegisters {
  regs: Uint8Array
  sregs: Uint8Array
}

/** @internal */
export function decodeRegisters(native: NativeRegisters): Registers {
  return { regs: regsLayout.decode(native.regs), sregs: sregsLayout.decode(native.sregs) }
}

/**
 * Guest physical RAM of a machine, to look at.
 *
 * @since 0.1.0
 */
export interface MemoryView {
  /** Bytes; RAM begins at address 0. */
  readonly size: number
  /**
   * A copy of guest physical memory. The machine may run meanwhile.
   *
   * @param address - guest physical
   * @param length - bytes
   * @throws `ERANGE` when not all of it is RAM
   */
  read(address: bigint, length: number): Buffer
}

/**
 * Under this key a machine keeps its native handle, for the layers that attach to it (`hypertwin/dirty`,
 * `hypertwin/eventlog`).
 *
 * @internal
 */
export const nativeHandle: unique symbol = Symbol('hypertwin.nativeHandle')
