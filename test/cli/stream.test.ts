// `hypertwin stream` as its users run it: from an image to a pack, a served copy, a trace, a profile and a picture.
import { execFileSync, spawn, spawnSync, type ChildProcess, type SpawnSyncReturns } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { guestPath } from '../../lib/index.js'
import { Manifest, Profile, whyNoNbd, type StreamProgress } from '../../lib/stream/index.js'
import { guest } from '../machine/support.js'
import { certificates, freePort, noOpenssl } from '../arbiter/support.js'
import { noKvm } from '../no_kvm.js'
import { limit } from '../patience.js'
import { checkCache, CHUNK, imageBytes, noEmulation, noise, scratch, until, WebServer } from '../stream/support.js'

const command = path.resolve('dist/cli/main.js')
process.env['PATH'] += ':/usr/sbin:/sbin'
const lacks = (...programs: string[]): string | false => {
  const missing = programs.filter(name => spawnSync(name, ['--version']).error)
  return missing.length > 0 && `missing: ${missing.join(', ')}`
}
const noNbd = whyNoNbd()?.message ?? lacks('qemu-img', 'qemu-io')

function stream(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [command, 'stream', ...args], { encoding: 'utf8', timeout: limit(120_000) })
}

function json(result: SpawnSyncReturns<string>): Record<string, unknown> {
  const lines = result.stdout.trimEnd().split('\n')
  if (lines.length !== 1) throw new Error(`${lines.length} lines instead of one: ${result.stdout}\n${result.stderr}`)
  return JSON.parse(lines[0] as string) as Record<string, unknown>
}

interface Running {
  child: ChildProcess
  lines: Record<string, unknown>[]
  event: (name: string) => Promise<Record<string, unknown>>
  /** On its standard error, so far. */
  told: () => string
}

