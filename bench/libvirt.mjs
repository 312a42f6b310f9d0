// The libvirt binding beside a loop in C, libvirt-python and @unraid/libvirt, in turns on libvirt's test driver:
// calls one by one and with 64 in flight, events, 10,000 domains, and Node's own files while calls are blocked. With
// --quick fewer turns. What is not there is skipped with its reason.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Connect } from '../dist/libvirt/index.js'
import { startHosts, whyNoHosts } from '../scripts/hosts/index.mjs'
import { median, Pairs, print, rate } from './figures.mjs'

const quick = process.argv.includes('--quick')
const turns = quick ? 3 : 7
const seconds = quick ? 0.2 : 0.4
const inFlight = 64
const domainCount = 10_000
const root = fileURLToPath(new URL('..', import.meta.url))
const unraidVersion = '2.2.1'

const skipped = (what, why) => process.stderr.write(`bench: skipped: ${what}: ${why}\n`)

/** A program that answers a command a line with a number a line. */
class Worker {
  #child
  #answers

  constructor(command, args) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  async ask(command) {
    this.#child.stdin.write(`${command}\n`)
    const { done, value } = await this.#answers.next()
    if (done) {
      const why = this.#child.exitCode ?? this.#child.signalCode ?? 'without a word'
      throw new Error(`${this.#child.spawnfile} has ended at '${command}': ${why}`)
    }
    return Number(value)
  }

  end() {
    this.#child.stdin.end()
  }
}

function findPython() {
  const tried = spawnSync('/usr/bin/python3', ['-c', 'import libvirt'], { encoding: 'utf8' })
  if (tried.status === 0) return uri => new Worker('/usr/bin/python3', [path.join(root, 'bench/libvirt_python.py'), uri])
  skipped('libvirt-python', 'it is not installed (apt-get install python3-libvirt)')
  return undefined
}

/** Installs it beside the benchmarks' programs; it builds itself there. */
function findUnraid() {
  const folder = path.join(root, 'build/bench/unraid')
  const installed = path.join(folder, 'node_modules/@unraid/libvirt')
  if (!existsSync(installed)) {
    mkdirSync(folder, { recursive: true })
    writeFileSync(path.join(folder, 'package.json'), '{"private":true}')
    const args = ['install', '--no-audit', '--no-fund', `@unraid/libvirt@${unraidVersion}`]
    const { status, stderr } = spawnSync('npm', args, { cwd: folder, encoding: 'utf8', timeout: 300_000 })
    if (status !== 0) {
      skipped('@unraid/libvirt', `it cannot be installed: ${stderr.trim().split('\n').slice(-3).join(' ')}`)
      rmSync(folder, { recursive: true, force: true })
      return undefined
    }
  }
  const side = path.join(root, 'bench/libvirt_unraid.mjs')
  const tried = spawnSync(process.execPath, [side, installed, 'test:///default'], { encoding: 'utf8', input: 'serial 0.01\n' })
  if (tried.status === 0 && Number(tried.stdout) > 0) return uri => new Worker(process.execPath, [side, installed, uri])
  skipped('@unraid/libvirt', `it does not run here: ${tried.stderr.trim().split('\n').at(-1)}`)
  return undefined
}

const sides = { python: findPython(), unraid: findUnraid() }
const program = path.join(root, 'build/bench/libvirt_bench')

/** A test driver with everybody who is connected to it; `c` is there always. */
class Side {
  static async open(uri) {
    const side = new Side()
    side.workers = { c: new Worker(program, [uri]) }
    for (const [name, start] of Object.entries(sides)) if (start) side.workers[name] = start(uri)
    side.names = Object.keys(side.workers)
    side.connect = await Connect.open(uri)
    side.domain = await side.connect.domainLookupByName('test')
    return side
  }

  pairs() {
    return Object.fromEntries(this.names.map(name => [name, new Pairs()]))
  }

  async close() {
    for (const worker of Object.values(this.workers)) worker.end()
    await this.connect.close()
  }
}

async function calls(side, prefix) {
  const { domain, workers, names } = side
  const vsHop = new Pairs()
  const bare = []
  const hops = []
  const serial = side.pairs()
  const pipelined = side.pairs()
  await rate(seconds, inFlight, () => domain.getInfo())
  for (let turn = 0; turn < turns; turn++) {
    const one = await rate(seconds, 1, () => domain.getInfo())
    for (const name of names) serial[name].add(one, await workers[name].ask(`serial ${seconds}`))
    hops.push((await workers.c.ask(`hop ${seconds}`)) * 1e6)
    bare.push(1e6 / serial.c.lastBaseline)
    vsHop.add(1e6 / one, bare.at(-1) + hops.at(-1))
    const many = await rate(seconds, inFlight, () => domain.getInfo())
    for (const name of names) pipelined[name].add(many, await workers[name].ask(`pipelined ${seconds}`))
    process.stderr.write(`${prefix}: turn ${turn + 1} of ${turns}\n`)
  }
  print({ name: `${prefix}/call-in-c`, value: median(bare), unit: 'us' })
  print({ name: `${prefix}/thread-and-back`, value: median(hops), unit: 'us' })
  vsHop.print(`${prefix}/serial/vs-c-and-hop`, 'us')
  for (const name of names) {
    serial[name].print(`${prefix}/serial/vs-${name}`, '1/s')
    pipelined[name].print(`${prefix}/in-flight-64/vs-${name}`, '1/s')
  }
}

