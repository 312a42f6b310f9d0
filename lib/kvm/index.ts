// The door of hypertwin/kvm: /dev/kvm, ioctl by ioctl.
export * from './constants.js'
export { KvmError } from './errors.js'
export { EventFd } from './event.js'
export type * from './exit.js'
export { Kvm } from './kvm.js'
export { GuestMemory, type GuestMemoryOptions } from './memory.js'
export type { Size } from './size.js'
export type { Stat, Stats } from './stats.js'
export type {
  ClockData,
  CoalescedWrite,
  CpuidEntry,
  DebugRegs,
  DescriptorTable,
  DirtyPage,
  Fpu,
  IrqchipState,
  MachineCheck,
  Msr,
  PitState,
  Regs,
  Segment,
  Sregs,
  Sregs2,
  Translation,
  VcpuEvents,
  Xcrs
} from './structs.js'
export { Vcpu } from './vcpu.js'
export {
  Device,
  ExitHandler,
  Vm,
  type ExitHandlerOptions,
  type IoEvent,
  type IrqRoute,
  type MemoryRegion,
  type MsrFilterRange
} from './vm.js'
export { doctor, renderDoctor, type Ability, type DoctorOptions, type DoctorReport, type ProbeResult } from './doctor.js'
