// Rigs boot with a KVM of their own, run commands faithfully, are killed like a server that is unplugged, and leave
// nothing behind.
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { RigError, rigsUp, whyNoRigs, type Rig, type Rigs } from '../../scripts/rig/index.mjs'

const skip = await whyNoRigs()
const busybox = '/run/rig/busybox'

const networkOf = (pid: string | number): string | undefined => {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`)
  } catch {
    return undefined
  }
}

/** The processes of this machine that are in a network namespace. */
function inside(network: string | undefined): string[] {
  return readdirSync('/proc').filter(name => /^\d+$/.test(name) && networkOf(name) === network)
}

async function gone(network: string | undefined): Promise<void> {
  while (inside(network).length > 0) await sleep(10)
}

const folderOf = (id: string): string => `/var/lib/hypertwin-rigs/${id}`

t.test('two rigs', { skip }, async t => {
  const rigs: Rigs = await rigsUp(2)
  t.teardown(() => rigs.down())
  const [first, second] = rigs.rigs as [Rig, Rig]

  t.test('have a KVM with nested paging each', async t => {
    for (const rig of rigs) {
      const { stdout } = await rig.exec(['cat', '/sys/module/kvm_amd/parameters/npt', '/proc/sys/kernel/hostname'])
      t.match(stdout, new RegExp(`^(Y|1)\n${rig.name}\n$`))
    }
  })

  t.test('give status, signals, output and errors as they are', async t => {
    const script = 'printf out; printf err >&2; exit 41'
    t.strictSame(await first.exec(['sh', '-c', script]), { status: 41, signal: null, stdout: 'out', stderr: 'err' })
    t.match(await first.exec(['sh', '-c', 'kill -SEGV $$']), { status: null, signal: 'SIGSEGV' })
    await t.rejects(first.exec(['no-such-program']), { name: 'ToolError', code: 'ENOENT', message: /rig1.*no-such/ })
    await t.rejects(first.exec(['true'], { cwd: '/no/such' }), { code: 'ENOENT', message: /chdir/ })
    await t.rejects(first.exec([]), RigError)
    await t.rejects(first.exec(['a\0b']), RigError)
    const environment = await first.exec(['env'], { env: { PATH: '/usr/bin:/bin', ODD: 'a b\n="c"' }, cwd: '/' })
    t.match(environment.stdout, /ODD=a b\n="c"\n/)
    t.equal((await first.exec(['pwd'], { cwd: '/usr/share' })).stdout, '/usr/share\n')
  })

  t.test('take input of any bytes and return them', async t => {
    const bytes = randomBytes(3_000_001)
    const command = await first.spawn(['cat'])
    command.stdin.end(bytes)
    t.ok(bytes.equals(await buffer(command.stdout)))
    t.strictSame(await command.ended, { status: 0, signal: null })
    const input = 'x'.repeat(1_000_000)
    t.match(await first.exec(['head', '-c', '3'], { input }), { status: 0, stdout: 'xxx' }, 'input that nobody reads')
  })

  t.test('run many commands at once, and end each when told', async t => {
    const echoed = await Promise.all(Array.from({ length: 40 }, (_, i) => first.exec(['echo', String(i)])))
    t.strictSame(echoed.map(({ stdout }) => Number(stdout)), Array.from({ length: 40 }, (_, i) => i))
    t.match(await first.exec(['sleep', '1000'], { timeout: 100 }), { status: null, signal: 'SIGKILL' })
    const command = await first.spawn(['sh', '-c', 'trap "echo caught; exit 7" TERM; echo ready; while :; do sleep 1; done'])
    const lines = createInterface({ input: command.stdout })[Symbol.asyncIterator]()
    t.equal((await lines.next()).value, 'ready')
    command.kill('SIGTERM')
    t.equal((await lines.next()).value, 'caught')
    t.strictSame(await command.ended, { status: 7, signal: null })
    const left = await first.exec(['sh', '-c', 'sleep 1000 & echo $!'])
    t.equal(left.status, 0, 'what runs on in the background is not waited for')
    t.equal((await first.exec(['kill', left.stdout.trim()])).status, 0, 'and does run on')
  })

  t.test('a command ends with the process that started it, and the next one is not disturbed', async t => {
    const script = `
      const { rigsUp } = await import('./scripts/rig/index.mjs')
      const { Rig } = await import('./scripts/rig/rig.mjs')
      const { State } = await import('./scripts/shared/state.mjs')
      const record = new State('/var/lib/hypertwin-rigs', () => []).read('${rigs.id}')
      const rig = new Rig(record, '${folderOf(rigs.id)}', 1)
      const command = await rig.spawn(['sleep', '4242'])
      command.stdin.write('x'.repeat(1e6))
      console.log(command.pid)
      setInterval(() => {}, 1e6)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => child.kill('SIGKILL'))
    let pid = ''
    for await (pid of createInterface({ input: child.stdout })) break
    const running = async () => (await first.exec(['test', '-e', `/proc/${pid}`])).status === 0
    t.ok(await running())
    child.kill('SIGKILL')
    while (await running()) await sleep(10)
    t.match(await first.exec(['echo', 'fine']), { status: 0, stdout: 'fine\n' })
  })

  t.test('write into their own memory', async t => {
    const mark = `rig-test-${process.pid}`
    const files = [`/tmp/${mark}`, `/etc/${mark}`, `${process.cwd()}/${mark}`]
    for (const file of files) {
      t.equal((await first.exec(['sh', '-c', 'echo $1 > $1 && cat $1', 'sh', file])).stdout, `${file}\n`)
      t.notOk(existsSync(file))
      t.equal((await second.exec(['test', '-e', file])).status, 1)
    }
  })

  t.test('reach each other and this machine until one is killed, and it comes back', async t => {
    const ping = (rig: Rig, whom: string) => rig.exec([busybox, 'ping', '-c', '1', '-W', '20', whom])
    t.match(await ping(first, 'rig2'), { status: 0, stdout: /from 10\.77\.0\.2/ })
    t.match(await ping(second, rigs.wireAddress), { status: 0 })

    const echo = await second.spawn([busybox, 'nc', '-ll', '-p', '7', '-e', 'cat'])
    echo.stdout.resume()
    let answer = ''
    while (answer === '') {
      const stream = rigs.connect(second.address, 7)
      stream.on('error', () => {})
      stream.write('hello\n')
      for await (const data of stream) {
        answer = String(data)
        break
      }
    }
    t.equal(answer, 'hello\n', 'a server in a rig is reached from this machine')

    await second.stopNetwork()
    t.match(await first.exec([busybox, 'ping', '-c', '1', '-W', '1', 'rig2']), { status: 1 })
    t.match(await second.exec(['echo', 'still here']), { status: 0 }, 'commands need no network')
    await second.startNetwork()

    t.ok(second.pid)
    await second.kill()
    await t.rejects(echo.ended, { message: /rig2 has ended while/ })
    t.equal(second.alive, false)
    t.equal(second.pid, undefined)
    await t.rejects(second.exec(['true']), { message: /rig2 is not running/ })
    t.match(await first.exec(['echo', 'alone']), { status: 0 })
    await second.start()
    t.match(await ping(second, 'rig1'), { status: 0 })
    t.equal((await second.exec(['test', '-e', `/tmp/rig-test-${process.pid}`])).status, 1, 'its memory is gone')
  })

  t.test('leave nothing', async t => {
    const network = networkOf(first.pid!)
    t.ok(inside(network).length >= 2)
    t.ok(existsSync(folderOf(rigs.id)))
    await rigs.down()
    t.strictSame(inside(network), [])
    t.notOk(existsSync(folderOf(rigs.id)))
    await rigs.down()
  })
})

