// Migrations over a link of 8 MiB a second while the guest writes from nothing to four times as much: how long the
// machine stands still, against a copy of the pages that were left at the link's speed; and bytes on the wire against
// what the guest has in memory. Plain: no compression, no differences. Both ends are in this process.
import process from 'node:process'
import { guestPath } from '../dist/index.js'
import { Machine } from '../dist/machine/index.js'
import { listen, migrate } from '../dist/migrate/index.js'
import { median, Pairs, print } from './figures.mjs'

const link = 8 << 20
const ticks = 50
const page = 4096
const turns = process.argv.includes('--quick') ? 1 : 3

const listener = await listen('tcp://127.0.0.1:0')

/** A guest that writes so many bytes a second, one migration of it, and both ends' machines closed. */
async function once(rate, options) {
  const count = Math.round(rate / page / ticks)
  const machine = await Machine.create({
    kernel: guestPath('dirtier'),
    memory: '32MiB',
    commandLine: `rounds=1 pages=2048 count=2048 stay=1 pause=1 hz=${ticks}`
  })
  try {
    await machine.start()
    // All of its region is written once; then it goes on at its rate.
    await machine.console.waitFor('dirtier done')
    if (count > 0) machine.console.write(`rounds=0 count=${count}\n`)
    const accepted = listener.accept()
    const migration = migrate(machine, listener.address, { bandwidth: link, maxRounds: 8, ...options })
    const { machine: there } = await (await accepted).done
    const result = await migration.done
    await there.close()
    return result
  } finally {
    await machine.close()
  }
}

for (const [how, options] of [
  ['plain', { compress: false, delta: false }],
  ['compressed', {}]
])
  for (const factor of [0, 0.25, 0.5, 1, 2, 4]) {
    const blackout = new Pairs()
    const bytes = new Pairs()
    const alone = []
    for (let turn = 0; turn < turns; turn++) {
      const { rounds, progress, blackoutMs } = await once(factor * link, options)
      const rest = rounds.at(-1).pages
      if (rest > 0) blackout.add(blackoutMs, ((rest * page) / link) * 1000)
      else alone.push(blackoutMs)
      bytes.add(progress.bytes, (rounds[0].pages - rounds[0].zeroPages) * page)
    }
    const name = `migrate/blackout/${how}/${factor}x-link`
    // With nothing left to send there is nothing to compare with.
    if (alone.length > turns / 2) print({ name, value: median(alone), unit: 'ms' })
    else blackout.print(name, 'ms')
    bytes.print(`migrate/bytes/${how}/${factor}x-link`, 'B')
  }
await listener.close()
