// The demo's network of namespaces: hosts reach each other, a cable is cut, and nothing is left however it ends.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { hostAddress, Topology, TopologyError } from '../../lib/cli/demo/topology.js'

const why = await (async () => {
  try {
    ;(await Topology.create(1)).close()
    return false
  } catch (error) {
    if (!(error instanceof TopologyError)) throw error
    return error.message
  }
})()

/** The first line that a process says. */
async function firstLine(child: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: child.stdout! })) return line
  return ''
}

function start([program, ...args]: string[]): ChildProcess {
  return spawn(program!, args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

const server = `require('net').createServer(s => s.end('hello')).listen(7200, '${hostAddress(2)}', () => console.log('up'))`
const client = `require('net').connect(7200, '${hostAddress(2)}').on('data', d => console.log(String(d)))`

t.test('hosts reach each other, until a cable is cut', { skip: why }, async t => {
  const topology = await Topology.create(2)
  t.teardown(() => topology.close())
  const there = start(topology.onHost(2, process.execPath, '-e', server))
  t.teardown(() => there.kill('SIGKILL'))
  t.equal(await firstLine(there), 'up')
  t.equal(await firstLine(start(topology.onHost(1, process.execPath, '-e', client))), 'hello')

  const closed = new Promise<NodeJS.Signals | null>(resolve => there.once('close', (_code, signal) => resolve(signal)))
  await topology.silentKiller(2, there.pid!).kill()
  t.equal(await closed, 'SIGKILL')
  const [program, ...args] = topology.onWire('ip', '-brief', 'link', 'show', 'host2')
  t.match(spawnSync(program!, args, { encoding: 'utf8' }).stdout, /DOWN/)
})

t.test('nothing is left after a kill', { skip: why }, async t => {
  const script = `
    const { Topology } = await import('./dist/cli/demo/topology.js')
    const topology = await Topology.create(2)
    console.log(JSON.stringify(topology.pids))
    setInterval(() => {}, 1e6)`
  const child = start([process.execPath, '--input-type=module', '-e', script])
  const pids = JSON.parse(await firstLine(child)) as number[]
  t.equal(pids.length, 4)
  for (const pid of pids) t.ok(existsSync(`/proc/${pid}/ns/net`))
  child.kill('SIGKILL')
  for (const pid of pids) while (existsSync(`/proc/${pid}/ns/net`)) await sleep(10)
  t.pass('every namespace has lost its last process')
})