/** A command that goes on, and its lines of JSON. */
function running(t: Test, ...args: string[]): Running {
  const separator = args.indexOf('--')
  const own = separator < 0 ? args.length : separator
  const child = spawn(process.execPath, [command, 'stream', ...args.slice(0, own), '--json', ...args.slice(own)], { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
  t.teardown(() => child.kill('SIGKILL'))
  const lines: Record<string, unknown>[] = []
  createInterface({ input: child.stdout }).on('line', line => lines.push(JSON.parse(line) as Record<string, unknown>))
  const event = async (name: string): Promise<Record<string, unknown>> => {
    await until(() => child.exitCode !== null || lines.some(line => line['event'] === name))
    const found = lines.find(line => line['event'] === name)
    if (!found) throw new Error(`no ${name}: it ended with ${child.exitCode}: ${said}`)
    return found
  }
  return { child, lines, event, told: () => said }
}

/** A folder with an image and its pack. */
function packedIn(t: Test, bytes: Buffer): (name: string) => string {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  writeFileSync(at('image'), bytes)
  stream('pack', at('image'), at('pack'))
  return at
}

t.test('help', async t => {
  for (const name of ['pack', 'serve', 'run', 'status', 'examine', 'trace']) {
    const { status, stdout } = stream(name, '--help')
    t.equal(status, 0)
    t.match(stdout, `Usage: hypertwin stream ${name}`)
    t.match(stdout, /Example:\n {2}\$ hypertwin stream /)
    t.match(stdout, '--json')
    t.equal(stdout.replace(/\s+/g, ' ').includes('(required)'), !['pack', 'status'].includes(name))
  }
})

t.test('wrong arguments: one line that says what to do, exit code 2', async t => {
  const folder = t.testdir({ image: 'x'.repeat(10_000) })
  const at = (name: string): string => path.join(folder, name)
  for (const args of [
    ['pack'],
    ['pack', at('image')],
    ['pack', at('image'), at('pack'), '--chunk-size', '1000'],
    ['pack', at('image'), at('pack'), '--quality', '12'],
    ['pack', at('image'), at('pack'), '--format', 'vmdk'],
    ['serve', at('pack')],
    ['serve', at('pack'), '--cache', at('cache'), '--gate', 'soon'],
    ['serve', at('pack'), '--cache', at('cache'), '--digest', 'abc'],
    ['serve', at('pack'), '--cache', at('cache'), '--socket', 'x', '--listen', 'y:1'],
    ['serve', at('pack'), '--cache', at('cache'), '--listen', '127.0.0.1:0'],
    ['serve', at('pack'), '--cache', at('cache'), '--listen', '127.0.0.1:65536'],
    ['serve', at('pack'), '--cache', at('cache'), '--page', '127.0.0.1:65536'],
    ['run', at('pack'), '--cache', at('cache'), '--page', 'here'],
    ['serve', 'ftp://x/', '--cache', at('cache')],
    ['serve', at('pack'), '--cache', at('cache'), '--wait', '-1'],
    ['serve', 'https://x/', '--cache', at('cache'), '--header', 'no colon'],
    ['serve', 'https://x/', '--cache', at('cache'), '--header', 'a b: c'],
    ['serve', 'https://x/', '--cache', at('cache'), '--header', `@${at('image')}`],
    ['run', at('pack'), '--cache', at('cache'), '--cpus', '0'],
    ['run', at('pack'), '--cache', at('cache'), '--append', 'quiet'],
    ['status', folder],
    ['trace', at('image')],
    ['nosuch']
  ]) {
    const { status, stdout, stderr } = stream(...args)
    t.same({ status, stdout, lines: stderr.trimEnd().split('\n').length }, { status: 2, stdout: '', lines: 1 }, args.join(' '))
  }
  t.notMatch(stream('serve', 'https://x/', '--cache', at('cache'), '--header', 'secret').stderr, /secret/, 'what may be a secret is not repeated')
  const failed = stream('pack', at('nosuch'), at('pack'))
  t.equal(failed.status, 1)
  t.match(failed.stderr, /^hypertwin: packing .*nosuch.*ENOENT/)
  t.match(stream('serve', at('pack'), '--cache', at('cache')).stderr, /stream pack/)
  t.match(stream('trace', at('image'), '--image', at('pack')).stderr, /stream pack/)
})

t.test('from an image to a whole copy, with a profile learnt on the way', { skip: noNbd, timeout: limit(240_000) }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  const bytes = imageBytes(60)
  writeFileSync(at('image'), bytes)
  const packed = json(stream('pack', at('image'), at('pack'), '--json'))
  t.equal(packed['imageDigest'], createHash('sha256').update(bytes).digest('hex'))
  t.match(stream('pack', at('image'), at('pack')).stdout, new RegExp(`${packed['digest'] as string}\n$`))

  const first = running(t, 'serve', at('pack'), '--cache', at('one'), '--socket', at('s'), '--trace', at('trace'), '--gate', 'none', '--no-fill', '--profile', 'none', '--page', '--picture', at('blocks.svg'))
  const { uri, streams, page } = await first.event('serving')
  t.equal(streams, true)
  t.match(await (await fetch(`${page as string}progress.json`)).json(), { title: at('pack'), state: 'rest' })
  const read = spawnSync('qemu-io', ['-r', '-f', 'raw', '-c', `read ${40 * CHUNK} 512`, '-c', `read ${12 * CHUNK} 512`, uri as string], { encoding: 'utf8' })
  t.equal(read.status, 0, read.stderr)
  const status = json(stream('status', at('one'), '--json'))
  t.match(status, { chunks: 45, progress: { state: 'rest', demands: { count: Number } } })
  t.match(stream('status', at('one'), '--map').stdout, /rest: .*\n[^]*·/)
  first.child.kill('SIGINT')
  const [code] = (await once(first.child, 'exit')) as [number]
  t.equal(code, 130)
  t.notOk(existsSync(at('s')), 'nbdkit has gone with it')
  t.match(readFileSync(at('blocks.svg'), 'utf8'), /waited for by a read: \d/)
  t.match(stream('status', at('one')).stdout, /Nobody streams into it: \d+ of 45 chunks/)

  const learnt = json(stream('trace', at('trace'), '--image', at('pack'), '--out', at('profile.json'), '--json'))
  t.ok((learnt['chunks'] as number) >= 2)
  const again = json(stream('pack', at('image'), at('pack2'), '--profile', at('profile.json'), '--json'))
  t.equal(again['imageDigest'], packed['imageDigest'])
  t.match(stream('trace', at('trace'), '--image', at('pack2')).stderr, /another image/)

  const second = running(t, 'serve', at('pack2'), '--cache', at('two'), '--digest', again['digest'] as string)
  await second.event('ready')
  await second.event('complete')
  t.ok(readFileSync(at('two/image')).equals(bytes))
  // A second one on the same cache serves at once, and streams when the first one has gone.
  const third = running(t, 'serve', at('pack2'), '--cache', at('two'))
  t.equal((await third.event('serving'))['streams'], false)
  second.child.kill('SIGKILL')
  await until(() => stream('status', at('two')).stdout.startsWith('complete'))
  const copy = at('copy')
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', (await third.event('serving'))['uri'] as string, copy])
  t.ok(readFileSync(copy).subarray(0, bytes.length).equals(bytes))
  third.child.kill('SIGINT')
  await once(third.child, 'exit')
  process.kill((await second.event('serving'))['pid'] as number, 'SIGTERM')
})

t.test('a qcow2 image, served where the network reaches it, and written to', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  const bytes = noise(40 * CHUNK, 'qcow2')
  writeFileSync(at('image'), bytes)
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', at('image'), at('image.qcow2')])
  const packed = json(stream('pack', at('image.qcow2'), at('pack'), '--format', 'qcow2', '--json'))
  t.equal(packed['imageDigest'], createHash('sha256').update(bytes).digest('hex'), 'it is the disk that is packed')

  const listen = `127.0.0.1:${await freePort()}`
  const one = running(t, 'serve', at('pack'), '--cache', at('cache'), '--listen', listen, '--writable', '--page', '--allow-host', 'watch.example')
  const { uri, page } = (await one.event('serving')) as { uri: string; page: string }
  t.equal(uri, `nbd://${listen}`)
  const { status, stdout } = spawnSync('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 4k', '-c', 'read -P 7 0 4k', uri], { encoding: 'utf8' })
  t.equal(status, 0, stdout)
  const called = async (name: string): Promise<number | undefined> => {
    const [answer] = (await once(get(page, { headers: { host: name } }), 'response')) as [IncomingMessage]
    answer.resume()
    return answer.statusCode
  }
  t.same([await called('watch.example'), await called('other.example')], [200, 421])
  await one.event('complete')
  one.child.kill('SIGINT')
  await once(one.child, 'exit')
  t.ok(readFileSync(at('cache/image')).equals(bytes), 'what was written is not in the copy')
})

