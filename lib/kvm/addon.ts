// The addon's KVM part, as this layer uses it.
import { native } from '../native.js'

/** @internal */
export interface NativeMemory {
  read(offset: bigint | number, into: Uint8Array): Uint8Array
  write(offset: bigint | number, from: Uint8Array): void
  window(offset: bigint | number, length: bigint | number): ArrayBuffer
  fd(): number
  close(): Promise<void>
}

/** @internal */
export interface NativeExitHandler {
  hits(): bigint
  read(offset: bigint | number, into: Uint8Array): Uint8Array
  write(offset: bigint | number, from: Uint8Array): void
}

/** @internal */
export interface NativeRun {
  /** 0 exit, 1 interrupted, 2 not runnable. */
  result: number
  page: Uint8Array
  data: Uint8Array
}

/** @internal */
export interface NativeVcpu {
  invoke(op: string, ...args: unknown[]): Promise<unknown>
  run(): Promise<NativeRun>
  kick(): void
  handled(): bigint
  fd(): number
  close(): Promise<void>
}

/** @internal */
export interface NativeVm {
  fd(): number
  invoke(op: string, ...args: unknown[]): Promise<unknown>
  setRegion(
    slot: number,
    guestAddress: bigint | number,
    size: bigint,
    memory: NativeMemory,
    offset: bigint,
    flags: number
  ): Promise<void>
  createVcpu(id: number): Promise<NativeVcpu>
  harvest(vcpu: NativeVcpu): Promise<Uint8Array>
  dirtyTarget(): object
  addHandler(mmio: boolean, address: bigint | number, length: number, action: number, value: bigint): NativeExitHandler
  removeHandler(handler: NativeExitHandler): void
  close(): Promise<void>
}

/** @internal */
export interface NativeSystem {
  invoke(op: string, ...args: unknown[]): Promise<unknown>
  createVm(type: bigint): Promise<NativeVm>
  fd(): number
  close(): Promise<void>
}

/** @internal */
export interface NativeEvent {
  fd(): number
  take(): bigint
  signal(count: bigint): void
  wait(): Promise<bigint>
  cancel(): void
  close(): Promise<void>
}

interface NativeKvm {
  open(path: string): Promise<NativeSystem>
  allocateMemory(size: bigint, memfd: boolean, hugePageSize: bigint, name: string): Promise<NativeMemory>
  memoryFromFd(fd: number, offset: bigint, size: bigint, privateCopy: boolean): Promise<NativeMemory>
  userfaultfdFeatures(): bigint
  Event: new () => NativeEvent
}

/** @internal */
export const nativeKvm: NativeKvm = (native as { kvm: NativeKvm }).kvm
