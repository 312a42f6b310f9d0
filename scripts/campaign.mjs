// What takes longer than `npm test` should: soaks and kills on real KVM.
//   npm run campaign -- [replay] [kill] [--runs 10] [--boundaries 1000000] [--kills 100] [--json] [--keep]
//   npm run campaign -- ha|migrate|all [--runs KILLS] [--seed S] [--only SCENARIO] [--index I] [--lanes L] [--json]
//   replay  records and replays under host load, the vCPU's thread moved between cores, until the boundaries
//           are reached: no divergence
//   kill    SIGKILLs a recording process at random moments: each log is readable to a whole record and replays
//           to there
//   ha      primaries and backups as processes, one or both killed at every step and at every block and record of
//           the log (10000 kills), stopped, cut off, slow, full, without their arbiter; an observer who keeps what users
//           saw acknowledged compares it with the survivor; errors planted on purpose must be caught
//   migrate the same for both sides of a migration (1000 kills);  all: both
// Without a name: replay and kill. Exit code 1 at the first thing that is wrong; its folder is then kept.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import { setup } from './setup.mjs'
import { ccache, must, root } from './support.mjs'

const { values, positionals } = parseArgs({
  options: {
    runs: { type: 'string' },
    only: { type: 'string' },
    index: { type: 'string' },
    lanes: { type: 'string' },
    boundaries: { type: 'string', default: '1000000' },
    kills: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    json: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    // Of the process that is killed:
    record: { type: 'string' }
  },
  allowPositionals: true
})
if (values.record === undefined) setup()
if (['ha', 'migrate', 'all'].some(name => positionals.includes(name))) await nativeCampaign()
const { connectMailroom, createMailroom } = await import('../dist/cli/mailroom/boot.js')
const { MailLoad } = await import('../dist/cli/mailroom/load.js')
const { EventLog, Recording, Replay } = await import('../dist/eventlog/index.js')

// In memory where there is such a place: boundaries are what counts here, not a disk's syncs.
const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
const self = fileURLToPath(import.meta.url)
const say = text => process.stderr.write(`campaign: ${text}\n`)

/** The campaigns of native/campaign; ends the process. */
async function nativeCampaign() {
  if (positionals.length !== 1) {
    console.error('campaign: ha, migrate and all stand alone')
    process.exit(2)
  }
  const build = path.join(root, 'build/campaign')
  must('cmake', ['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_ADDON=OFF', '-DBUILD_CAMPAIGN=ON', ...ccache])
  must('cmake', ['--build', build, '-j2', '--target', 'hypertwin_campaign', 'guest_mailroom'])
  const given = ['runs', 'seed', 'only', 'index', 'lanes'].flatMap(name =>
    process.argv.some(word => word.split('=')[0] === `--${name}`) ? [`--${name}`, values[name]] : []
  )
  const child = spawn(path.join(build, 'hypertwin_campaign'), [...positionals, ...given], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const ended = new Promise(resolve => child.once('close', (code, signal) => resolve(signal ? 1 : code)))
  const bar = new SingleBar({
    format: '{bar} {percentage}% | {value} of {total} runs | {kills} kills | {violations} violations | {eta_formatted} left',
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: true
  })
  let shown = false
  for await (const line of createInterface({ input: child.stdout })) {
    const { progress, ...record } = JSON.parse(line)
    if (!progress) {
      if (shown && record.violation === undefined) {
        bar.stop()
        shown = false
      }
      if (record.violation !== undefined && !values.json)
        console.log(`VIOLATION in ${record.scenario}: ${record.violation}\n  again: --only ${record.scenario} --index ${record.index} --seed ${record.seed}\n${record.story}`)
      else console.log(JSON.stringify(record))
    } else if (process.stderr.isTTY) {
      const fields = { kills: progress.kills, violations: progress.violations }
      if (!shown) bar.start(progress.of, progress.runs, fields)
      else bar.update(progress.runs, fields)
      shown = true
    }
  }
  const code = await ended
  if (code === 77) say('skipped: /dev/kvm cannot be used: `npx hypertwin doctor` says what to do')
  process.exit(code === 77 ? 0 : code)
}

async function work(folder, users, fsync) {
  const machine = await createMailroom({ disk: path.join(folder, 'mail.img') })
  const recording = await Recording.start(machine, path.join(folder, 'log'), { fsync })
  await machine.start()
  const client = await connectMailroom(machine)
  const load = new MailLoad(client, { users, think: 0, seed: Number(values.seed) })
  await load.login()
  load.start()
  return { machine, recording, client, load }
}

// Processes that keep the cores busy, and a hand that moves this process's vCPU threads between them.
function trouble() {
  const cores = availableParallelism()
  const busy = Array.from({ length: cores }, () => spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }))
  let moves = 0
  const timer = setInterval(() => {
    for (const task of readdirSync('/proc/self/task')) {
      try {
        if (!readFileSync(`/proc/self/task/${task}/comm`, 'utf8').startsWith('ht-vcpu')) continue
        execFileSync('taskset', ['-p', '-c', String(moves++ % cores), task], { stdio: 'ignore' })
      } catch {
        // The thread ended meanwhile.
      }
    }
  }, 100)
  return () => {
    clearInterval(timer)
    for (const child of busy) child.kill('SIGKILL')
    return moves
  }
}

