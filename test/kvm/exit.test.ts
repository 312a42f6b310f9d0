// Decoding of struct kvm_run, without KVM: every reason has a name, unknown ones pass through.
import t from 'tap'
import { ExitReason } from '../../lib/kvm/index.js'
import { decodeExit } from '../../lib/kvm/exit.js'

const nobody = { respond: async () => {}, refuse: async () => {} }

function page(code: number, fill: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(288)
  const view = new DataView(bytes.buffer)
  view.setUint32(8, code, true)
  fill(new DataView(bytes.buffer, 32))
  return bytes
}

t.test('each reason gets the name of its constant', async t => {
  for (const [name, code] of Object.entries(ExitReason)) {
    const expected = code === ExitReason.UNKNOWN ? 'hardware-unknown' : name.toLowerCase().replaceAll('_', '-')
    t.equal(decodeExit(page(code), new Uint8Array(), nobody).reason, expected)
  }
})

t.test('an unknown reason passes through with its number and payload', async t => {
  const exit = decodeExit(page(4711, view => view.setUint8(3, 9)), new Uint8Array(), nobody)
  t.equal(exit.reason, 'unknown')
  if (exit.reason !== 'unknown') return
  t.equal(exit.code, 4711)
  t.equal(exit.payload.length, 256)
  t.equal(exit.payload[3], 9)
})

t.test('fields lie where the kernel puts them', async t => {
  const exit = (code: number, fill: (view: DataView) => void) => decodeExit(page(code, fill), new Uint8Array(), nobody)
  t.match(
    exit(ExitReason.INTERNAL_ERROR, view => {
      view.setUint32(0, 1, true)
      view.setUint32(4, 4, true)
      view.setBigUint64(8, 1n, true)
      view.setUint8(16, 2)
      view.setUint8(17, 0x0f)
      view.setUint8(18, 0x0b)
    }),
    { reason: 'internal-error', suberror: 1, instruction: Uint8Array.of(0x0f, 0x0b) }
  )
  t.match(
    exit(ExitReason.INTERNAL_ERROR, view => {
      view.setUint32(4, 0xffffffff, true)
    }),
    { reason: 'internal-error', data: { length: 16 } },
    'a count from the kernel is bounded'
  )
  t.match(
    exit(ExitReason.MMIO, view => {
      view.setBigUint64(0, 0xfee00000n, true)
      view.setUint32(8, 0xcafe, true)
      view.setUint32(16, 4, true)
      view.setUint8(20, 1)
    }),
    { direction: 'write', address: 0xfee00000n, size: 4, data: Uint8Array.of(0xfe, 0xca, 0, 0) }
  )
  t.match(
    exit(ExitReason.SYSTEM_EVENT, view => {
      view.setUint32(0, 2, true)
      view.setUint32(4, 1, true)
      view.setBigUint64(8, 7n, true)
    }),
    { type: 2, data: [7n] }
  )
  t.match(
    exit(ExitReason.MEMORY_FAULT, view => {
      view.setBigUint64(8, 0x1000n, true)
      view.setBigUint64(16, 0x2000n, true)
    }),
    { address: 0x1000n, size: 0x2000n }
  )
})