t.test('a profile of several traces, of what was read early', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'traces'))
  for (const [name, ...chunks] of [['one', 3, 20], ['two', 20, 30]] as const) {
    const { child, event } = running(t, 'serve', at('pack'), '--cache', at(`cache-${name}`), '--trace', at(name), '--no-fill')
    const { uri } = (await event('serving')) as { uri: string }
    t.equal(spawnSync('qemu-io', ['-r', '-f', 'raw', ...chunks.flatMap(chunk => ['-c', `read ${chunk * CHUNK} 512`]), uri]).status, 0)
    child.kill('SIGINT')
    await once(child, 'exit')
  }
  // As if each had waited for two seconds before its last read (docs/stream-format.md, A trace).
  for (const name of ['one', 'two']) {
    const trace = readFileSync(at(name))
    const last = trace.length - 16
    trace.writeBigUInt64LE(trace.readBigUInt64LE(last) + 2_000_000n, last)
    writeFileSync(at(name), trace)
  }
  const learn = async (...args: string[]): Promise<[number, number, number][]> => {
    t.equal(stream('trace', at('one'), at('two'), '--image', at('pack'), '--out', at('profile'), ...args).status, 0)
    const { traces, entries } = await Profile.load(at('profile'))
    return entries.map(({ chunk, seen }) => [chunk, seen, traces])
  }
  // Opening a disk QEMU reads its first chunk.
  const all = (await learn()).filter(([chunk]) => chunk !== 0)
  t.same(new Set(all.map(String)), new Set(['3,1,2', '20,2,2', '30,1,2']), 'what both have is seen twice')
  const early = (await learn('--seconds', '2')).filter(([chunk]) => chunk !== 0)
  t.same(new Set(early.map(String)), new Set(['3,1,2', '20,1,2']), 'the last reads came later')
})

t.test('a profile that does not fit is told of', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'fits'))
  const old = noise(40 * CHUNK, 'fits').fill(0xff, 3 * CHUNK, 4 * CHUNK)
  writeFileSync(at('old'), old)
  stream('pack', at('old'), at('oldpack'))
  stream('pack', at('old'), at('large'), '--chunk-size', '128KiB')
  const manifest = new Manifest(readFileSync(at('oldpack/manifest')))
  writeFileSync(at('profile'), Profile.fromOrder(manifest, [{ chunk: 3, atMs: 0 }, { chunk: 20, atMs: 1 }], 1).toString())
  for (const [pack, said, profile] of [
    ['oldpack', undefined, { unchanged: 2, moved: 0, stale: 0, placed: 0 }],
    ['pack', /of its 2 chunks 1 are as they were, 0 lie elsewhere now, and 1 are there no more\n/, { unchanged: 1, moved: 0, stale: 1, placed: 0 }],
    ['large', /is of chunks of another size: .* its 2 chunks/, { unchanged: 0, moved: 0, stale: 0, placed: 2 }]
  ] as const) {
    const { child, event, told } = running(t, 'serve', at(pack), '--cache', at(`cache-${pack}`), '--profile', at('profile'))
    await event('ready')
    if (said) t.match(told(), said)
    else t.notMatch(told(), /The profile/)
    t.match(json(stream('status', at(`cache-${pack}`), '--json')), { progress: { profile } })
    child.kill('SIGINT')
    await once(child, 'exit')
  }
})

