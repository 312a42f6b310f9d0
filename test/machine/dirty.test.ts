// A dirty tracker on a machine sees exactly what the guest, its devices and the host write.
import t from 'tap'
import { DirtyTracker, type DirtyHarvest, type DirtyMode } from '../../lib/dirty/index.js'
import { guest, noKvm as skip } from './support.js'

const base = 8 << 20
const page = 4096

for (const mode of ['bitmap', 'manual', 'auto'] as const satisfies readonly (DirtyMode | 'auto')[])
  t.test(`exactly the pages that the guest is told to write: ${mode}`, { skip }, async t => {
    const machine = await guest(t, 'dirtier', `base=8M pages=1024 pattern=list list=1 rounds=1 stay=1`)
    await machine.start()
    await machine.console.waitFor('dirtier done 1\n')
    await using tracker = await DirtyTracker.attach(machine, { mode })
    t.not(tracker.choice.reason, '')
    await tracker.harvest()
    machine.console.write('list=5,6,7,900 rounds=1\n')
    await machine.console.waitFor('dirtier done 2\n')
    machine.memory.write(BigInt(base + 100 * page - 1), Buffer.from([1, 2]))
    const harvest = await tracker.harvest()
    // Below it are the guest's stacks and flags.
    const inRegion = (of: DirtyHarvest) => [...of.ranges()].filter(range => range.address >= BigInt(base))
    t.strictSame(
      inRegion(harvest).map(range => [Number(range.address) - base, range.size]),
      [
        [5 * page, 3 * page],
        [99 * page, 2 * page],
        [900 * page, page]
      ]
    )
    t.strictSame(inRegion(await tracker.harvest()), [], 'a guest that waits writes nothing there')
  })
