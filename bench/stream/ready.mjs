// Where there is KVM (a rig has it, too): an image's application in a machine of ours, ready, saved, and published as two packs, its
// memory and its disk; then resumed from both over HTTP until the first right answer, once as they are touched, and again with
// what was touched first. Needs root: taps, userfaultfd.
//   node bench/stream/ready.mjs nginx
// Prints one line of JSON, a row of each start, for bench/ready.mjs; progress goes to stderr.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { Machine } from 'hypertwin/machine'
import { ImageStream, memoryTrace, NbdServer, pack, Profile, readTrace, SnapshotStream } from 'hypertwin/stream'
import { elfOf } from '../../scripts/shared/image.mjs'
import { slowServer } from '../../scripts/shared/web.mjs'
import { builtImage } from './build.mjs'
import { recipes } from './images.mjs'

const tap = `ready${process.pid % 10000}`
// As QEMU's own network has it: an image's database lets nobody else in.
const [host, guest] = ['10.0.2.2', '10.0.2.15']
const prompt = 'root@guest:~#'
const signal = AbortSignal.timeout(1_500_000)
const say = text => console.error(`bench: ${text}`)
const sum = numbers => numbers.reduce((a, b) => a + b, 0)

/** Types a command at the prompt that is there, and waits for the next. */
async function command(machine, text) {
  const from = machine.console.text.length
  machine.console.write(`${text}\n`)
  await said(machine, prompt, from)
}

async function said(machine, text, from = 0) {
  while (!machine.console.text.includes(text, from)) {
    if (machine.state !== 'running' || signal.aborted)
      throw new Error(`the machine is ${machine.state} ${machine.message}, and has not said ${text}; its console ends:\n${machine.console.text.slice(-1500)}`)
    await sleep(50)
  }
}

/** Until the guest gives the right answer: while its memory is on its way it may not even answer ARP in time. */
async function answered({ request, port }) {
  for (;;) {
    signal.throwIfAborted()
    const right = await request.ask(port, AbortSignal.any([signal, AbortSignal.timeout(30_000)]), guest).catch(() => undefined)
    if (right) return
    await sleep(100)
  }
}

/** Starts the image in a machine until its application listens, and saves it: the files `memory` and `disk.pack`. */
async function save(image, at) {
  const stream = await ImageStream.open(image.pack, { cache: at('copy'), profile: false, gate: 'none', fill: false })
  const disk = await NbdServer.start(stream.cache, { writable: true })
  const machine = await Machine.create({
    board: 'standard',
    memory: image.memory,
    // Unpacked already: a rig takes long for that.
    kernel: elfOf(readFileSync(image.kernel)),
    initrd: image.initrd,
    commandLine: image.append,
    disks: [{ path: disk.uri }],
    nets: [{ backend: { tap } }]
  })
  await machine.start()
  say(`${image.name}: Debian starts`)
  await said(machine, 'guest login:')
  machine.console.write('root\n')
  await said(machine, prompt)
  // Nobody here tells it an address.
  await command(machine, 'systemctl stop systemd-networkd.socket systemd-networkd')
  await command(machine, `for card in /sys/class/net/e*; do ip address add ${guest}/24 dev \${card##*/}; ip link set \${card##*/} up; done`)
  say(`${image.name}: waiting for its application`)
  await command(machine, `until ss -Hltn 'sport = :${image.port}' | grep -q .; do sleep 1; done; sync`)
  await machine.pause()
  say(`${image.name}: saving and packing`)
  await machine.snapshot(at('memory'))
  await machine.close()
  await pack(disk.uri, at('disk.pack'), { quality: 1, signal })
  await disk.close()
  await stream.close()
  rmSync(at('copy'), { recursive: true })
  await pack(at('memory'), at('memory.pack'), { chunkSize: '16KiB', quality: 1, signal })
  rmSync(at('memory'))
}

/** A start from both packs, to the first right answer. */
async function resume(image, at, urls, profiles) {
  const prefetch = profiles !== undefined
  const open = (kind, name) => kind.open(urls[name], { cache: at(`${name}.copy`), profile: profiles?.[name] ?? false, gate: prefetch ? 'profile' : 'none', fill: false, signal })
  say(`${image.name}: resumed, ${prefetch ? 'with what was touched first' : 'as it is touched'}`)
  const begun = performance.now()
  const [memory, disk] = await Promise.all([open(SnapshotStream, 'memory'), open(ImageStream, 'disk')])
  const nbd = await NbdServer.start(disk.cache, { writable: true, trace: at('trace') })
  await Promise.all([memory.ready, disk.ready])
  const gateMs = performance.now() - begun
  const machine = await memory.restore({ prefetch, disks: [nbd.uri], nets: [{ backend: { tap } }] })
  await machine.resume()
  await answered(image)
  const readyMs = performance.now() - begun
  const both = of => of(memory) + of(disk)
  const { waits, longestMs } = machine.paging()
  const row = {
    image: image.name,
    way: prefetch ? 'traced' : 'demand',
    gateSeconds: gateMs / 1000,
    readySeconds: readyMs / 1000,
    // As they came over the link: manifests and profiles, and what was fetched.
    headBytes: both(({ manifest }) => manifest.bytes.length) + sum(Object.values(profiles ?? {}).map(profile => Buffer.byteLength(profile.toString()))),
    memoryBytes: sum(Object.values(memory.progress().fetched)),
    diskBytes: sum(Object.values(disk.progress().fetched)),
    memorySize: memory.manifest.imageSize,
    diskSize: disk.manifest.imageSize,
    allocated: both(stream => stream.progress().allocatedBytes),
    stored: both(({ manifest }) => manifest.dataSize),
    pageWaits: waits,
    longestWaitMs: longestMs,
    diskWaits: disk.progress().demands.count
  }
  const learnt = {
    memory: Profile.fromTrace(memory.manifest, memoryTrace(machine, memory.manifest)),
    disk: Profile.fromTrace(disk.manifest, (await readTrace(at('trace'))).accesses)
  }
  await machine.close()
  await nbd.close()
  await Promise.all([memory.close(), disk.close()])
  for (const name of ['memory.copy', 'disk.copy', 'trace']) rmSync(at(name), { recursive: true, force: true })
  return { row, learnt }
}

const folder = mkdtempSync(path.join(tmpdir(), 'stream-ready-'))
const at = name => path.join(folder, name)
const ip = (...args) => execFileSync('ip', args)
try {
  const recipe = recipes.find(({ name }) => name === process.argv[2])
  if (recipe?.port === undefined) throw new Error(`Which image? One that answers on a port: ${recipes.filter(({ port }) => port !== undefined).map(({ name }) => name).join(', ')}.`)
  const image = await builtImage(recipe, { signal, say })
  ip('tuntap', 'add', tap, 'mode', 'tap')
  ip('address', 'add', `${host}/24`, 'dev', tap)
  ip('link', 'set', tap, 'up')
  await save(image, at)
  const servers = { memory: await slowServer(at('memory.pack'), 8 << 20), disk: await slowServer(at('disk.pack'), 8 << 20) }
  const urls = { memory: servers.memory.url, disk: servers.disk.url }
  const touched = await resume(image, at, urls)
  const again = await resume(image, at, urls, touched.learnt)
  for (const server of Object.values(servers)) server.close()
  const line = JSON.stringify([touched.row, again.row])
  process.stdout.write(`${line}\n`, () => process.exit())
} finally {
  try {
    ip('link', 'delete', tap)
  } catch {
    // It was not made.
  }
  rmSync(folder, { recursive: true, force: true })
}