t.test('rigs end with who boots them, and the next start removes their files', { skip }, async t => {
  const script = `
    const { rigsUp } = await import('./scripts/rig/index.mjs')
    await rigsUp(1)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' })
  t.teardown(() => child.kill('SIGKILL'))
  const record = (id: string) =>
    JSON.parse(readFileSync(`${folderOf(id)}/instance.json`, 'utf8')) as {
      owner: { pid: number }
      rigs?: { qemu?: { pid: number } }[]
    }
  const booting = (): [string, number] | undefined => {
    for (const id of existsSync(folderOf('')) ? readdirSync(folderOf('')) : [])
      try {
        const { owner, rigs } = record(id)
        const pid = rigs?.[0]?.qemu?.pid
        if (owner.pid === child.pid && pid) return [id, pid]
      } catch {
        // It is being written.
      }
    return undefined
  }
  let found
  while (!(found = booting())) await sleep(10)
  const [id, pid] = found
  const network = networkOf(pid)
  child.kill('SIGKILL')
  await gone(network)
  const command = spawnSync(process.execPath, ['scripts/rig/main.mjs', 'down'], {
    env: { ...process.env, HYPERTWIN_RIGS: `test-${process.pid}` }
  })
  t.equal(command.status, 0)
  t.notOk(existsSync(folderOf(id)))
})

t.test('the command boots, shows, uses and ends rigs', { skip }, async t => {
  const env = { ...process.env, HYPERTWIN_RIGS: `test-${process.pid}` }
  const command = (words: string[], input = '') =>
    spawnSync(process.execPath, ['scripts/rig/main.mjs', ...words], { encoding: 'utf8', env, input })
  t.teardown(() => command(['down']))
  t.match(command(['exec', '--', 'true']), { status: 1, stderr: /There is no rig 1/ })
  t.match(command(['up', '--memory', '512']), { status: 0, stdout: /^rig1 {2}up {2}10\.77\.0\.1 {2}pid \d+\n$/ })
  t.match(command(['up']), { status: 0, stdout: /^rig1 {2}up/ }, 'what is up stays')
  t.match(command(['up', '2']), { status: 1, stderr: /up already: 1/ })
  t.match(command(['exec', '--', 'sh', '-c', 'cat; echo oops >&2; exit 3'], 'in'), { status: 3, stdout: 'in', stderr: 'oops\n' })
  t.match(command(['exec', '--', 'sh', '-c', 'kill $$']), { status: 143 })
  t.match(command(['exec', '--', 'no-such-program']), { status: 127, stderr: /ENOENT/ })
  t.match(command(['exec', '--timeout', '1', '--', 'sleep', '99']), { status: 137, stderr: /more than 1 s/ })
  t.match(command(['exec', '--rig', '2', '--', 'true']), { status: 1, stderr: /There is no rig 2/ })
  for (const words of [['exec', 'true'], ['up', 'many'], ['up', '1', '2'], ['fly'], ['up', '--size', '3'], []])
    t.match(command(words), { status: 1, stderr: /npm run rig -- up/ }, words.join(' '))
  t.match(command(['--help']), { status: 0, stdout: /npm run rig -- exec/ })
  const tests = command(['test', 'node', 'test/scripts/results.test.ts', 'test/libvirt/admin.test.ts'])
  t.match(tests, { status: 0, stdout: /^[1-9]\d* passed, 0 failed, 0 skipped\n$/m }, tests.stderr)
  t.match(command(['test', 'node', 'test/rig/none.test.ts']), { status: 1, stderr: /no test test\/rig\/none/ })
  const status = JSON.parse(command(['status', '--json']).stdout) as { memory: number; rigs: [{ pid: number }] }
  t.match(status, { memory: 512, rigs: [{ name: 'rig1', state: 'up' }] })
  const [{ pid }] = status.rigs
  const network = networkOf(pid)
  process.kill(pid, 'SIGKILL')
  while (networkOf(pid) !== undefined) await sleep(10)
  t.match(command(['status']), { stdout: /rig1 {2}ended/ })
  t.match(command(['exec', '--', 'true']), { status: 1, stderr: /rig1 is not running/ })
  t.match(command(['down']), { status: 0, stdout: '', stderr: '' })
  t.strictSame(inside(network), [])
  t.match(command(['status']), { stdout: /No rigs are up/ })
})

t.test('what cannot be', async t => {
  await t.rejects(rigsUp(0), { message: /1 to 50/ })
  await t.rejects(rigsUp(1, { memory: 3 }), { message: /memory in MiB is 256 to/ })
  await t.rejects(rigsUp(1, { cpus: 1.5 }), { message: /processors is 1 to/ })
})