async function events({ connect, domain, workers }) {
  const count = quick ? 200 : 400
  const latency = async () => {
    let came = () => {}
    const id = await connect.domainEventRegisterAny(undefined, 'lifecycle', () => came(performance.now()))
    const times = []
    for (let i = 0; i < count; i++) {
      const arrived = new Promise(resolve => (came = resolve))
      const start = performance.now()
      await (i % 2 ? domain.resume() : domain.suspend())
      times.push((await arrived) - start)
    }
    await connect.domainEventDeregisterAny(id)
    return median(times) * 1000
  }
  const pairs = new Pairs()
  const own = []
  for (let turn = 0; turn < Math.ceil(turns / 2); turn++) {
    own.push(await latency())
    if (workers.python) pairs.add(own.at(-1), (await workers.python.ask(`event ${count}`)) * 1e6)
  }
  if (workers.python) pairs.print('libvirt/event/vs-python', 'us')
  else print({ name: 'libvirt/event', value: median(own), unit: 'us' })
}

async function manyDomains(side, folder) {
  const file = path.join(folder, 'many.xml')
  const xml = i =>
    `<domain type='test'><name>d${i}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>`
  writeFileSync(file, `<node>${Array.from({ length: domainCount }, (_, i) => xml(i)).join('')}</node>`)
  const uri = `test://${file}`
  const many = await Connect.open(uri)
  for (const what of ['list', 'stats']) {
    const pairs = side.pairs()
    for (let turn = 0; turn < (quick ? 2 : 5); turn++) {
      const start = performance.now()
      const found = what === 'list' ? await many.listAllDomains() : await many.getAllDomainStats(0)
      const took = performance.now() - start
      if (found.length !== domainCount) throw new Error(`there are ${found.length} domains`)
      for (const name of side.names) pairs[name].add(took, (await side.workers[name].ask(`${what} ${uri}`)) * 1000)
    }
    for (const name of side.names)
      pairs[name].print(`libvirt/10000-domains/${what}/vs-${name}`, 'ms')
  }
  await many.close()
}

/** Node's own reading of a file, while calls of libvirt wait for a daemon that never answers. */
async function files(folder) {
  const file = path.join(folder, 'file')
  writeFileSync(file, Buffer.alloc(4096))
  const reads = quick ? 1000 : 3000
  const latency = async () => {
    const times = []
    for (let i = 0; i < reads; i++) {
      const start = performance.now()
      await readFile(file)
      times.push(performance.now() - start)
    }
    times.sort((a, b) => a - b)
    return { p50: times[times.length >> 1] * 1000, p99: times[Math.floor(times.length * 0.99)] * 1000 }
  }
  const socket = path.join(folder, 'silent.sock')
  const accepted = new Set()
  let all = () => {}
  const server = createServer(one => {
    accepted.add(one)
    one.on('error', () => {})
    if (accepted.size === inFlight) all()
  }).listen(socket)
  const blocked = async body => {
    const waiting = new Promise(resolve => (all = resolve))
    const opening = Array.from({ length: inFlight }, () =>
      Connect.open(`qemu+unix:///system?socket=${socket}`).then(
        () => { throw new Error('a daemon that says nothing was connected to') },
        () => undefined
      )
    )
    await waiting
    const result = await body()
    for (const one of accepted) one.destroy()
    accepted.clear()
    await Promise.all(opening)
    return result
  }
  const p50 = new Pairs()
  const p99 = new Pairs()
  await latency()
  for (let turn = 0; turn < turns; turn++) {
    const idle = await latency()
    const busy = await blocked(latency)
    p50.add(busy.p50, idle.p50)
    p99.add(busy.p99, idle.p99)
  }
  server.close()
  p50.print('libvirt/read-file/64-blocked-vs-idle', 'us')
  p99.print('libvirt/read-file-p99/64-blocked-vs-idle', 'us')
}

/** The same calls to a daemon: each goes over a socket and back. */
async function daemon() {
  const why = await whyNoHosts()
  if (why) return skipped('libvirt/daemon', why)
  const hosts = await startHosts({ count: 1 })
  try {
    const side = await Side.open(hosts.hosts[0].uri.replace('qemu+unix:///system', 'test+unix:///default'))
    await calls(side, 'libvirt/daemon')
    await side.close()
  } finally {
    await hosts.close()
  }
}

const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-bench-'))
try {
  const side = await Side.open('test:///default')
  await calls(side, 'libvirt')
  await events(side)
  await manyDomains(side, folder)
  await side.close()
  await files(folder)
  await daemon()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
