// Runs in a rig: boots Debian's kernel in a deterministic machine of ours while it is recorded, and uses its disk, network
// and console; then reads the log.
//   node recorded_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine"}'
// Prints one line of JSON: what was seen.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { EventLog, Recording } from '../../dist/eventlog/index.js'
import { Machine } from '../../dist/machine/index.js'
import { address, command, machineOptions, observe, untilPrompt } from './guest.mjs'

await observe(async (folder, given, seen) => {
  const signal = AbortSignal.timeout(200_000)
  const disk = path.join(folder, 'disk.img')
  writeFileSync(disk, randomBytes(1 << 20))
  const directory = path.join(folder, 'log')
  const machine = await Machine.create(machineOptions(given, 'linux', disk))
  const recording = await Recording.start(machine, directory)
  await machine.start()
  await untilPrompt(machine, 0, signal)
  await command(machine, 'sha256sum /dev/vda', signal)
  await command(machine, 'echo written | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null', signal)
  const connection = net.connect({ host: address, port: 7, signal })
  await once(connection, 'connect')
  connection.write('one\n')
  seen.service = String((await once(connection, 'data'))[0])
  connection.destroy()
  machine.console.write('poweroff -f\n')
  await machine.waitFor('stopped', { signal })
  const recorded = await recording.stop()
  seen.counters = machine.counters()
  seen.last = recorded.lastBoundary
  await machine.close()

  const log = await EventLog.open(directory)
  seen.whole = (await log.verify()).ok
  seen.kinds = {}
  for await (const record of log.records()) seen.kinds[record.kind] = (seen.kinds[record.kind] ?? 0) + 1
  await log.close()
})
