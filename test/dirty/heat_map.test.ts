// Statistics and pictures of made-up harvests: no KVM needed.
import { PNG } from 'pngjs'
import t from 'tap'
import { DirtyStats, HeatMap } from '../../lib/dirty/index.js'
import { DirtyHarvest, pageRuns } from '../../lib/dirty/harvest.js'

function harvest(sequence: number, pageCount: number, dirty: (page: number) => boolean, guestAddress = 0n): DirtyHarvest {
  const bitmap = new BigUint64Array(Math.ceil(pageCount / 64))
  let pages = 0
  for (let page = 0; page < pageCount; page++)
    if (dirty(page)) {
      pages++
      bitmap[page >> 6] = (bitmap[page >> 6] ?? 0n) | (1n << BigInt(page & 63))
    }
  return new DirtyHarvest({
    pages,
    sequence,
    startedNs: BigInt(sequence - 1) * 100_000_000n,
    endedNs: BigInt(sequence) * 100_000_000n,
    slots: [{ slot: 0, guestAddress, pageCount, pages, bitmap: bitmap.buffer }]
  })
}

t.test('runs of set bits', async t => {
  const runs = (...words: bigint[]): number[][] =>
    [...pageRuns(BigUint64Array.from(words))].map(({ first, count }) => [first, count])
  t.strictSame(runs(), [])
  t.strictSame(runs(0n, 0n), [])
  t.strictSame(runs(0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_ffffn), [[0, 128]])
  t.strictSame(runs(0x8000_0000_0000_0001n, 1n), [[0, 1], [63, 2]])
  t.strictSame(runs(0x8000_0001_8000_0001n), [[0, 1], [31, 2], [63, 1]])
  t.strictSame(runs(0b1011_0110n << 28n), [[29, 2], [32, 2], [35, 1]])
})

t.test('statistics', async t => {
  const stats = new DirtyStats({ window: 3, decay: 0.5 })
  const add = (from: number, to: number, sequence: number): ReturnType<DirtyStats['add']> =>
    stats.add(harvest(sequence, 100, page => page >= from && page < to))
  t.match(add(0, 10, 1), { pages: 10, uniquePages: 10, workingSetPages: 10, decayedWorkingSetPages: 10, milliseconds: 100, bytesPerSecond: 409600 })
  t.match(add(5, 15, 2), { uniquePages: 15, workingSetPages: 15, decayedWorkingSetPages: 12.5 })
  t.match(add(50, 50, 3), { pages: 0, workingSetPages: 15, decayedWorkingSetPages: 6.25 })
  // Pages 5 to 9 were written last in interval 2, 0 to 4 in interval 1, which is out of the window now.
  const last = add(0, 10, 4)
  t.match(last, { pages: 10, uniquePages: 15, workingSetPages: 15 })
  t.equal(last.decayedWorkingSetPages, 10 + 5 * 0.25)
  t.strictSame(last.redirtied.slice(0, 4), [0, 5, 5, 0])
  t.match(add(0, 1, 5).redirtied, [1, 0])
  t.throws(() => new DirtyStats({ window: 0 }), { code: 'EINVAL' })
  t.throws(() => new DirtyStats({ decay: 1 }), { code: 'EINVAL' })
})

