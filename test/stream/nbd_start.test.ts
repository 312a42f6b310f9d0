// nbdkit's beginning and end: one that was started is ours to stop, or gone, whoever is slow or killed meanwhile.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { ImageStream, NbdServer, whyNoNbd } from '../../lib/stream/index.js'
import { code, imageBytes, packed, scratch, until } from './support.js'

const skip = whyNoNbd()?.message ?? false

/** A whole copy. */
async function cache(t: Test): Promise<string> {
  const { folder } = await packed(t, imageBytes(8))
  const stream = await ImageStream.open(folder, { cache: scratch(t) })
  await stream.complete
  await stream.close()
  return stream.cache
}

const alive = (pid: number): boolean => existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))

/** Until the test's end the first nbdkit to be found is this shell script, which writes its pid to a file first. */
function standIn(t: Test, script: string): { pid: () => number } {
  const folder = scratch(t)
  const file = path.join(folder, 'nbdkit')
  const { PATH } = process.env
  writeFileSync(file, `#!/bin/sh\necho $$ > ${folder}/pid.new\nmv ${folder}/pid.new ${folder}/pid\nPATH='${PATH}:/usr/sbin:/sbin'\n${script}\n`)
  chmodSync(file, 0o755)
  process.env['PATH'] = `${folder}:${PATH}`
  t.teardown(() => void (process.env['PATH'] = PATH))
  return { pid: () => (existsSync(`${folder}/pid`) ? Number(readFileSync(`${folder}/pid`, 'utf8')) : 0) }
}