function fail(folder, message) {
  say(`FAILED: ${message}; see ${folder}`)
  process.exit(1)
}

async function replayRun(number, goal) {
  const folder = mkdtempSync(path.join(base, 'hypertwin-replay-'))
  // Few users: many boundaries for an operation.
  const { machine, recording, client, load } = await work(folder, 1 + (number % 4), 'none')
  const stop = trouble()
  while (machine.boundary - recording.firstBoundary < goal) await sleep(50)
  await load.stop()
  const verdict = await load.verify()
  const recorded = await recording.stop()
  client.close()
  await machine.close()
  const replay = await Replay.open(path.join(folder, 'log'))
  const result = await replay.run()
  await replay.close()
  const moves = stop()
  if (verdict.lost > 0) fail(folder, `${verdict.lost} acknowledged operations lost`)
  if (result.stop !== 'log-end' || !result.complete)
    fail(folder, `replay stopped: ${result.stop} ${result.divergence?.message ?? result.message}`)
  if (recorded.state?.combined !== result.state.combined) fail(folder, 'the state digests differ')
  if (!values.keep) rmSync(folder, { recursive: true, force: true })
  const boundaries = Number(recorded.lastBoundary - recorded.firstBoundary)
  say(`run ${number + 1}: ${boundaries} boundaries, ${Number(result.checks)} checks, ${moves} moves, digest ${result.state.combined}`)
  return boundaries
}

async function killRun(number) {
  const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-kill-'))
  const fsync = ['none', 'interval', 'always'][number % 3]
  const child = spawn(process.execPath, [self, '--record', `${fsync}:${folder}`, '--seed', String(number)], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const exited = new Promise(resolve => child.on('exit', resolve))
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve)
    child.once('exit', code => reject(new Error(`the recording process ended with ${code}`)))
  })
  // The first milliseconds, with the boot in them, as often as later ones.
  await sleep(number % 4 === 0 ? Math.random() * 30 : Math.random() * 1000)
  child.kill('SIGKILL')
  await exited
  const log = await EventLog.open(path.join(folder, 'log'))
  const report = await log.verify()
  await log.close?.()
  const replay = await Replay.open(path.join(folder, 'log'))
  const result = await replay.run()
  await replay.close()
  if (!report.chainOk) fail(folder, 'the chain of the killed log is broken')
  if (result.stop !== 'log-end') fail(folder, `replay stopped: ${result.stop} ${result.divergence?.message ?? result.message}`)
  if (report.records > 0n && result.boundary !== report.replayableBoundary)
    fail(folder, `replayed to boundary ${result.boundary}, the last whole record is at ${report.replayableBoundary}`)
  if (!values.keep) rmSync(folder, { recursive: true, force: true })
  return { records: Number(report.records), torn: report.damages.length > 0 }
}

if (values.record !== undefined) {
  const [fsync, folder] = values.record.split(/:(.*)/s)
  const machine = await createMailroom({ disk: path.join(folder, 'mail.img') })
  await Recording.start(machine, path.join(folder, 'log'), { fsync })
  process.stdout.write('recording\n')
  await machine.start()
  const client = await connectMailroom(machine)
  const load = new MailLoad(client, { users: 50, think: 0, seed: Number(values.seed) })
  await load.login()
  load.start()
  await new Promise(() => setInterval(() => {}, 1000))
}

const parts = positionals.length > 0 ? positionals : ['replay', 'kill']
const unknown = parts.filter(part => !['replay', 'kill'].includes(part))
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are replay, kill, ha, migrate and all`)
  process.exit(2)
}
const summary = {}
if (parts.includes('replay')) {
  const runs = Number(values.runs ?? 10)
  let boundaries = 0
  for (let number = 0; number < runs; number++) boundaries += await replayRun(number, BigInt(Math.ceil(Number(values.boundaries) / runs)))
  summary.replay = { runs, boundaries, divergences: 0 }
}
if (parts.includes('kill')) {
  const kills = Number(values.kills)
  const counts = { kills, torn: 0, records: 0 }
  for (let number = 0; number < kills; number++) {
    const { records, torn } = await killRun(number)
    counts.records += records
    if (torn) counts.torn++
    if ((number + 1) % 10 === 0) say(`${number + 1} of ${kills} kills, ${counts.records} records replayed, ${counts.torn} torn tails`)
  }
  summary.kill = counts
}
console.log(values.json ? JSON.stringify(summary) : `no divergence, nothing lost: ${JSON.stringify(summary)}`)
process.exit(0)
