// Sample: boots a guest of ours, tracks its dirty pages for some seconds and draws them.
//   node scripts/dirty-heatmap.mjs [guest [seconds [heatmap.png [command line]]]]
// After `npm run build`.
import { writeFile } from 'node:fs/promises'
import process from 'node:process'
import { guestPath } from 'hypertwin'
import { DirtyTracker, HeatMap } from 'hypertwin/dirty'
import { Machine } from 'hypertwin/machine'

const [name = 'dirtier', seconds = '5', file = 'heatmap.png', commandLine = 'rounds=0 pause=1 pattern=hotset count=200'] =
  process.argv.slice(2)

const machine = await Machine.create({ kernel: guestPath(name), memory: '64MiB', commandLine })
const tracker = await DirtyTracker.attach(machine)
try {
  console.log(`Tracking by ${tracker.choice.reason}`)
  await machine.start()
  const map = new HeatMap({ title: `Dirty pages of ${name}` })
  const end = performance.now() + Number(seconds) * 1000
  for await (const sample of tracker.samples({ intervalMs: 50 })) {
    map.add(sample.harvest)
    if (performance.now() >= end) break
  }
  console.log(map.toTerminal())
  await writeFile(file, map.toPng())
  console.log(`${map.harvests} harvests, drawn in ${file}`)
} finally {
  await tracker.close()
  await machine.close()
}