/** A process that serves a cache until it is killed. */
function server(t: Test, folder: string, socket: string): ChildProcess {
  const script = new URL(import.meta.url.endsWith('.ts') ? './server.ts' : './server.js', import.meta.url)
  const child = spawn(process.execPath, [...process.execArgv, script.pathname, folder, socket], { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

async function answers(socket: string): Promise<boolean> {
  const probe = connect(socket)
  try {
    await once(probe, 'connect')
    return true
  } catch {
    return false
  } finally {
    probe.destroy()
  }
}

t.test('one that does not begin to serve is ended', { skip }, async t => {
  const { pid } = standIn(t, 'echo still busy; exec sleep 1000')
  await t.rejects(NbdServer.start(await cache(t), { startSeconds: 1 }), { code: 'TOOL_FAILED', message: /within 1 s .*: still busy/ })
  t.not(pid(), 0, 'it ran')
  t.notOk(alive(pid()))
})

t.test('what it has started is ended with it', { skip }, async t => {
  const file = path.join(scratch(t), 'child')
  standIn(t, `sleep 1000 & echo $! > ${file}; wait`)
  await t.rejects(NbdServer.start(await cache(t), { startSeconds: 1 }), code('TOOL_FAILED'))
  await until(() => !alive(Number(readFileSync(file, 'utf8'))))
})

t.test('two starts at one socket are one server, whose file what it says does not fill', { skip }, async t => {
  const folder = await cache(t)
  const socket = path.join(scratch(t), 's')
  const [one, two] = await Promise.all([NbdServer.start(folder, { socket }), NbdServer.start(folder, { socket })])
  t.equal(one.pid, two.pid)
  for (const fd of [1, 2]) t.equal(readlinkSync(`/proc/${one.pid}/fd/${fd}`), '/dev/null')
  await Promise.all([one.close(), two.close()])
  t.notOk(alive(one.pid))
})

t.test('the end of one leaves another’s socket alone', { skip }, async t => {
  const folder = await cache(t)
  const socket = path.join(scratch(t), 's')
  const one = await NbdServer.start(folder, { socket })
  process.kill(one.pid, 'SIGKILL')
  await until(() => !alive(one.pid))
  const two = await NbdServer.start(folder, { socket })
  await one.close()
  t.ok(await answers(socket))
  t.ok(existsSync(`${socket}.pid`))
  await two.close()
  t.notOk(existsSync(socket))
})

t.test('one that begins late serves, and is ended with its server', { skip }, async t => {
  const folder = await cache(t)
  standIn(t, 'sleep 1; exec nbdkit "$@"')
  const nbd = await NbdServer.start(folder)
  t.ok(await answers(nbd.socket as string))
  await nbd.close()
  t.notOk(alive(nbd.pid))
})

t.test('one that goes away, though in good order, does not serve', { skip }, async t => {
  standIn(t, 'exit 0')
  await t.rejects(NbdServer.start(await cache(t)), { code: 'TOOL_FAILED', message: /status 0/ })
  await t.rejects(NbdServer.start('/', { startSeconds: 0 }), code('EINVAL'))
})

t.test('who started it is killed, and it goes on until the next one ends it', { skip }, async t => {
  const folder = await cache(t)
  const socket = path.join(scratch(t), 's')
  for (const signal of ['SIGINT', 'SIGHUP', 'SIGKILL'] as const) {
    const child = server(t, folder, socket)
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    // All of its process group, as a terminal does.
    process.kill(-(child.pid as number), signal)
    await once(child, 'exit')
    t.ok(await answers(socket), `after ${signal}`)
    const nbd = await NbdServer.start(folder, { socket })
    t.not(nbd.pid, child.pid)
    await nbd.close()
    await nbd.ended
    t.notOk(alive(nbd.pid))
    t.notOk(await answers(socket))
  }
})

t.test('who starts it is killed while it begins', { skip }, async t => {
  const folder = await cache(t)
  const socket = path.join(scratch(t), 's')
  const { pid } = standIn(t, 'sleep 2; exec nbdkit "$@"')
  const child = server(t, folder, socket)
  await until(() => pid() !== 0)
  child.kill('SIGKILL')
  await once(child, 'exit')
  await until(() => existsSync(socket))
  const nbd = await NbdServer.start(folder, { socket })
  t.equal(nbd.pid, pid(), 'the same one')
  await nbd.close()
  t.notOk(alive(pid()))
})

t.test('who starts it is killed while nbdkit itself begins: it ends too', { skip }, async t => {
  const folder = await cache(t)
  const fifo = path.join(scratch(t), 'fifo')
  spawnSync('mkfifo', [fifo])
  // Nobody reads there, so it does not come as far as to serve.
  const { pid } = standIn(t, `exec nbdkit --filter=log "$@" logfile=${fifo}`)
  const child = server(t, folder, path.join(scratch(t), 's'))
  await until(() => pid() !== 0 && readlinkSync(`/proc/${pid()}/exe`).endsWith('nbdkit'))
  await new Promise(resolve => setTimeout(resolve, 500))
  t.ok(alive(pid()))
  child.kill('SIGKILL')
  await once(child, 'exit')
  await until(() => !alive(pid()))
})

// Only root may choose the next process's number.
const chooses = '/proc/sys/kernel/ns_last_pid'
const noChoice = skip || (process.getuid?.() !== 0 && 'needs root')

t.test('a stranger that has its number is left alone', { skip: noChoice }, async t => {
  const folder = await cache(t)
  const socket = path.join(scratch(t), 's')
  const child = server(t, folder, socket)
  await once(child.stdout as NodeJS.ReadableStream, 'data')
  child.kill('SIGKILL')
  await once(child, 'exit')
  const nbd = await NbdServer.start(folder, { socket })
  // In one go, so that its end is not noticed in between.
  process.kill(nbd.pid, 'SIGKILL')
  const limit = performance.now() + 5_000
  while (existsSync(`/proc/${nbd.pid}`) && performance.now() < limit);
  let stranger: ChildProcess | undefined
  try {
    writeFileSync(chooses, String(nbd.pid - 1))
    stranger = spawn('sleep', ['1000'])
    t.teardown(() => stranger?.kill('SIGKILL'))
  } catch {
    // A container's is for reading.
  }
  if (stranger?.pid !== nbd.pid) t.comment('somebody else has the number')
  await nbd.close()
  if (stranger) t.ok(alive(stranger.pid as number))
})

t.test('its end is told, whoever ends it', { skip }, async t => {
  const nbd = await NbdServer.start(await cache(t))
  process.kill(nbd.pid, 'SIGKILL')
  let told = false
  void nbd.ended.then(() => (told = true))
  await until(() => told)
  await nbd.close()
  t.notOk(existsSync(path.dirname(nbd.socket as string)))
})