t.test('a picture shows what was dirty where and when', async t => {
  const map = new HeatMap({ rows: 4, columns: 4 })
  t.throws(() => map.toPng(), { code: 'EINVAL' })
  // The lowest quarter in the first harvest, the highest in the last.
  for (let i = 1; i <= 4; i++)
    map.add(harvest(i, 64, page => (i === 1 && page < 16) || (i === 4 && page >= 48), 0x1000_0000n))
  const lines = map.toTerminal({ width: 60, height: 8, colours: 'none' }).split('\n')
  t.match(lines[0], 'Dirty pages: 32 pages (0.1 MiB) in 4 harvests')
  t.match(lines[1], /^0x10040000 \| +@{12}$/, 'top right')
  t.match(lines[4], /^0x10000000 \|@{12} +$/, 'bottom left')
  t.match(lines[2], /^ +\| +$/)

  const picture = PNG.sync.read(map.toPng({ width: 400, height: 240 }))
  const bright = (x: number, y: number): number => {
    const at = (Math.floor(y * 240) * 400 + Math.floor(x * 400)) * 4
    return (picture.data[at] ?? 0) + (picture.data[at + 1] ?? 0)
  }
  t.ok(bright(0.25, 0.8) > 400 && bright(0.84, 0.2) > 400)
  t.ok(bright(0.25, 0.2) < 60 && bright(0.84, 0.8) < 60 && bright(0.5, 0.5) < 60)

  const svg = map.toSvg({ width: 400, height: 240 })
  t.match(svg, /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"/)
  t.match(svg, '0x10040000')
  t.match(svg, '100 %')
  t.match(svg, /<\/svg>$/)
})

t.test('memory stays bounded, and nothing is lost by it', async t => {
  const map = new HeatMap({ rows: 8, columns: 8, title: 'a <b>' })
  for (let i = 1; i <= 1000; i++) map.add(harvest(i, 256, page => page < 32))
  t.equal(map.harvests, 1000)
  const lines = map.toTerminal({ width: 60, height: 12, colours: 'none' }).split('\n')
  t.match(lines[8], /\|@+$/, 'the lowest eighth was dirty all the time')
  for (const line of lines.slice(1, 8)) t.match(line, /\| +$/)
  t.match(lines[9], '100 s')
  t.match(map.toSvg(), 'a &#60;b&#62;')
})

t.test('terminals', async t => {
  const map = new HeatMap()
  for (let i = 1; i <= 20; i++) map.add(harvest(i, 1000, page => page % 20 < i))
  t.match(map.toTerminal({ width: 50, height: 10, colours: 'truecolor' }), /\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m▀/)
  t.match(map.toTerminal({ width: 50, height: 10, colours: '256' }), /\x1b\[38;5;\d+;48;5;\d+m▀/)
  t.notMatch(map.toTerminal({ width: 50, height: 10, colours: 'none' }), /[^\n -~]/)
  const stream = (isTTY: boolean): NodeJS.WritableStream =>
    ({ isTTY, columns: 64, getColorDepth: () => 24 }) as unknown as NodeJS.WritableStream
  t.notMatch(map.toTerminal({ stream: stream(false) }), /\x1b/)
  const noColour = process.env['NO_COLOR']
  t.teardown(() => {
    if (noColour === undefined) delete process.env['NO_COLOR']
    else process.env['NO_COLOR'] = noColour
  })
  delete process.env['NO_COLOR']
  t.match(map.toTerminal({ stream: stream(true) }), /\x1b\[38;2/)
  process.env['NO_COLOR'] = '1'
  t.notMatch(map.toTerminal({ stream: stream(true) }), /\x1b/)
})

t.test('wrong use', async t => {
  t.throws(() => new HeatMap({ rows: 0 }), { code: 'EINVAL' })
  t.throws(() => new HeatMap({ columns: 3 }), { code: 'EINVAL' })
  const map = new HeatMap()
  map.add(harvest(1, 64, () => true))
  t.throws(() => map.add(harvest(2, 65, () => true)), { code: 'EINVAL' })
  t.throws(() => map.toPng({ width: 10 }), { code: 'EINVAL' })
  t.throws(() => map.toTerminal({ width: 10 }), { code: 'EINVAL' })
})

t.test('only the touched addresses', async t => {
  const map = new HeatMap({ rows: 16, columns: 4, area: 'touched' })
  map.add(harvest(1, 64, () => false))
  t.match(map.toTerminal({ width: 60, height: 8, colours: 'none' }), /^ *0x40000 /m, 'nothing touched: all of it')
  map.add(harvest(2, 64, page => page >= 16 && page < 32))
  const lines = map.toTerminal({ width: 60, height: 8, colours: 'none' }).split('\n')
  t.match(lines[1], /^0x20000 /, 'the upper edge of page 31')
  t.ok(lines.some(line => /^0x10000 /.test(line)), lines.join('\n'))
  t.ok(map.toPng().length > 0)
  t.throws(() => new HeatMap({ area: 'some' as 'all' }), { code: 'EINVAL' })
})
