// Linux in a machine of ours and in QEMU's microvm, in turns on one host: runs where KVM can run Linux, in a rig for
// example (bench/linux.mjs starts it there). Prints figures as the other benchmarks do.
//   node --expose-gc turns.mjs '{"elf", "image", "initrd", "agent", "quick"}'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { Pairs, print } from '../figures.mjs'
import { Ours, Qemu, firmware, overheadOf } from './machines.mjs'

const given = JSON.parse(process.argv[2])
const wanted = name => !given.only?.length || given.only.includes(name)
const memory = 192 << 20
const folder = mkdtempSync(path.join(tmpdir(), 'linux-bench-'))
const ip = (...words) => execFileSync('ip', words)
const sides = ['ours', 'qemu']
const taps = { ours: 'benchA', qemu: 'benchB' }
const networks = { ours: '10.9.1', qemu: '10.9.2' }
const guests = { ours: Ours, qemu: Qemu }

if (!existsSync('/sys/kernel/debug/kvm')) execFileSync('mount', ['-t', 'debugfs', 'none', '/sys/kernel/debug'])

// Whoever comes first would read programs and images from far away, where this is a rig: nobody does.
function warmUp() {
  for (const name of ['elf', 'image', 'initrd']) {
    const near = path.join(folder, name)
    copyFileSync(given[name], near)
    given[name] = near
  }
  const program = execFileSync('sh', ['-c', 'command -v qemu-system-x86_64'], { encoding: 'utf8' }).trim()
  const linked = execFileSync('ldd', [program], { encoding: 'utf8' })
  const libraries = [...linked.matchAll(/=> (\/\S+)/g)].map(([, file]) => file)
  execFileSync('sh', ['-c', 'cat "$@" > /dev/null', 'sh', program, firmware, ...libraries])
  execFileSync(program, ['--version'])
}

const note = text => console.error(`bench: linux: ${text}`)

/** What `measure` gives for each side, in turns that begin with the one and then with the other. */
async function inTurns(turns, measure) {
  const results = []
  for (let turn = 0; turn < turns; turn++) {
    const result = {}
    for (const side of turn % 2 ? sides.toReversed() : sides) result[side] = await measure(side)
    results.push(result)
  }
  return results
}

function printPairs(name, unit, results, valueOf) {
  const pairs = new Pairs()
  for (const { ours, qemu } of results) pairs.add(valueOf(ours), valueOf(qemu))
  pairs.print(`linux/${name}`, unit)
}

/** Exits for each so many of what was done; a ratio only where both have some. */
function printExits(name, unit, results, doneOf) {
  for (const kind of ['user', 'exits']) {
    const share = side => results.reduce((sum, each) => sum + each[side][kind], 0) / results.reduce((sum, each) => sum + doneOf(each[side]), 0)
    const [value, baseline] = [share('ours'), share('qemu')]
    print({
      name: `linux/${name}/${kind === 'user' ? 'exits-to-user-space' : 'exits'}`,
      value,
      unit,
      baseline,
      ...(baseline > 0 ? { ratio: value / baseline } : {})
    })
  }
}

// ---- Time to user space

async function boots(name, kernel, turns) {
  const results = await inTurns(turns, async side => {
    const guest = new guests[side]()
    const start = performance.now()
    await guest.boot({ kernel, initrd: given.initrd, memory })
    await guest.console.until('user space')
    const { exits, user } = guest.counts()
    const seconds = (performance.now() - start) / 1000
    await guest.end()
    return { seconds, exits, user }
  })
  printPairs(`boot/${name}/to-user-space`, 's', results, ({ seconds }) => seconds)
  printExits(`boot/${name}`, 'exits', results, () => 1)
}

// ---- Disk and network, of two guests that run beside each other

const disk = [
  { name: 'read-4k-one', command: 'disk read random 4096 1' },
  { name: 'read-4k', command: 'disk read random 4096 16' },
  { name: 'write-4k', command: 'disk write random 4096 16' },
  { name: 'read-1m', command: 'disk read ordered 1048576 4' },
  { name: 'write-1m', command: 'disk write ordered 1048576 4' }
]
const net = [
  { name: 'guest-to-host', command: address => `net send ${address} 65536` },
  { name: 'host-to-guest', command: address => `net receive ${address} 65536` },
  { name: 'round-trip', command: address => `net echo ${address} 64` }
]

