// Operations of the mailroom with and without capture, driven by the load generator in JavaScript: in turns, each
// on a fresh machine, with the disk and the log in memory where /dev/shm can be written. With --quick fewer turns.
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectMailroom, createMailroom } from '../dist/cli/mailroom/boot.js'
import { MailLoad } from '../dist/cli/mailroom/load.js'
import { Recording } from '../dist/eventlog/index.js'
import { median, Pairs, print } from './figures.mjs'

const quick = process.argv.includes('--quick')

function where() {
  try {
    accessSync('/dev/shm', constants.W_OK)
    return '/dev/shm'
  } catch {
    return tmpdir()
  }
}

async function turn(capture) {
  const folder = mkdtempSync(path.join(where(), 'hypertwin-bench-'))
  try {
    const machine = await createMailroom({ disk: path.join(folder, 'mail.img') })
    const recording = capture ? await Recording.start(machine, path.join(folder, 'log')) : undefined
    await machine.start()
    const client = await connectMailroom(machine)
    const load = new MailLoad(client, { users: 50, think: 0 })
    await load.login()
    load.start()
    await sleep(300)
    const cpu = process.cpuUsage()
    const idle = performance.eventLoopUtilization()
    const before = load.operations
    const start = performance.now()
    await sleep(700)
    const seconds = (performance.now() - start) / 1000
    const operations = load.operations - before
    const busy = performance.eventLoopUtilization(idle).utilization
    const used = process.cpuUsage(cpu)
    await load.stop()
    client.close()
    await recording?.stop()
    await machine.close()
    return { rate: operations / seconds, cpu: (used.user + used.system) / operations, busy }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const rates = new Pairs()
const cpu = new Pairs()
const busy = []
const pairs = quick ? 3 : 21
for (let i = 0; i < pairs; i++) {
  const first = await turn(i % 2 === 0)
  const second = await turn(i % 2 !== 0)
  const [captured, plain] = i % 2 === 0 ? [first, second] : [second, first]
  rates.add(captured.rate, plain.rate)
  cpu.add(captured.cpu, plain.cpu)
  busy.push(plain.busy)
  process.stderr.write(`mailroom by JavaScript: pair ${i + 1} of ${pairs}\n`)
}
rates.print('capture/mailroom-js/operations', '1/s')
cpu.print('capture/mailroom-js/all-threads-per-operation', 'us')
print({ name: 'capture/mailroom-js/javascript-busy', value: median(busy) * 100, unit: '%' })
