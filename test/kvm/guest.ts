// Tiny guests for the tests: real mode, some bytes of code at 0x1000 in 64 KiB of memory.
import { readdirSync } from 'node:fs'
import { GuestMemory, Kvm, KvmError, type Vcpu, type Vm } from '../../lib/kvm/index.js'

export { noKvm } from '../no_kvm.js'

export const spin = [0xeb, 0xfe] // jmp $

export interface Guest extends AsyncDisposable {
  vm: Vm
  vcpu: Vcpu
  memory: GuestMemory
}

export async function guest(
  code: readonly number[],
  prepare?: (vm: Vm) => Promise<void>,
  flags = 0
): Promise<Guest> {
  const kvm = await Kvm.open()
  const vm = await kvm.createVm()
  await kvm.close()
  await prepare?.(vm)
  const memory = await GuestMemory.allocate('64KiB')
  memory.write(0x1000, Uint8Array.from(code))
  await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory, flags })
  const vcpu = await vm.createVcpu(0)
  const sregs = await vcpu.getSregs()
  sregs.cs.base = 0n
  sregs.cs.selector = 0
  await vcpu.setSregs(sregs)
  await vcpu.setRegs({ ...(await vcpu.getRegs()), rip: 0x1000n, rflags: 2n })
  return {
    vm,
    vcpu,
    memory,
    async [Symbol.asyncDispose]() {
      await vm.close()
      await memory.close()
    }
  }
}

/** The KvmError that `body` throws or rejects with. */
export async function failure(body: () => unknown): Promise<KvmError> {
  try {
    await body()
  } catch (error) {
    if (error instanceof KvmError && error.message.length > 20) return error
    throw error
  }
  throw new Error('nothing failed')
}

export function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}

export function threads(): number {
  return readdirSync('/proc/self/task').length
}
