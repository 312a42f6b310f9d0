// A bare VM whose guest writes exactly the pages it is told to, at CPL 3: long mode, identity-mapped, set up
// through the public API alone.
import { Capability, GuestMemory, Kvm, type Regs, type Segment, type Vcpu, type Vm } from '../../lib/kvm/index.js'

export const pageSize = 4096
export const dataAddress = 0x200000n
const lowSize = 0x10000
const port = 0x10

// entry: out %al, $0x10; fill: mov %rax, (%rdi); add %rsi, %rdi; dec %rcx; jnz fill; jmp entry
const program = Uint8Array.of(
  ...[0xe6, port, 0x48, 0x89, 0x07, 0x48, 0x01, 0xf7, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xeb, 0xf1]
)

function segment(selector: number, type: number, long: boolean): Segment {
  return { base: 0n, limit: 0xffffffff, selector: selector | 3, type, present: 1, dpl: 3, db: long ? 0 : 1, s: 1, l: long ? 1 : 0, g: 1, avl: 0, unusable: 0 }
}

export class TinyGuest {
  readonly kvm: Kvm
  readonly vm: Vm
  readonly vcpu: Vcpu
  readonly data: GuestMemory

  private constructor(kvm: Kvm, vm: Vm, vcpu: Vcpu, data: GuestMemory) {
    this.kvm = kvm
    this.vm = vm
    this.vcpu = vcpu
    this.data = data
  }

  static async create(options: { dataSize?: number; ringBytes?: number } = {}): Promise<TinyGuest> {
    const kvm = await Kvm.open()
    const vm = await kvm.createVm()
    if (options.ringBytes !== undefined) await vm.enableCap(Capability.DIRTY_LOG_RING, BigInt(options.ringBytes))
    const low = await GuestMemory.allocate(lowSize)
    const data = await GuestMemory.allocate(options.dataSize ?? 1 << 20)
    const put = (address: number, value: bigint): void => {
      const bytes = new Uint8Array(8)
      new DataView(bytes.buffer).setBigUint64(0, value, true)
      low.write(address, bytes)
    }
    // Accessed and dirty beforehand, so that a walk writes nothing.
    put(0x1000, 0x2027n)
    put(0x2000, 0x3027n)
    for (let i = 0; i < 512; i++) put(0x3000 + i * 8, (BigInt(i) << 21n) | 0xe7n)
    // The I/O bitmap: every port is free, where IOPL does not do.
    low.write(0x9066, Uint8Array.of(0x68))
    low.write(0x9000 + 0x68 + 8192, Uint8Array.of(0xff))
    low.write(0xd000, program)
    await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory: low })
    await vm.setUserMemoryRegion({ slot: 1, guestAddress: dataAddress, memory: data })
    const vcpu = await vm.createVcpu(0)
    await vcpu.setCpuid2(await kvm.supportedCpuid())
    const sregs = await vcpu.getSregs()
    const flat = segment(0x10, 3, false)
    await vcpu.setSregs({
      ...sregs,
      cs: segment(0x8, 11, true),
      ds: flat,
      es: flat,
      fs: flat,
      gs: flat,
      ss: flat,
      tr: { ...flat, base: 0x9000n, limit: 0x68 + 8192, selector: 0x18, type: 11, dpl: 0, s: 0, g: 0, db: 0 },
      cr3: 0x1000n,
      cr4: 0x20n,
      cr0: 0x80010031n,
      efer: 0x500n
    })
    const regs: Regs = { ...(await vcpu.getRegs()), rip: 0xd000n, rsp: BigInt(lowSize), rflags: 0x3002n }
    await vcpu.setRegs(regs)
    const guest = new TinyGuest(kvm, vm, vcpu, data)
    await guest.#run()
    return guest
  }

  async #run(): Promise<void> {
    const exit = await this.vcpu.run()
    if (exit.reason !== 'io') throw new Error(`the guest ended with ${exit.reason}`)
    await this.vcpu.completeIo()
  }

  /** Writes `value` at the data's page `page`, page + stride, …, `count` times. */
  async write(page: number, stride = 1, count = 1, value = 1n): Promise<void> {
    const regs = await this.vcpu.getRegs()
    await this.vcpu.setRegs({
      ...regs,
      rax: value,
      rcx: BigInt(count),
      rsi: BigInt(stride * pageSize),
      rdi: dataAddress + BigInt(page * pageSize)
    })
    await this.#run()
  }

  async close(): Promise<void> {
    await this.vm.close()
    await this.kvm.close()
  }
}
