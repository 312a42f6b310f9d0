// The smallest use of hypertwin/kvm: a real-mode guest of ten instructions prints by port 0x3f8 and halts.
// Usage: node scripts/kvm-hello.mjs (after npm run build)
import process from 'node:process'
import { GuestMemory, Kvm } from 'hypertwin/kvm'

const text = 'Hello from a guest\n'
const code = [
  0xbe, 0x00, 0x20, // mov si, 0x2000
  0xba, 0xf8, 0x03, // mov dx, 0x3f8
  0xac, //             next: lodsb
  0x84, 0xc0, //       test al, al
  0x74, 0x03, //       jz done
  0xee, //             out dx, al
  0xeb, 0xf8, //       jmp next
  0xf4 //              done: hlt
]

const kvm = await Kvm.open()
const vm = await kvm.createVm()
const memory = await GuestMemory.allocate('64KiB')
memory.write(0x1000, Uint8Array.from(code))
memory.write(0x2000, new TextEncoder().encode(`${text}\0`))
await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory })
const vcpu = await vm.createVcpu(0)
const sregs = await vcpu.getSregs()
sregs.cs.base = 0n
sregs.cs.selector = 0
await vcpu.setSregs(sregs)
await vcpu.setRegs({ ...(await vcpu.getRegs()), rip: 0x1000n, rflags: 2n })

for await (const exit of vcpu.exits()) {
  if (exit.reason === 'io' && exit.port === 0x3f8) process.stdout.write(exit.data)
  else if (exit.reason === 'hlt') break
  else throw new Error(`unexpected exit: ${exit.reason}`)
}
await vm.close()
await kvm.close()