/**
 * A disk that boots, of 16 MiB which nothing else looks at: the firmware reads by its interrupt 13h. Its boot sector reads the
 * sectors 4096 n, n from 7 to 1, of which each must begin with n; then sector 1, which counts; says so to the serial port;
 * writes that sector back with one more; and resets the machine, or with `stay` stands still.
 */
function bootable(stay = false): Buffer {
  const bytes = noise(256 * CHUNK, 'boots').fill(0, 0, 3 * 512)
  const code =
    // 7c00: stack and segments; cx = 7
    'fa 31c0 8ed8 8ec0 8ed0 bc007c fb b90700' +
    // 7c10: push cx; lba = cx << 12; read; pop cx; the word there is cx, or 7c53; loop
    '51 89c8 c1e00c a3717c b442 e84100 a10080 59 39c8 752d e2e8' +
    // 7c28: lba = 1; read; the digit is what is there; one more; write
    'c706717c0100 b442 e82c00 a00080 0430 a2827c fe060080 b80043 e81a00' +
    // 7c45: the text, to port 3f8
    'be797c ac 84c0 740b baf803 ee ebf5' +
    // 7c53: what is wrong, in its place
    'be867c ebf0' +
    // 7c58: reset, by the keyboard's controller; halt
    'b0fe e664 f4 ebfd' +
    // 7c5f: int 13h for drive 80h by the packet at 7c69: one sector, to 8000; carry is 7c53
    'b280 be697c cd13 72eb c3' +
    '10 00 0100 0080 0000 0000000000000000'
  bytes.write(code.replaceAll(' ', ''), 'hex')
  bytes.write('streamed 0\r\n\0wrong\r\n\0', 0x79, 'latin1')
  if (stay) bytes.write('9090', 0x5a, 'hex')
  bytes.write('55aa', 510, 'hex')
  for (let n = 1; n <= 7; n++) bytes.writeUInt16LE(n, n * 4096 * 512)
  return bytes
}

const noQemu = noEmulation ?? (noNbd || lacks('qemu-system-x86_64', 'setpriv'))

t.test('run: a machine boots from its image while that comes, and writes to its overlay', { skip: noQemu, timeout: limit(240_000) }, async t => {
  const bytes = bootable()
  const at = packedIn(t, bytes)
  const web = await WebServer.start(t, at('pack'))
  const runs = async (...options: string[]): Promise<{ said: string; result: { status: number; progress: StreamProgress } }> => {
    const { child, lines, told } = running(t, 'run', web.url, '--cache', at('cache'), '--accel', 'tcg', '--memory', '64MiB', '--gate', 'none', '--no-fill', ...options, '--', '-no-reboot')
    t.same(await once(child, 'close'), [0, null], told())
    return { said: told(), result: lines[0] as { status: number; progress: StreamProgress } }
  }
  const first = await runs()
  t.match(first.said, 'streamed 0\r\n')
  t.match(first.result, { status: 0, progress: { reads: { failed: 0 } } })
  const { fetched, reads } = first.result.progress
  t.ok(reads.count >= 9, `${reads.count} reads`)
  const came = Object.values(fetched).reduce((a, b) => a + b)
  t.ok(came >= 7 * CHUNK && came < bytes.length / 4, `${came} of ${bytes.length} bytes have come`)
  t.match((await runs()).said, 'streamed 0\r\n', 'what it wrote went with it')
  const overlay = ['--overlay', at('overlay')]
  t.match((await runs(...overlay)).said, 'streamed 0\r\n')
  t.match((await runs(...overlay)).said, 'streamed 1\r\n', 'what it wrote is in the overlay')
  t.ok((await checkCache(at('cache'), bytes)) >= 8, 'and not in the copy')
})

t.test('run: a kernel from outside of the image', { skip: noQemu, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, bootable())
  const { child, told } = running(t, 'run', at('pack'), '--cache', at('cache'), '--accel', 'tcg', '--memory', '64MiB', '--kernel', guestPath('hello'), '--initrd', at('image'), '--append', 'ticks=500')
  const says = async (text: string): Promise<void> => {
    await until(() => child.exitCode !== null || told().includes(text))
    t.match(told(), text)
  }
  await says('hello from hypertwin')
  t.equal(spawnSync('pgrep', ['-f', `qemu-system.* -initrd ${at('image')}`]).status, 0)
  await says('ticks 500')
  child.kill('SIGTERM')
  await once(child, 'exit')
})

t.test('run: an overlay of another image is told of before all has come', { skip: noQemu, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'overlay'))
  const web = await WebServer.start(t, at('pack'))
  web.trouble = ({ name }) => name.endsWith('.chunks')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', at('overlay'), '1M'])
  const { child, told } = running(t, 'run', web.url, '--cache', at('cache'), '--gate', 'all', '--overlay', at('overlay'))
  t.same(await once(child, 'close'), [2, null])
  t.match(told(), /overlay is no overlay of this image/)
})

