// Records a guest from its first instruction to its power-off, reads the log, and replays it to the identical state.
// Usage: node scripts/record-replay.mjs [folder] (after npm run build)
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { guestPath } from 'hypertwin'
import { EventLog, Recording, Replay } from 'hypertwin/eventlog'
import { Machine } from 'hypertwin/machine'

const directory = process.argv[2] ?? path.join(mkdtempSync(path.join(tmpdir(), 'hypertwin-')), 'log')

const machine = await Machine.create({ memory: '16MiB', kernel: guestPath('hello'), commandLine: 'ticks=10' })
const recording = await Recording.start(machine, directory)
await machine.start()
await machine.waitFor('stopped')
const recorded = await recording.stop()
await machine.close()
console.log(`recorded ${recorded.lastBoundary} boundaries in ${recorded.stats.bytes} bytes: ${directory}`)

const log = await EventLog.open(directory)
const kinds = {}
for await (const record of log.records()) kinds[record.kind] = (kinds[record.kind] ?? 0) + 1
console.log(kinds, (await log.verify()).ok ? 'whole' : 'damaged')
await log.close()

const replay = await Replay.open(directory)
const replayed = await replay.run()
console.log(`recorded ${recorded.state.combined}`)
console.log(`replayed ${replayed.state.combined}`)
await replay.close()
process.exitCode = replayed.state.combined === recorded.state.combined ? 0 : 1
