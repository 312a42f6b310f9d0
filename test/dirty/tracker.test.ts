// Trackers on a bare VM: exact page for page in every mode, the choice of a mode, samples, closing.
import t from 'tap'
import {
  chooseDirtyMode,
  DirtyError,
  DirtyTracker,
  probeDirtyMode,
  type DirtyHarvest,
  type DirtyMode,
  type DirtySample
} from '../../lib/dirty/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine } from '../../lib/machine/index.js'
import { limit } from '../patience.js'
import { dataAddress, pageSize, TinyGuest } from './tiny_guest.js'
import { noKvm as skip } from '../no_kvm.js'


/** 1024 entries. */
const ringBytes = 16384

const create = (mode: DirtyMode, dataSize = 1 << 20): Promise<TinyGuest> =>
  TinyGuest.create({ dataSize, ...(mode === 'ring' ? { ringBytes } : {}) })

const code = (expected: string): { code: string } => ({ code: expected })

for (const mode of ['bitmap', 'manual', 'ring'] as const)
  t.test(`exact, page for page: ${mode}`, { skip }, async t => {
    const guest = await create(mode)
    const tracker = await DirtyTracker.attach(guest.vm, { mode })
    t.equal(tracker.mode, mode)
    t.match(tracker.choice, { mode, reason: `${mode}: asked for` })
    const at = (page: number): bigint => dataAddress + BigInt(page * pageSize)

    // Of what the guest's program lies in, KVM may take a page that it maps for the first time for a written one.
    const written = ({ slots }: DirtyHarvest): number | undefined => slots.find(({ slot }) => slot === 1)?.pages
    t.equal(written(await tracker.harvest()), 0)
    await guest.write(3, 7, 5)
    guest.data.write(100 * pageSize, new Uint8Array(5000))
    tracker.markWritten(at(100), 5000)
    const harvest = await tracker.harvest()
    t.strictSame(
      [...harvest.ranges()].filter(({ address }) => address >= dataAddress),
      [
        ...[3, 10, 17, 24, 31].map(page => ({ address: at(page), size: pageSize })),
        { address: at(100), size: 2 * pageSize }
      ]
    )
    t.equal(harvest.bytes, harvest.pages * pageSize)
    t.ok(harvest.endedAt >= harvest.startedAt)
    t.ok(harvest.has(at(10)))
    t.ok(harvest.has(at(11) - 1n))
    t.notOk(harvest.has(at(11)))
    t.notOk(harvest.has(0x7fff_0000_0000n))
    t.match(harvest.slots, [
      { slot: 0, guestAddress: 0n, pageCount: 16, pages: Number },
      { slot: 1, guestAddress: dataAddress, pageCount: 256, pages: 7 }
    ])
    t.equal(written(await tracker.harvest()), 0, 'each page once')
    t.throws(() => tracker.markWritten(dataAddress + (1n << 20n), 1), code('ERANGE'))

    await t.rejects(DirtyTracker.attach(guest.vm, { mode }), code('DIRTY_BUSY'))
    await t.rejects(DirtyTracker.attach(guest.vm, { mode, slots: [9] }), code('DIRTY_SLOT'))
    await t.rejects(
      DirtyTracker.attach(guest.vm, { mode: mode === 'ring' ? 'bitmap' : 'ring' }),
      code('DIRTY_RING')
    )
    await tracker.close()
    await tracker.close()
    await t.rejects(tracker.harvest(), code('CLOSED'))

    const again = await DirtyTracker.attach(guest.vm, { mode, slots: [1], everythingFirst: true })
    t.match(await again.harvest(), { pages: 256, sequence: 1 })
    await guest.write(9)
    t.strictSame([...(await again.harvest()).ranges()], [{ address: at(9), size: pageSize }])
    await again.close()
    await guest.close()
  })

t.test('a ring that fills up is emptied without JavaScript', { skip }, async t => {
  const guest = await create('ring', 8 << 20)
  const tracker = await DirtyTracker.attach(guest.vm, { mode: 'ring', slots: [1] })
  for (let round = 0; round < 2; round++) {
    await guest.write(0, 1, 2048)
    t.equal((await tracker.harvest()).pages, 2048)
  }
  await tracker.close()
  await guest.close()
})

for (const planted of [false, true])
  t.test(
    planted ? 'the test of the copy catches one skipped page' : 'a copy by harvests equals the memory',
    { skip },
    async t => {
      const guest = await create('manual')
      const copy = guest.data.read(0, 1 << 20)
      const tracker = await DirtyTracker.attach(guest.vm, { mode: 'manual', slots: [1] })
      if (planted) tracker.native.plantSkippedPage()
      const take = async (): Promise<void> => {
        for (const { address, size } of (await tracker.harvest()).ranges())
          copy.set(guest.data.read(address - dataAddress, size), Number(address - dataAddress))
      }
      let done = false
      const load = (async (): Promise<void> => {
        for (let round = 1n; round <= 60n; round++) await guest.write(Number(round % 5n), 1, 250, round)
        done = true
      })()
      let harvests = 0
      for (; !done; harvests++) await take()
      await load
      await take()
      t.ok(harvests > 1, 'harvests while the guest ran')
      const equal = Buffer.compare(copy, guest.data.read(0, 1 << 20)) === 0
      t.equal(equal, !planted)
      await tracker.close()
      await guest.close()
    }
  )