t.test('run: killed, its machine ends with it, and the same command starts it again', { skip: noQemu, timeout: limit(240_000) }, async t => {
  const at = packedIn(t, bootable(true))
  const args = ['run', at('pack'), '--cache', at('cache'), '--accel', 'tcg', '--memory', '64MiB', '--overlay', at('overlay')]
  for (const [turn, end] of (['SIGKILL', 'SIGKILL', 'SIGTERM'] as const).entries()) {
    const { child, told } = running(t, ...args)
    await until(() => child.exitCode !== null || told().includes(`streamed ${turn}\r\n`))
    t.match(told(), `streamed ${turn}\r\n`)
    const [qemu] = execFileSync('pgrep', ['-f', `filename=${at('overlay')}`], { encoding: 'utf8' }).split('\n')
    child.kill(end)
    await once(child, 'exit')
    await until(() => !existsSync(`/proc/${qemu}/exe`))
  }
  t.ok((await checkCache(at('cache'), bootable(true))) > 0)
})

t.test('run: where another process streams, its gate counts, and for all of it its copy; when it ends the own gate', { skip: noQemu, timeout: limit(240_000) }, async t => {
  const at = packedIn(t, bootable())
  const web = await WebServer.start(t, at('pack'))
  for (const gate of ['all', 'profile'] as const) {
    let held: (() => void)[] | undefined = []
    web.trouble = async ({ name }) => {
      if (name.endsWith('.chunks') && held) await new Promise<void>(resolve => held?.push(resolve))
      return false
    }
    // Its own gate is open for the first, and not for the second.
    const first = running(t, 'serve', web.url, '--cache', at(gate), '--gate', gate === 'all' ? 'none' : 'all')
    await first.event('serving')
    const overlay = at(`${gate}.overlay`)
    const second = running(t, 'run', web.url, '--cache', at(gate), '--gate', gate, '--overlay', overlay, '--accel', 'tcg', '--memory', '64MiB', '--', '-no-reboot')
    await until(() => second.child.exitCode !== null || second.told().split(' here').length > 2)
    t.match(second.told(), gate === 'all' ? /starts when the copy is whole\.\n0 % of/ : /starts when that one's gate has opened\.\n0 % of/)
    t.notOk(existsSync(overlay), 'it has not started')
    if (gate === 'profile') first.child.kill('SIGKILL')
    const goOn = held
    held = undefined
    for (const go of goOn) go()
    t.same(await once(second.child, 'close'), [0, null], second.told())
    t.match(second.told(), 'streamed 0\r\n')
    if (gate === 'all') t.equal(first.lines.at(-1)?.['event'], 'complete')
    else t.match(second.lines[0], { startedAfterMs: Number, progress: { state: /rest|complete/ } }, 'it has streamed itself')
    first.child.kill('SIGKILL')
  }
})

/** A guest that waits in the middle of its boot, and whose nbdkit has just been killed. */
async function withoutNbdkit(t: Test, kill: (pid: number) => void, ...args: string[]): Promise<Running & { goOn: () => void; servers: () => number[] }> {
  const at = packedIn(t, bootable())
  const web = await WebServer.start(t, at('pack'))
  let goOn: (() => void) | undefined
  web.trouble = async ({ name, from }) => {
    if (name.endsWith('.chunks') && from > 0 && goOn === undefined) await new Promise<void>(resolve => (goOn = resolve))
    return false
  }
  const ran = running(t, 'run', web.url, '--cache', at('cache'), '--accel', 'tcg', '--memory', '64MiB', '--gate', 'none', '--no-fill', ...args, '--', '-no-reboot')
  const servers = (): number[] => spawnSync('pgrep', ['-f', `cache=${at('cache')}`], { encoding: 'utf8' }).stdout.split('\n').filter(pid => pid !== '').map(Number)
  await until(() => ran.child.exitCode !== null || goOn !== undefined)
  kill(servers()[0] as number)
  return { ...ran, servers, goOn: () => goOn?.() }
}

t.test('run: nbdkit is killed under its guest, and another one takes its place', { skip: noQemu, timeout: limit(240_000) }, async t => {
  const { child, lines, told, goOn, servers } = await withoutNbdkit(t, pid => process.kill(pid, 'SIGKILL'), '--trace', path.join(scratch(t), 'trace'))
  await until(() => child.exitCode !== null || told().includes('takes its place'))
  t.match(told(), /nbdkit has ended, and another one takes its place\. What is read from now on is not in the trace/)
  goOn()
  t.same(await once(child, 'close'), [0, null], told())
  t.match(told(), 'streamed 0\r\n')
  t.match(lines[0], { status: 0 })
  t.same(servers(), [])
})

t.test('run: where no nbdkit takes its place, the guest is ended', { skip: noQemu, timeout: limit(240_000) }, async t => {
  const folder = scratch(t)
  const { PATH } = process.env
  writeFileSync(path.join(folder, 'nbdkit'), `#!/bin/sh\nPATH='${PATH}'\n[ -e ${folder}/broken ] && { echo broken since >&2; exit 1; }\nexec nbdkit "$@"\n`, { mode: 0o755 })
  process.env['PATH'] = `${folder}:${PATH}`
  t.teardown(() => (process.env['PATH'] = PATH))
  const breakIt = (pid: number): void => {
    writeFileSync(path.join(folder, 'broken'), '')
    process.kill(pid, 'SIGKILL')
  }
  const { child, told, servers } = await withoutNbdkit(t, breakIt)
  t.same(await once(child, 'close'), [1, null], told())
  t.match(told(), /nbdkit has ended, and no other one serves: .*broken since.*nbdkit ends again and again: the guest cannot go on/s)
  t.same(servers(), [])
})

t.test('killed and started again at its socket, under a client', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const bytes = noise(40 * CHUNK, 'again')
  const at = packedIn(t, bytes)
  const args = ['serve', at('pack'), '--cache', at('cache'), '--socket', at('s'), '--gate', 'none', '--no-fill']
  const first = running(t, ...args)
  const { uri, pid } = await first.event('serving')
  t.equal(spawnSync('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 4096', uri as string]).status, 0)
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  const client = spawn('qemu-io', ['-r', '-f', 'raw', '-c', `read ${20 * CHUNK} 8192`, uri as string], { stdio: 'ignore' })
  t.teardown(() => client.kill('SIGKILL'))
  const done = once(client, 'exit')
  const second = running(t, ...args)
  const again = await second.event('serving')
  t.same([again['uri'], again['pid']], [uri, pid], 'the same server')
  t.same([first, second].map(({ lines, told }) => [lines[0]?.['takenOver'], told().includes('goes on as it was started')]), [[false, false], [true, true]])
  t.same(await done, [0, null], 'which has waited')
  const other = stream('serve', at('pack'), '--cache', at('other'), '--socket', at('s'))
  t.match(other, { status: 1, stderr: /belongs to another server.*end that one, or choose another socket/ }, 'but not for another cache')
  second.child.kill('SIGINT')
  await once(second.child, 'exit')
  t.notOk(existsSync(at('s')))
})

