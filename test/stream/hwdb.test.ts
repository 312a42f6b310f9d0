// What a start reads of udev's database of hardware, and databases that are none.
import t from 'tap'
import { hardwareReads } from '../../lib/stream/hwdb.js'
import { limit } from '../patience.js'
import { hardwareDatabase, type HardwareNode } from './hwdb.js'

const redHat: HardwareNode = { values: [[' VENDOR', 'Red Hat']] }
const model: HardwareNode = { prefix: '1041*', values: [[' MODEL', 'network']] }
const virtio: HardwareNode = { prefix: 'AF4', children: { '*': redHat, d: { prefix: '0000', children: { '1': { prefix: '0', children: { '4': model } } } } } }
const inner: HardwareNode = { prefix: ':name:x*', values: [[' KEY', 'esc']] }
const star: HardwareNode = { children: { y: inner } }
const intel: HardwareNode = { prefix: '086*', values: [[' VENDOR', 'Intel']] }
const usb: HardwareNode = { prefix: 'sb:v*', values: [[' VENDOR', 'somebody']] }
const pci: HardwareNode = { prefix: 'ci:v0000', children: { '1': virtio, '8': intel } }
const root: HardwareNode = { children: { p: pci, u: usb, '*': star } }

const isIn = (reads: ReturnType<typeof hardwareReads>, at: number | undefined): boolean => reads.some(([from, to]) => at !== undefined && at >= from && at < to)

t.test('a search reads the nodes on its way, what has wildcards, and what fits', async t => {
  const { file, nodes, texts } = hardwareDatabase(root, 1 << 18)
  const reads = hardwareReads(file, ['pci:v00001AF4d00001041sv0'])
  const isRead = (at: number | undefined): boolean => isIn(reads, at)
  for (const [name, node] of Object.entries({ root, pci, virtio, redHat, star, inner })) t.ok(isRead(nodes.get(node)), name)
  for (const [name, node] of Object.entries({ usb, intel })) t.notOk(isRead(nodes.get(node)), name)
  for (const text of ['ci:v0000', 'AF4', ' VENDOR', 'Red Hat']) t.ok(isRead(texts.get(text)), text)
  for (const text of ['sb:v*', '086*', 'Intel', 'somebody', 'esc']) t.notOk(isRead(texts.get(text)), text)
  t.ok(isRead(0), 'the head')
})

t.test('a wildcard in the midst of a text', async t => {
  const { file, nodes, texts } = hardwareDatabase(root, 1 << 18)
  const reads = hardwareReads(file, ['pci:v00008086d1'])
  t.ok(isIn(reads, nodes.get(intel)))
  t.ok(isIn(reads, texts.get('Intel')))
  t.notOk(isIn(reads, nodes.get(virtio)))
  t.notOk(isIn(hardwareReads(file, ['pci:v9']), nodes.get(intel)), 'nothing fits')
})

t.test('ranges are in order, apart, within the file, and as large as what Linux reads around a page', async t => {
  const { file } = hardwareDatabase(root, 1 << 18)
  const reads = hardwareReads(file)
  t.ok(reads.length > 3)
  for (const [i, [from, to]] of reads.entries()) {
    t.ok(from >= (reads[i - 1]?.[1] ?? -1) + (i > 0 ? 1 : 0) && to <= file.length && to - from >= Math.min(64 << 10, file.length), `${from} to ${to}`)
  }
  t.same(hardwareReads(hardwareDatabase(root).file), [[0, hardwareDatabase(root).file.length]], 'a small one as a whole')
})

t.test('what is no database, or a hostile one, ends soon', { timeout: limit(60_000) }, async t => {
  t.same(hardwareReads(Buffer.alloc(0)), [])
  t.same(hardwareReads(Buffer.from('data\n')), [])
  const { file, nodes } = hardwareDatabase(root)
  for (let size = 0; size < file.length; size++) hardwareReads(file.subarray(0, size))
  // Each node is its own child, in all ways.
  for (const at of nodes.values())
    for (let child = 0; child < (file[at + 8] as number); child++) {
      const looped = Buffer.from(file)
      looped.writeBigUInt64LE(BigInt(at), at + 24 + 16 * child + 8)
      hardwareReads(looped)
    }
  const wrong: unknown[] = []
  // Values without an end, of no size; a text of the greatest length before 255 ways back.
  const endless = hardwareDatabase({ prefix: '*', values: [['a', 'b']] })
  endless.file.writeBigUInt64LE(1n << 62n, (endless.nodes.values().next().value as number) + 16)
  for (const size of [0n, 16n, 32n]) {
    endless.file.writeBigUInt64LE(size, 48)
    hardwareReads(endless.file)
  }
  const children = Object.fromEntries(Array.from({ length: 255 }, (_, i) => [String.fromCharCode(i + 1), {}]))
  const wide = hardwareDatabase({ prefix: `*${'a'.repeat(2000)}`, children })
  const top = [...wide.nodes.values()].at(-1) as number
  for (let i = 0; i < 255; i++) wide.file.writeBigUInt64LE(BigInt(top), top + 24 + 16 * i + 8)
  hardwareReads(wide.file)
  let seed = 1
  const random = (below: number): number => (seed = (seed * 48271) % 0x7fffffff) % below
  for (let round = 0; round < 3000; round++) {
    const torn = Buffer.from(file)
    for (let i = 0; i <= random(6); i++) torn[8 + random(torn.length - 8)] = random(256)
    wrong.push(...hardwareReads(torn).filter(([from, to]) => !(from >= 0 && from < to && to <= torn.length)))
  }
  t.same(wrong, [])
})
