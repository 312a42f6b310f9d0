// The addon's machine part, as this layer uses it.
import { native } from '../native.js'
import type { StateDigest, NativeRegisters } from '../state.js'
import type { MachineBoard, NativeAdjust, NativeConfig, SnapshotInfo } from './options.js'

/** State, reason, message, boundary; console bytes and how many were lost before; marker; disk, link, URI, message. @internal */
export type NativeMachineEvent =
  | [type: 'state', state: string, reason: string, message: string, boundary: bigint]
  | [type: 'console', bytes: Uint8Array, dropped: number]
  | [type: 'marker', value: number]
  | [type: 'disk', disk: number, link: string, uri: string, message: string]

/** @internal */
export interface NativeMachine {
  start(): Promise<void>
  pause(): Promise<void>
  resume(): Promise<void>
  stop(): Promise<void>
  close(): Promise<void>
  snapshot(path: string, incremental: boolean, track: boolean): Promise<SnapshotInfo>
  stateDigest(): Promise<StateDigest>
  registers(vcpu: number): Promise<NativeRegisters>
  /** State, reason, message: also after close(). */
  status(): [state: string, reason: string, message: string]
  boundary(): bigint
  counters(): BigUint64Array
  config(): { board: MachineBoard; vcpus: number; memory: number; disks: { path: string; size: number; readOnly: boolean }[]; nets: { mac: Uint8Array; tap: string | undefined }[] }
  takeEvents(): NativeMachineEvent[]
  sendPackets(device: number, packets: Uint8Array[]): number
  /** Undefined when there is none. */
  takePackets(device: number): { bytes: Uint8Array; lengths: Uint32Array } | undefined
  droppedPackets(device: number): bigint
  kernelServes(device: number): boolean
  sendConsole(bytes: Uint8Array): boolean
  resizeConsole(columns: number, rows: number): void
  vcpuThreads(): number[]
  pressPowerButton(): boolean
  /** In pages of 4 KiB. */
  setBalloon(pages: number): void
  /** Pages wanted, pages given up, then statistics by virtio's tag. */
  balloon(): [target: number, actual: number, ...stats: (bigint | undefined)[]]
  setDebugging(on: boolean): Promise<void>
  /** At most so many instructions, until one at an address of `until` is next; how many were executed. */
  step(vcpu: number, most: number, until: BigUint64Array): Promise<number>
  /** Whether this host's KVM hands the guest's int3 over. */
  breakpointsExit(): Promise<boolean>
  /** `struct kvm_regs`. */
  setRegisters(vcpu: number, regs: Uint8Array): Promise<void>
  /** Undefined where it is not mapped. */
  translate(vcpu: number, linear: bigint): Promise<bigint | undefined>
  wantMemory(address: bigint, length: bigint): void
  memoryHere(address: bigint, length: bigint): boolean
  /** Pages, here, touched, waited in ns, longest in ns, complete. */
  paging(): BigUint64Array | undefined
  /** Page, when, how long, in ns; for each that was waited for. */
  touched(): BigUint64Array
  readMemory(address: bigint, into: Uint8Array): void
  writeMemory(address: bigint, from: Uint8Array): void
  /** Keeps the event loop alive. */
  hold(held: boolean): void
}

/** 0: events; n: packets of device n - 1. @internal */
export type Notify = (what: number) => void

interface NativeMachines {
  create(config: NativeConfig, notify: Notify): Promise<NativeMachine>
  restore(path: string, adjust: NativeAdjust, notify: Notify): Promise<NativeMachine>
}

/** @internal */
export const nativeMachines: NativeMachines = (native as { machine: NativeMachines }).machine