t.test('nobody reads what it says: it ends, and nbdkit with it', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'unread'))
  const args = ['serve', at('pack'), '--cache', at('cache'), '--socket', at('s'), '--gate', 'none', '--no-fill']
  const child = spawn(process.execPath, [command, 'stream', ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  child.stdout.destroy()
  // It tells of what comes.
  for (let chunk = 0; child.exitCode === null && chunk < 40; chunk++) {
    spawnSync('qemu-io', ['-r', '-f', 'raw', '-c', `read ${chunk * CHUNK} 512`, `nbd+unix:///?socket=${at('s')}`])
    await Promise.race([once(child, 'exit'), new Promise(resolve => setTimeout(resolve, 1000))])
  }
  t.equal(child.exitCode, 141)
  t.notOk(existsSync(at('s')))
})

t.test('a server that wants a token, and has a certificate of its own', { skip: noNbd || noOpenssl, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(4 * CHUNK, 'token'))
  const { cert, key, ca } = certificates(scratch(t))
  const server = await WebServer.start(t, at('pack'), { cert: readFileSync(cert), key: readFileSync(key) })
  server.trouble = ({ headers }, response) => {
    if (headers.authorization === 'Bearer letters' && headers['x-more'] === 'a: b') return false
    response.writeHead(403).end()
    return true
  }
  writeFileSync(at('headers'), 'Authorization: Bearer letters\r\n\n')
  const reach = ['--ca', ca, '--header', `@${at('headers')}`, '--header', 'X-More: a: b']
  const one = running(t, 'serve', server.url, '--cache', at('cache'), '--socket', at('s'), ...reach)
  await one.event('complete')
  one.child.kill('SIGINT')
  await once(one.child, 'exit')
  t.ok(readFileSync(at('cache/image')).equals(readFileSync(at('image'))))
  for (const [args, why] of [[reach.slice(0, 4), /403/], [reach.slice(2), /certificate/]] as const) {
    const refused = running(t, 'serve', server.url, '--cache', at('other'), ...args)
    await once(refused.child, 'close')
    t.match(refused.told(), why)
  }
})

