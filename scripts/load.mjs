// The load generator on its own: boots a mailroom, lets users work for a while, verifies all that was acknowledged.
//   node scripts/load.mjs [--users 50] [--seconds 5] [--think MS] [--seed 1] [--memory 32MiB] [--disk IMAGE]
//                         [--record FOLDER] [--json] [--tap NAME]
// --tap: over the host's own UDP/IP and a tap interface, which is made and given 10.77.0.1/24 (needs root, and the
// program `ip`). In a network namespace of its own it disturbs nobody: unshare -n node scripts/load.mjs --tap mail0
// After `npm run build`. Exit code 1 when something acknowledged is not there.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    users: { type: 'string', default: '50' },
    seconds: { type: 'string', default: '5' },
    think: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    memory: { type: 'string', default: '32MiB' },
    disk: { type: 'string' },
    record: { type: 'string' },
    tap: { type: 'string' },
    json: { type: 'boolean', default: false }
  }
})
const { connectMailroom, createMailroom } = await import('../dist/cli/mailroom/boot.js')
const { MailroomClient } = await import('../dist/cli/mailroom/client.js')
const { SocketLink } = await import('../dist/cli/mailroom/link.js')
const { MAILROOM_PORT } = await import('../dist/cli/mailroom/protocol.js')
const { describe, MailLoad } = await import('../dist/cli/mailroom/load.js')
const { Recording } = await import('../dist/eventlog/index.js')

async function connectBySocket() {
  const link = new SocketLink('10.77.0.2', MAILROOM_PORT)
  await link.ready()
  return new MailroomClient(link)
}

const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-load-'))
try {
  const disk = values.disk ?? path.join(folder, 'mail.img')
  const machine = await createMailroom({ disk, memory: values.memory, ...(values.tap ? { tap: values.tap } : {}) })
  if (values.tap) {
    execFileSync('ip', ['address', 'add', '10.77.0.1/24', 'dev', values.tap])
    execFileSync('ip', ['link', 'set', values.tap, 'up'])
  }
  const recording = values.record === undefined ? undefined : await Recording.start(machine, values.record)
  await machine.start()
  const client = await (values.tap ? connectBySocket() : connectMailroom(machine))
  const load = new MailLoad(client, {
    users: Number(values.users),
    think: Number(values.think),
    seed: Number(values.seed)
  })
  await load.login()
  const begun = performance.now()
  const idle = performance.eventLoopUtilization()
  const cpu = process.cpuUsage()
  const before = machine.counters()
  load.start()
  await sleep(Number(values.seconds) * 1000)
  const javascriptBusy = performance.eventLoopUtilization(idle).utilization
  const used = process.cpuUsage(cpu)
  await load.stop()
  const seconds = (performance.now() - begun) / 1000
  const after = machine.counters()
  const stats = load.stats()
  const verdict = await load.verify()
  const mailroom = await client.stats()
  client.close()
  await recording?.stop()
  await machine.close()
  const perOperation = Object.fromEntries(
    Object.keys(after).map(name => [name, Number(after[name] - before[name]) / stats.operations])
  )
  if (values.json) {
    const numbers = Object.fromEntries(Object.entries(mailroom).map(([name, value]) => [name, Number(value)]))
    const processCpu = (used.user + used.system) / 1e6 / seconds
    console.log(JSON.stringify({ seconds, ...stats, ...verdict, javascriptBusy, processCpu, perOperation, mailroom: numbers }))
  } else {
    console.log(describe(stats, seconds))
    console.log(
      `${stats.operations} operations (${Math.round(stats.operations / seconds)}/s), ${stats.acknowledged} acknowledged, ` +
        `${verdict.lost} lost, ${stats.unanswered} unanswered, ${stats.retransmissions} sent again, ${stats.errors} errors; ` +
        `JavaScript busy ${(javascriptBusy * 100).toFixed(0)} %`
    )
    for (const problem of verdict.problems) console.log(`  ${problem}`)
  }
  if (verdict.lost + verdict.surplus + stats.errors > 0) process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