async function devices(turns, milliseconds, vhost = false) {
  const running = {}
  for (const side of sides) {
    ip('tuntap', 'add', taps[side], 'mode', 'tap')
    ip('address', 'add', `${networks[side]}.1/24`, 'dev', taps[side])
    ip('link', 'set', taps[side], 'up')
  }
  const server = spawn(given.agent, ['serve'], { stdio: ['pipe', 'ignore', 'inherit'] })
  try {
    for (const side of sides) {
      const image = path.join(folder, `${side}.img`)
      writeFileSync(image, '')
      truncateSync(image, 64 << 20)
      // So that nothing is a hole.
      writeFileSync(image, Buffer.alloc(64 << 20, 1))
      running[side] = new guests[side]()
      await running[side].boot({
        kernel: given.elf,
        initrd: given.initrd,
        memory,
        disk: image,
        tap: taps[side],
        address: `${networks[side]}.2`,
        vhost
      })
      await running[side].console.until('ready')
      await running[side].console.until('\n')
    }
    if (!vhost && wanted('disk'))
      for (const { name, command } of disk) {
        const results = await inTurns(turns, side => running[side].command(`${command} ${milliseconds}`))
        if (name.includes('4k')) printPairs(`disk/${name}`, 'operations/s', results, ({ operations, seconds }) => operations / seconds)
        else printPairs(`disk/${name}`, 'MB/s', results, ({ bytes, seconds }) => bytes / seconds / 1e6)
        printExits(`disk/${name}`, 'exits/operation', results, ({ operations }) => operations)
      }
    if (vhost || wanted('net'))
      for (const { name, command } of net) {
        const results = await inTurns(turns, side => running[side].command(`${command(`${networks[side]}.1`)} ${milliseconds}`))
        const full = `net${vhost ? '-vhost' : ''}/${name}`
        if (name === 'round-trip') {
          printPairs(full, 'round trips/s', results, ({ operations, seconds }) => operations / seconds)
          printExits(full, 'exits/round trip', results, ({ operations }) => operations)
        } else {
          printPairs(full, 'Mbit/s', results, ({ bytes, seconds }) => (bytes * 8) / seconds / 1e6)
          printExits(full, 'exits/MiB', results, ({ bytes }) => bytes / (1 << 20))
        }
      }
  } finally {
    for (const guest of Object.values(running)) await guest.end()
    server.stdin.end()
    await once(server, 'close')
    for (const side of sides) ip('link', 'delete', taps[side])
  }
}

// ---- Memory beside the guest's: of this process, which is Node with machines in it, and of a QEMU

async function overheads(count) {
  const started = async side => {
    const guest = new guests[side]()
    await guest.boot({ kernel: given.image, initrd: given.initrd, memory })
    await guest.console.until('ready')
    return guest
  }
  const own = () => {
    // What was garbage before the first collection may be freed by the second.
    for (let i = 0; i < 3; i++) globalThis.gc()
    return overheadOf(process.pid, memory) / 1024
  }
  const qemu = await started('qemu')
  const theirs = overheadOf(qemu.pid, memory) / 1024
  await qemu.end()
  const ours = [await started('ours')]
  const one = own()
  while (ours.length <= count) ours.push(await started('ours'))
  const all = own()
  for (const guest of ours) await guest.end()
  const show = (name, value) => print({ name: `linux/memory/${name}`, value, unit: 'MiB', baseline: theirs, ratio: value / theirs })
  show('process-with-one-machine', one)
  show('a-further-machine', Math.max(0, all - one) / count)
}

// ---- Restore: from nothing to the first dot of a guest that writes dots

async function ticking(guest, options) {
  await guest.boot({ kernel: given.image, initrd: given.initrd, memory, ...options })
  await guest.console.until('ready')
  guest.type('tick\n')
  await guest.console.until('....')
}

async function untilDot(guest, restore) {
  const start = performance.now()
  await restore()
  await guest.console.until('.')
  return performance.now() - start
}

async function restores(turns) {
  const ours = new Ours()
  await ticking(ours)
  await ours.save(folder)
  await ours.end()

  const state = path.join(folder, 'state.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', state, '64M'])
  const qemu = new Qemu()
  const options = { kernel: given.image, initrd: given.initrd, memory, state }
  await ticking(qemu, options)
  await qemu.monitor('stop')
  await qemu.monitor('savevm ticking')

  const restoreOurs = async () => {
    const guest = new Ours()
    try {
      return await untilDot(guest, () => guest.restore(folder))
    } finally {
      await guest.end()
    }
  }
  const loadQemu = async () => {
    qemu.console.forget()
    const milliseconds = await untilDot(qemu, async () => {
      await qemu.monitor('loadvm ticking')
      await qemu.monitor('cont')
    })
    await qemu.monitor('stop')
    return milliseconds
  }
  const startQemu = async () => {
    const guest = new Qemu()
    try {
      return await untilDot(guest, () => guest.boot({ ...options, load: 'ticking' }))
    } finally {
      await guest.end()
    }
  }
  const both = async (name, theirs) => {
    const results = await inTurns(turns, side => (side === 'ours' ? restoreOurs() : theirs()))
    printPairs(`restore/${name}`, 'ms', results, milliseconds => milliseconds)
  }
  try {
    await both('vs-loadvm', loadQemu)
  } finally {
    await qemu.end()
  }
  await both('vs-new-process', startQemu)
}

try {
  warmUp()
  if (wanted('boot')) {
    note('boot')
    await boots('elf', given.elf, given.quick ? 1 : 3)
    if (!given.quick) await boots('bzimage', given.image, 3)
  }
  if (wanted('memory')) {
    note('memory')
    await overheads(given.quick ? 1 : 3)
  }
  if (wanted('disk') || wanted('net')) {
    note('disk and network')
    await devices(given.quick ? 3 : 5, given.quick ? 500 : 1000)
  }
  if (wanted('vhost')) {
    note('network by vhost')
    await devices(given.quick ? 3 : 5, given.quick ? 500 : 1000, true)
  }
  if (wanted('restore')) {
    note('restore')
    await restores(given.quick ? 3 : 5)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