t.test('a read of what does not come fails after --wait', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(4 * CHUNK, 'wait'))
  const server = await WebServer.start(t, at('pack'))
  const one = running(t, 'serve', server.url, '--cache', at('cache'), '--socket', at('s'), '--no-fill', '--wait', '1')
  const { uri } = (await one.event('serving')) as { uri: string }
  await server.stop()
  const read = spawnSync('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 4k', uri], { encoding: 'utf8', timeout: limit(60_000) })
  t.match(read.stdout + read.stderr, /read failed/)
  one.child.kill('SIGINT')
  await once(one.child, 'exit')
})

t.test('a picture that cannot be written fails it, once all is closed', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(4 * CHUNK, 'picture'))
  const one = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('s'), '--picture', at('no/x.svg'))
  await one.event('serving')
  one.child.kill('SIGINT')
  const [status] = (await once(one.child, 'exit')) as [number]
  t.equal(status, 1)
  t.notOk(existsSync(at('s')))
})

t.test('one that waited for its turn tells what happens from then on', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'told'))
  const first = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('one'), '--no-fill', '--gate', 'none')
  await first.event('serving')
  const second = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('two'), '--page')
  t.match(await second.event('serving'), { streams: false, page: null })
  first.child.kill('SIGINT')
  await once(first.child, 'exit')
  const { page } = await second.event('streaming')
  t.match(page, /^http:/)
  await second.event('ready')
  await second.event('complete')
  t.match(await (await fetch(`${page as string}progress.json`)).json(), { state: 'complete' })
  second.child.kill('SIGINT')
  await once(second.child, 'exit')
})

t.test('one that takes its turn goes on without a page that cannot be served', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'unwatched'))
  const first = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('one'), '--no-fill', '--gate', 'none')
  await first.event('serving')
  const server = await WebServer.start(t, at('pack'))
  const second = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('two'), '--page', `127.0.0.1:${server.port}`)
  await second.event('serving')
  first.child.kill('SIGINT')
  await once(first.child, 'exit')
  t.match(await second.event('streaming'), { page: null })
  t.match(second.told(), /It cannot be watched: .*EADDRINUSE/)
  await second.event('complete')
  second.child.kill('SIGINT')
  t.same(await once(second.child, 'exit'), [130, null])
  const alone = running(t, 'serve', at('pack'), '--cache', at('cache'), '--page', `127.0.0.1:${server.port}`)
  t.same(await once(alone.child, 'close'), [1, null], 'one that has its turn at once does not begin without')
})

t.test('one that waits for its turn ends with its server', { skip: noNbd, timeout: limit(120_000) }, async t => {
  const at = packedIn(t, noise(40 * CHUNK, 'turn'))
  const first = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('one'))
  await first.event('serving')
  const second = running(t, 'serve', at('pack'), '--cache', at('cache'), '--socket', at('two'))
  const { pid, streams } = await second.event('serving')
  t.equal(streams, false)
  process.kill(pid as number, 'SIGKILL')
  t.same(await once(second.child, 'exit'), [1, null], 'though the other one goes on')
  first.child.kill('SIGINT')
  await once(first.child, 'exit')
})

/** The snapshot of a guest that has written to 512 pages, and waits for more to do. */
async function ready(t: Test, snapshot: string): Promise<void> {
  const machine = await guest(t, 'dirtier', 'base=4M pages=512 count=512 rounds=1 stay=1')
  await machine.start()
  await machine.console.waitFor('dirtier done 1\n')
  await machine.pause()
  for (let page = 0; page < 512; page++) machine.memory.write(BigInt((4 << 20) + 4096 * page + 8), noise(4088, `page ${page}`))
  await machine.snapshot(snapshot)
  await machine.close()
}

t.test('a machine goes on from a snapshot while it comes', { skip: noKvm, timeout: limit(120_000) }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  await ready(t, at('snapshot'))
  stream('pack', at('snapshot'), at('pack'), '--chunk-size', '16KiB')
  stream('pack', at('snapshot'), at('large'), '--chunk-size', '32KiB')
  for (const [pack, learn] of [['pack', true], ['pack', false], ['large', false]] as const) {
    const args = ['run', '--restore', at(pack), '--cache', at(`cache-${pack}-${learn}`), '--json', '--gate', 'none', '--page', '--picture', at('blocks.svg'), ...(learn ? ['--learn', at('pack/profile.json')] : [])]
    const child = spawn(process.execPath, [command, ...args], { stdio: ['pipe', 'ignore', 'pipe'] })
    t.teardown(() => child.kill('SIGKILL'))
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    child.stdin.write('pattern=hotset count=64 seed=7 rounds=1\n')
    await until(() => said.includes('dirtier done 2') || child.exitCode !== null)
    t.match(said, 'dirtier done 2')
    t.equal(said.includes('The profile is of chunks of another size'), pack === 'large')
    const [, page = ''] = /Watch it at (\S+)/.exec(said) ?? []
    const progress = (await (await fetch(`${page}progress.json`)).json()) as StreamProgress & { title: string }
    t.equal(progress.title, at(pack))
    t.equal(progress.profile.bytes > 0, !learn)
    t.match(await (await fetch(`${page}blocks.svg`)).text(), /^<svg/)
    child.kill('SIGTERM')
    t.same(await once(child, 'close'), [130, null])
    const picture = readFileSync(at('blocks.svg'), 'utf8')
    t.match(picture, /^<svg/)
    if (!learn) continue
    // Nothing came but what was touched.
    t.match(picture, 'waited for by a read')
    t.match(said, /of memory came; [\d,]+ pages were waited for, .* for more than 100 ms/)
    copyFileSync(at('pack/profile.json'), at('large/profile.json'))
  }
  const { entries } = await Profile.load(at('pack/profile.json'))
  t.ok(entries.length > 2 && entries.length < 512, `${entries.length} chunks`)
})

