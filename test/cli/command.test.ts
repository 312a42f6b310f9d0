// The hypertwin command as its users run it: a process, its arguments, its output, its exit code.
import { spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { guestPath } from '../../lib/index.js'
import { Recording } from '../../lib/eventlog/index.js'
import { Machine } from '../../lib/machine/index.js'
import { noKvm } from '../no_kvm.js'
import { limit } from '../patience.js'

const command = path.resolve('dist/cli/main.js')

function hypertwin(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [command, ...args], { encoding: 'utf8', timeout: limit(120_000) })
}

/** The one line of JSON that the command printed. */
function json(result: SpawnSyncReturns<string>): Record<string, unknown> {
  const lines = result.stdout.trimEnd().split('\n')
  if (lines.length !== 1) throw new Error(`${lines.length} lines instead of one: ${result.stdout}\n${result.stderr}`)
  return JSON.parse(lines[0]!) as Record<string, unknown>
}

const commands = ['demo', 'run', 'record', 'replay', 'dirty', 'log show', 'log verify', 'doctor']

t.test('help', async t => {
  for (const name of commands) {
    const { status, stdout, stderr } = hypertwin(...name.split(' '), '--help')
    t.equal(status, 0, name)
    t.match(stdout, `Usage: hypertwin ${name}`)
    t.match(stdout, /Example:\n {2}\$ hypertwin /)
    t.match(stdout, '--json')
    t.equal(stderr, '')
  }
  const all = hypertwin('--help').stdout
  for (const name of commands) t.match(all, `  ${name.split(' ')[0]} `)
  t.match(hypertwin('--version'), { status: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
})

t.test('wrong arguments: one line that says what to do, exit code 2', async t => {
  const empty = t.testdir({})
  const used = t.testdir({ 'a file': '' })
  for (const args of [
    ['demo', '--users', '0'],
    ['demo', '--users', '257'],
    ['demo', '--seconds', '-1'],
    ['demo', '--seconds', 'soon'],
    ['demo', '--memory', '32 apples'],
    ['demo', '--mode', 'magic'],
    ['demo', '--hosts', '1'],
    ['demo', '--kill', 'softly'],
    ['demo', '--arbiter', 'coin'],
    ['demo', '--bogus'],
    ['demo', 'surplus'],
    ...(noKvm ? [] : [['demo', '--out', used]]),
    ['run'],
    ['run', '--kernel', 'nosuchguest'],
    ['run', '--kernel', 'hello', '--restore', 'x'],
    ['run', '--kernel', 'hello', '--cache', 'x'],
    ['run', '--restore', 'x', '--digest', 'x'],
    ['run', '--restore', 'x', '--page'],
    ['run', '--kernel', 'hello', '--gate', 'none'],
    ['run', '--kernel', 'hello', '--cpus', '0'],
    ['run', '--kernel', 'hello', '--cid', '4'],
    // What is in the snapshot.
    ['run', '--restore', 'x', '--cpus', '2'],
    ['run', '--restore', 'x', '--append', 'quiet'],
    ['run', '--restore', 'x', '--disk', 'image.raw,ro'],
    ['run', '--kernel', 'hello', '--board', 'magic'],
    ['record', 'hello'],
    ['record', 'nosuchguest', '--out', path.join(empty, 'x')],
    ['record', './no/such/file', '--out', path.join(empty, 'x')],
    ['record', 'hello', '--out', path.join(empty, 'x'), '--seconds', '1', '--until-poweroff'],
    ['replay'],
    ['replay', path.join(empty, 'nothing')],
    ['replay', empty, '--to', '-1'],
    ['dirty'],
    ['dirty', 'hello', '--interval', '1'],
    ['log', 'show', path.join(empty, 'nothing')],
    ['log', 'show', empty],
    ['log', 'show', empty, '--kind', 'everything'],
    ['log', 'show', empty, '--limit', '0'],
    ['log', 'verify', empty],
    ['mail']
  ]) {
    const { status, stdout, stderr } = hypertwin(...args)
    t.equal(status, 2, args.join(' '))
    t.equal(stdout, '')
    t.match(stderr, /^(hypertwin|error): .+\n$/)
  }
})

t.test('without KVM: says so and what to do, exit code 3', async t => {
  const log = t.testdir({})
  for (const args of [
    ['demo'],
    ['record', 'hello', '--out', path.join(log, 'x')],
    ['replay', log],
    ['dirty', 'hello']
  ]) {
    const result = hypertwin(...args, '--kvm-device', '/nonexistent/kvm', '--json')
    t.equal(result.status, 3, args.join(' '))
    t.match(result.stderr, /^hypertwin: KVM cannot be used here: .*hypertwin doctor/)
    t.match(json(result), { error: { code: 'ENOENT', message: /nonexistent/ } })
  }
  t.notOk(existsSync('out/demo'))
})

t.test('record, replay and log of a guest that powers off', { skip: noKvm }, async t => {
  const log = path.join(t.testdir({}), 'hello.log')
  const recorded = hypertwin('record', 'hello', '--out', log, '--memory', '16MiB')
  t.equal(recorded.status, 0, recorded.stderr)
  t.match(recorded.stdout, /hello from hypertwin[^]*ticks 5[^]*boundaries in [^]*state [0-9a-f]{32}/)
  const state = /state ([0-9a-f]{32})/.exec(recorded.stdout)![1]!

  const replayed = hypertwin('replay', log)
  t.equal(replayed.status, 0, replayed.stderr)
  t.match(replayed.stdout, `state ${state}`)
  t.match(replayed.stdout, /as recorded/)
  const report = json(hypertwin('replay', log, '--json'))
  t.match(report, { stop: 'log-end', complete: true, digest: state, diverged: false, divergence: null })
  t.match(json(hypertwin('replay', log, '--to', '10', '--json')), { stop: 'boundary', boundary: 10 })
  t.match(hypertwin('replay', log, '--to', '99999999'), { status: 2, stderr: /Boundary 99999999 is not in this log/ })

  const shown = hypertwin('log', 'show', log)
  t.equal(shown.status, 0)
  const lines = shown.stdout.trimEnd().split('\n')
  t.match(lines.at(-1), / end +stopped$/)
  t.ok(lines.some(line => line.includes(' interrupt ')))
  const some = hypertwin('log', 'show', log, '--kind', 'interrupt,time', '--limit', '3', '--json')
  const objects = some.stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as { kind: string })
  t.equal(objects.length, 3)
  for (const { kind } of objects) t.match(kind, /^(interrupt|time)$/)
  const from = (objects[2] as unknown as { boundary: number }).boundary
  const later = hypertwin('log', 'show', log, '--from', String(from), '--limit', '1', '--json')
  t.ok((JSON.parse(later.stdout) as { boundary: number }).boundary >= from)
  t.equal(hypertwin('log', 'show', log, '--follow').stdout, shown.stdout)

  t.match(hypertwin('record', 'hello', '--out', log), { status: 2, stderr: /log/ })
})

t.test('a reader that goes away', { skip: noKvm }, async t => {
  const log = path.join(t.testdir({}), 'log')
  hypertwin('record', 'exits', '--append', 'count=20000', '--out', log, '--memory', '16MiB')
  const { stdout, stderr } = spawnSync(
    'bash',
    ['-c', `"${process.execPath}" "${command}" log show "${log}" --json | head -1; echo "\${PIPESTATUS[0]}"`],
    { encoding: 'utf8' }
  )
  t.equal(stderr, '')
  t.match(stdout, /^\{.*\}\n0\n$/)
})

t.test('record for some seconds, with a disk and a network device', { skip: noKvm }, async t => {
  const folder = t.testdir({ 'disk.img': Buffer.alloc(1 << 20) })
  const log = path.join(folder, 'log')
  const recorded = hypertwin(
    ...['record', 'mailroom', '--out', log, '--disk', path.join(folder, 'disk.img'), '--net'],
    ...['--memory', '16MiB', '--append', 'ip=10.0.0.9 mails=100', '--seconds', '0.5', '--json']
  )
  t.equal(recorded.status, 0, recorded.stderr)
  t.match(json(recorded), { state: 'running', digest: /^[0-9a-f]{32}$/, interrupted: false })
  t.equal(hypertwin('replay', log).status, 0)
})

t.test('a guest that cannot be, and one that dies', { skip: noKvm }, async t => {
  const folder = t.testdir({ 'guest.elf': 'no ELF file' })
  t.match(hypertwin('record', path.join(folder, 'guest.elf'), '--out', path.join(folder, 'a')), {
    status: 2,
    stderr: /^hypertwin: .+\n$/
  })
  const log = path.join(folder, 'b')
  const died = hypertwin('record', 'mailroom', '--out', log, '--memory', '16MiB', '--json')
  t.equal(died.status, 1)
  t.match(json(died), { reason: 'halted' })
  t.equal(hypertwin('replay', log).status, 0)
})

const noMount =
  noKvm ||
  (spawnSync('unshare', ['-m', 'true']).status === 0 ? false : 'no permission to mount a small file system')

t.test('a full disk', { skip: noMount }, async t => {
  const folder = t.testdir({})
  const full = (size: string, ...args: string[]) =>
    spawnSync(
      'unshare',
      [
        '-m',
        'sh',
        '-c',
        `mount -t tmpfs -o size=${size} tmpfs "$0" && "$@"; rc=$?; cp -r "$0"/log ${folder}.log; exit $rc`,
        folder,
        process.execPath,
        command,
        ...args,
        ...['--memory', '16MiB', '--json']
      ],
      { encoding: 'utf8', timeout: limit(60_000) }
    )
  const log = `${folder}.log`
  t.teardown(() => rmSync(log, { recursive: true, force: true }))
  const record = full('300k', 'record', 'exits', '--append', 'count=100000000', '--out', path.join(folder, 'log'))
  t.equal(record.status, 1)
  t.match(json(record), { error: { code: 'LOG_WRITE_FAILED', message: /ENOSPC/ } })
  t.match(json(hypertwin('log', 'verify', log, '--json')), { ok: true, ended: false })
  t.match(json(hypertwin('replay', log, '--json')), { stop: 'log-end', complete: false, diverged: false })
  // Disk image and log are on the same full file system here: the guest or the recorder gives up first.
  const demo = full('3m', 'demo', '--seconds', '60', '--out', path.join(folder, 'log'))
  t.equal(demo.status, 1)
  t.match(json(demo), { error: { code: String } })
})

t.test('a damaged log', { skip: noKvm }, async t => {
  const log = path.join(t.testdir({}), 'log')
  hypertwin('record', 'exits', '--append', 'count=20000', '--out', log, '--memory', '16MiB')
  const segment = path.join(log, readdirSync(log).find(name => name.endsWith('.htlog'))!)
  const bytes = readFileSync(segment)
  bytes[statSync(segment).size >> 1]! ^= 1
  writeFileSync(segment, bytes)
  const verified = hypertwin('log', 'verify', log)
  t.equal(verified.status, 1)
  t.match(verified.stdout, /damaged: /)
  t.match(json(hypertwin('log', 'verify', log, '--json')), { ok: false, damages: [{ gap: true }] })
  const shown = hypertwin('log', 'show', log)
  t.equal(shown.status, 1)
  t.match(shown.stdout, /^-- /m)
})

t.test('a replay that strays', { skip: noKvm }, async t => {
  const log = path.join(t.testdir({}), 'log')
  const machine = await Machine.create({ kernel: guestPath('hello'), memory: '16MiB' })
  const recording = await Recording.start(machine, log, { plantedFaults: { shiftInterrupt: 2 } })
  await machine.start()
  await machine.waitFor('stopped')
  await recording.stop()
  await machine.close()
  const replayed = hypertwin('replay', log)
  t.equal(replayed.status, 1)
  t.match(replayed.stdout, /DIVERGED[^]*The replay strays from the log at boundary \d+/)
  t.match(json(hypertwin('replay', log, '--json')), {
    diverged: true,
    divergence: { boundary: Number, kind: String, message: String }
  })
})

t.test('dirty', { skip: noKvm }, async t => {
  const folder = t.testdir({})
  const [png, svg] = [path.join(folder, 'heat.png'), path.join(folder, 'heat.svg')]
  const args = ['dirty', 'dirtier', '--memory', '32MiB', '--append', 'pages=256 count=256 rounds=0', '--interval', '50']
  const result = hypertwin(...args, '--seconds', '0.5', '--png', png, '--svg', svg, '--json')
  t.equal(result.status, 0, result.stderr)
  const report = json(result)
  t.match(report, { mode: String, harvests: Number, interrupted: false })
  t.ok((report['uniquePages'] as number) >= 256)
  t.equal(readFileSync(png).toString('latin1', 1, 4), 'PNG')
  t.match(readFileSync(svg, 'utf8'), /<svg /)
  t.match(hypertwin(...args, '--seconds', '0.2').stdout, /dirty pages in /)
})

t.test('doctor', async t => {
  const result = hypertwin('doctor', '--json')
  t.type(json(result), 'object')
  t.equal(result.status, noKvm ? 3 : 0)
  t.ok(hypertwin('doctor').stdout.split('\n').length > 5)
})
