// The smallest pair of primary and backup. A guest counts 300 ticks, three seconds; after one the process that runs it
// is killed with SIGKILL; its backup, this process, goes on at the precise point: the guest says "ticks 300".
// Usage: node scripts/ha-hello.mjs (after npm run build)
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { guestPath } from 'hypertwin'
import { FileArbiter } from 'hypertwin/arbiter'
import { backup, protect } from 'hypertwin/ha'
import { Machine } from 'hypertwin/machine'

const [, , role, folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-'))] = process.argv
// Between two hosts: 'tcp://10.0.0.2:7200', and a folder on storage that both share, or etcd.
const address = `unix:${path.join(folder, 'backup.sock')}`
const arbiter = new FileArbiter(folder)

if (role === 'primary') {
  const machine = await Machine.create({ memory: '16MiB', kernel: guestPath('hello'), commandLine: 'ticks=300' })
  const output = machine.console.output()
  await machine.start()
  const protection = await protect(machine, { backup: address, arbiter })
  await protection.ready
  process.send('protected')
  for await (const text of output) process.stdout.write(`primary: ${text}`)
} else {
  const standby = await backup({ listen: address, arbiter })
  const primary = fork(fileURLToPath(new URL(import.meta.url)), ['primary', folder])
  await new Promise(resolve => primary.once('message', resolve))
  console.log('protected')
  await sleep(1000)
  primary.kill('SIGKILL')
  const machine = await standby.live
  console.log(`live at boundary ${machine.boundary}`)
  for await (const text of machine.console.output()) process.stdout.write(`backup: ${text}`)
  await standby.close()
  await machine.close()
  rmSync(folder, { recursive: true })
}