t.test('who streams is killed under a machine that goes on from a snapshot: its own command takes over', { skip: noKvm, timeout: limit(120_000) }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  await ready(t, at('snapshot'))
  stream('pack', at('snapshot'), at('pack'), '--chunk-size', '16KiB')
  for (const isOurs of [true, false]) {
    const cache = at(`cache ${isOurs}`)
    const run = (...args: string[]): { child: ChildProcess; told: () => string } => {
      const child = spawn(process.execPath, [command, 'run', '--restore', at('pack'), '--cache', cache, '--json', '--profile', 'none', '--no-fill', ...args], {
        stdio: ['pipe', 'ignore', 'pipe']
      })
      t.teardown(() => child.kill('SIGKILL'))
      let said = ''
      child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
      return { child, told: () => said }
    }
    const says = async ({ child, told }: ReturnType<typeof run>, text: string): Promise<void> => {
      await until(() => told().includes(text) || child.exitCode !== null)
      t.match(told(), text)
    }
    const first = run('--page')
    await says(first, 'Watch it at')
    const second = run('--picture', at('blocks.svg'), '--learn', at('profile'))
    await says(second, 'this one takes over when that ends')
    second.child.stdin?.write('pattern=hotset count=1 seed=1 rounds=1\n')
    await says(second, 'dirtier done 2')
    if (!isOurs) writeFileSync(path.join(cache, 'manifest'), 'rubbish')
    first.child.kill('SIGKILL')
    // Pages that have not come.
    second.child.stdin?.write('pattern=hotset count=64 seed=7 rounds=1\n')
    if (isOurs) {
      await says(second, 'dirtier done 3')
      t.match(second.told(), 'This process streams now')
      second.child.kill('SIGTERM')
      t.same(await once(second.child, 'close'), [130, null])
      t.match(readFileSync(at('blocks.svg'), 'utf8'), /waited for by a read: \d/)
    } else {
      t.same(await once(second.child, 'close'), [1, null], 'where it cannot, it says so and ends')
      t.match(second.told(), /manifest is no manifest/)
    }
  }
})

t.test('examine', { skip: lacks('debugfs', 'mke2fs') && 'e2fsprogs are missing' }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  for (const name of ['etc', 'opt']) mkdirSync(at(`tree/${name}`), { recursive: true })
  writeFileSync(at('tree/etc/os-release'), 'PRETTY_NAME="Evil \x1b]0;owned\x07 \x9b2J OS"\n')
  writeFileSync(at('tree/etc/passwd'), 'root\n')
  writeFileSync(at('tree/opt/data'), noise(300_000, 'data'))
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', at('tree'), at('image'), '16M'])
  stream('pack', at('image'), at('pack'))
  const result = json(stream('examine', at('image'), '--pack', at('pack'), '--app', '/opt', '--out', at('pack/profile.json'), '--json'))
  t.match(result, { files: 2, missed: [], init: null })
  const told = stream('examine', at('image'), '--pack', at('pack'), '--app', '/opt', '--app', '/nosuch', '--app', '/no\nsuch', '--files').stdout
  t.match(told, /application .* \/opt\/data\n[^]*Nothing is known of \/nosuch/)
  t.match(told, 'Evil \ufffd]0;owned\ufffd \ufffd2J OS, started', 'what an image says does nothing to a terminal')
  t.match(told, 'of /no\ufffdsuch\n', 'nor makes a line of its own')
  const failed = stream('examine', at('no\x1b[2Jsuch'), '--pack', at('pack'))
  t.match(failed.stderr, /^hypertwin: .*no\ufffd\[2Jsuch/)
  t.notMatch(failed.stderr, '\x1b')
})
