// The demonstration as its users run it: a process, its output, its exit code, and what it leaves behind.
import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { Topology, TopologyError } from '../../lib/cli/demo/topology.js'
import { noKvm } from '../no_kvm.js'
import { limit } from '../patience.js'

const command = path.resolve('dist/cli/main.js')

function hypertwin(args: string[], env: NodeJS.ProcessEnv = process.env): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [command, ...args], { encoding: 'utf8', timeout: limit(120_000), env })
}

type Json = Record<string, unknown>

/** The one line of JSON that the command printed. */
function json(result: SpawnSyncReturns<string>): Json {
  const lines = result.stdout.trimEnd().split('\n')
  if (lines.length !== 1) throw new Error(`${lines.length} lines instead of one: ${result.stdout}\n${result.stderr}`)
  return JSON.parse(lines[0]!) as Json
}

const noNetwork =
  noKvm ||
  (await (async () => {
    try {
      ;(await Topology.create(1)).close()
      return false
    } catch (error) {
      if (!(error instanceof TopologyError)) throw error
      return error.message
    }
  })())

/** What the users must have seen, however packets went. */
function survived(t: Test, report: Json): void {
  t.match(report, {
    pauseMs: Number,
    gapP99Ms: Number,
    lostAcknowledged: 0,
    brokenConnections: 0,
    reprotected: true,
    // A machine too busy takes host 1 for dead before its time, and it halts.
    detectMs: report['killedTooLate'] === true ? null : Number,
    claimMs: Number,
    replayMs: Number,
    liveMs: Number,
    digestSurvivor: /^[0-9a-f]{32}$/,
    digestBackup: report['digestSurvivor'] as string,
    failover: { operations: Number, surplus: 0, unanswered: 0, errors: 0 }
  })
  const { operations, acknowledged } = report['failover'] as Record<string, number>
  t.ok(operations! > 20)
  t.equal(acknowledged, operations)
}

t.test('demo', { skip: noNetwork }, async t => {
  const out = path.join(t.testdir({}), 'demo')
  const result = hypertwin(['demo', '--json', '--seconds', '4', '--users', '20', '--out', out])
  t.equal(result.status, 0, result.stderr)
  const report = json(result)
  t.match(report, {
    operations: Number,
    acknowledged: Number,
    lost: 0,
    surplus: 0,
    unanswered: 0,
    boundaries: Number,
    logBytes: Number,
    inputBytes: Number,
    dirtyPages: Number,
    dirtyMode: /^(bitmap|manual|ring)$/,
    digestRecorded: /^[0-9a-f]{32}$/,
    digestReplayed: report['digestRecorded'] as string,
    equal: true,
    diverged: false,
    users: 20,
    seconds: Number,
    replaySeconds: Number,
    p50: Number,
    p99: Number
  })
  t.ok((report['operations'] as number) > 20)
  t.equal(report['acknowledged'], report['operations'])
  t.ok((report['boundaries'] as number) > 0)
  t.ok((report['dirtyPages'] as number) > 0)
  t.ok((report['logBytes'] as number) > (report['inputBytes'] as number))
  survived(t, report)
  t.match(report, { network: 'namespaces', hosts: 3, kill: 'auto', silent: false, arbiter: 'file' })

  t.equal(readFileSync(path.join(out, 'heat.png')).toString('latin1', 1, 4), 'PNG')
  t.match(readFileSync(path.join(out, 'heat.svg'), 'utf8'), /<svg /)
  t.match(readFileSync(path.join(out, 'failover.svg'), 'utf8'), /<svg [^]*SIGKILL[^]*live/)
  t.same(JSON.parse(readFileSync(path.join(out, 'report.json'), 'utf8')), report)
  t.match(readFileSync(path.join(out, 'report.md'), 'utf8'), report['digestReplayed'])
  t.same(readdirSync(out).filter(name => /\.(img|sock)$/.test(name)), [])
  // A line a second where there is no terminal.
  t.match(result.stderr, /op\/s .* dirty pages\/s .*\/s log .* p50 .* p99/)
  t.match(result.stderr, /host 1 was killed[^]*host 2 (is|was) live[^]*host 3 has joined/)
  t.match(hypertwin(['log', 'verify', path.join(out, 'log')]), { status: 0, stdout: /It is whole/ })

  const again = hypertwin(['replay', path.join(out, 'log'), '--json'])
  t.equal(again.status, 0, again.stderr)
  t.match(json(again), { digest: report['digestRecorded'] as string, complete: true, boundaries: report['boundaries'] })
})

t.test('demo, the power cut silently', { skip: noNetwork }, async t => {
  const out = path.join(t.testdir({}), 'demo')
  const result = hypertwin(['demo', '--json', '--silent', '--seconds', '2', '--users', '20', '--out', out])
  t.equal(result.status, 0, result.stderr)
  survived(t, json(result))
  t.match(json(result), { silent: true, cause: /^(HEARTBEAT|PEER_LOST)$/ })
})

t.test('demo, without network namespaces', { skip: noKvm }, async t => {
  const out = path.join(t.testdir({}), 'demo')
  const result = hypertwin(['demo', '--json', '--seconds', '2', '--users', '20', '--out', out], {
    ...process.env,
    PATH: '/nonexistent'
  })
  t.equal(result.status, 0, result.stderr)
  t.match(result.stderr, /No network namespaces: the program ip is missing/)
  t.match(json(result), { network: 'processes' })
  survived(t, json(result))
})

t.test('demo, interrupted', { skip: noKvm }, async t => {
  const out = path.join(t.testdir({}), 'demo')
  const child = spawn(process.execPath, [command, 'demo', '--seconds', '600', '--users', '10', '--out', out])
  const closed = new Promise<number | null>(resolve => child.on('close', resolve))
  let text = ''
  for await (const line of createInterface({ input: child.stdout })) {
    text += `${line}\n`
    if (line.includes('op/s')) child.kill('SIGINT')
  }
  t.equal(await closed, 130)
  t.match(text, /Interrupted\. The log is whole: /)
  const log = path.join(out, 'log')
  t.match(json(hypertwin(['log', 'verify', log, '--json'])), { ok: true, ended: true })
  t.match(json(hypertwin(['replay', log, '--json'])), { stop: 'log-end', complete: true, diverged: false })
  t.notOk(existsSync(path.join(out, 'mail.img')))
})
