// The door of hypertwin/machine: a virtual machine on KVM, built from parts.
export { MachineBuilder } from './builder.js'
export { Console } from './console.js'
export { Debugger, type DebugStop } from './debugger.js'
export { MachineError } from './errors.js'
export { GdbServer } from './gdb.js'
export {
  Machine,
  type BalloonState,
  type MachineCounters,
  type MachineEvent,
  type MachineMemory,
  type DiskLink,
  type MachineReason,
  type MachineState,
  type PagingState
} from './machine.js'
export { NetPort } from './net.js'
export type {
  DiskOptions,
  MachineBoard,
  MachineOptions,
  NetOptions,
  RestoreOptions,
  SnapshotInfo,
  SnapshotOptions,
  VsockOptions
} from './options.js'
export type { MemoryView, Registers, StateDigest } from '../state.js'