t.test('chooses by trying, and says why', { skip, timeout: limit(60_000) }, async t => {
  const choice = await chooseDirtyMode()
  t.same(
    choice.verdicts.map(verdict => verdict.mode),
    ['manual', 'ring', 'bitmap']
  )
  for (const verdict of choice.verdicts) {
    t.comment(`${verdict.mode}: ${verdict.works ? 'works' : 'unusable'}: ${verdict.reason}`)
    t.match(verdict.reason, /guest writes at CPL/)
    if (verdict.mode !== 'ring') t.ok(verdict.works)
    if (!verdict.works) t.match(choice.reason, `${verdict.mode} is unusable`)
  }
  t.equal(choice.mode, 'manual')
  t.equal(await probeDirtyMode('manual'), choice.verdicts[0], 'tried once')

  const guest = await create('bitmap')
  const tracker = await DirtyTracker.attach(guest.vm)
  t.equal(tracker.mode, 'manual')
  t.match(tracker.choice.reason, 'ring is not possible')
  await tracker.close()
  await guest.close()

  const ringGuest = await create('ring')
  if (choice.verdicts[1]?.works === true) {
    const ring = await DirtyTracker.attach(ringGuest.vm)
    t.equal(ring.mode, 'ring')
    await ring.close()
  } else await t.rejects(DirtyTracker.attach(ringGuest.vm), code('DIRTY_UNUSABLE'))
  await ringGuest.close()
})

t.test('a mode that goes silent is killed and called unusable', { skip }, async t => {
  const verdict = await probeDirtyMode('none' as DirtyMode, { silenceMs: 1 })
  t.match(verdict, { works: false, reason: /wedges/ })
})

t.test('samples', { skip }, async t => {
  const guest = await create('manual')
  const tracker = await DirtyTracker.attach(guest.vm, { mode: 'manual', slots: [1] })
  const samples: DirtySample[] = []
  await guest.write(0, 1, 10)
  for await (const sample of tracker.samples({ intervalMs: 1, window: 2 })) {
    samples.push(sample)
    if (samples.length === 4) break
    await guest.write(5, 1, samples.length === 1 ? 10 : 1)
  }
  t.match(samples, [
    { pages: 10, uniquePages: 10, workingSetPages: 10 },
    { pages: 10, uniquePages: 15, workingSetPages: 15 },
    { pages: 1, uniquePages: 15, workingSetPages: 10 },
    { pages: 1, uniquePages: 15, workingSetPages: 1 }
  ])
  t.ok((samples[0]?.bytesPerSecond ?? 0) > 0)

  const abort = new AbortController()
  const reason = new Error('enough')
  const pending = tracker.samples({ intervalMs: 60_000, signal: abort.signal }).next()
  abort.abort(reason)
  await t.rejects(pending, reason)
  await t.rejects(tracker.samples({ intervalMs: 0 }).next(), code('EINVAL'))

  const ended = tracker.samples({ intervalMs: 1 })
  await ended.next()
  await tracker.close()
  t.equal((await ended.next()).done, true)
  await guest.close()
})

t.test('wrong use', { skip }, async t => {
  await t.rejects(DirtyTracker.attach({} as never), { name: 'DirtyError', code: 'EINVAL' })
  const guest = await create('manual')
  await t.rejects(DirtyTracker.attach(guest.vm, { mode: 'guess' as DirtyMode }), code('DIRTY_MODE'))
  {
    await using tracker = await DirtyTracker.attach(guest.vm, { mode: 'manual' })
    await guest.close()
    t.ok(await tracker.harvest(), 'the tracker holds the VM')
  }
  await t.rejects(DirtyTracker.attach(guest.vm, { mode: 'manual' }), code('CLOSED'))
  t.ok(new DirtyError('x', { code: 'Y' }) instanceof Error)
})

for (const mode of ['manual', 'bitmap', 'ring'] as const)
  t.test(`a machine's guest, devices and host: ${mode}`, { skip }, async t => {
    const base = 16n << 20n
    const machine = await Machine.create({
      kernel: guestPath('dirtier'),
      memory: '32MiB',
      commandLine: 'pattern=list list=0,5,6,1023 rounds=1',
      dirtyRing: mode === 'ring'
    })
    const tracker = await DirtyTracker.attach(machine, { mode })
    await machine.start()
    await machine.waitFor('stopped')
    machine.memory.write(base + 2000n * 4096n - 1n, new Uint8Array(2))
    const harvest = await tracker.harvest()
    // What is below 16 MiB is the guest's own image.
    t.strictSame(
      [...harvest.ranges()].filter(({ address }) => address >= base),
      [
        { address: base, size: pageSize },
        { address: base + 5n * 4096n, size: 2 * pageSize },
        { address: base + 1023n * 4096n, size: pageSize },
        { address: base + 1999n * 4096n, size: 2 * pageSize }
      ]
    )
    await tracker.close()
    await machine.close()
  })
