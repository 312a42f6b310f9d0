// What the programs share that boot Debian's kernel in a machine of ours, in a rig.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'

/** The guest's, and its clone's. */
export const address = '10.9.0.2'
export const cloneAddress = '10.10.0.2'
export const cloneTap = 'guest1'

const taps = { guest0: '10.9.0.1/16', [cloneTap]: '10.10.0.1/16' }
const prompt = 'guest# '

/**
 * Calls `work` with a folder, the test's JSON argument, and an object to note in what was seen; the taps are there
 * meanwhile. Prints what was seen, an error too, as one line of JSON.
 */
export async function observe(work) {
  const folder = mkdtempSync(path.join(tmpdir(), 'guest-'))
  const seen = {}
  const ip = (...args) => execFileSync('ip', args)
  try {
    for (const [tap, its] of Object.entries(taps)) {
      ip('tuntap', 'add', tap, 'mode', 'tap')
      ip('address', 'add', its, 'dev', tap)
      ip('link', 'set', tap, 'up')
    }
    await work(folder, JSON.parse(process.argv[2]), seen)
  } catch (error) {
    seen.error = error.stack
  } finally {
    for (const tap of Object.keys(taps))
      try {
        ip('link', 'delete', tap)
      } catch {
        // It was not made.
      }
    rmSync(folder, { recursive: true, force: true })
  }
  const line = JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? Number(value) : value))
  // What is still open when something went wrong does not hold it up.
  process.stdout.write(`${line}\n`, () => process.exit())
}

/** The options of the machine that the test has asked for. */
export function machineOptions({ board, vcpus, kernel, initrd, commandLine }, name, disk) {
  return {
    board,
    vcpus,
    kernel,
    initrd,
    memory: '192MiB',
    commandLine: `console=ttyS0 quiet guest.name=${name} guest.address=${address} ${commandLine}`,
    disks: [{ path: disk }],
    nets: [{ backend: { tap: 'guest0' } }]
  }
}

/** Waits for a prompt behind the first `from` characters of the console. */
export async function untilPrompt(machine, from, signal) {
  while (machine.console.text.indexOf(prompt, from) < 0) {
    if (machine.state !== 'running') throw new Error(`it is ${machine.state}: ${machine.message}`)
    signal.throwIfAborted()
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Types a command; gives what it printed. */
export async function command(machine, text, signal) {
  const from = machine.console.text.length
  machine.console.write(`${text}\n`)
  await untilPrompt(machine, from, signal)
  return machine.console.text.slice(from).replace(/\r/g, '').split('\n').slice(1, -1).join('\n').trim()
}

/** Has Linux bind its network card's driver anew, so that it takes the card's address of now; gives that. */
export async function bindAnew(machine, itsAddress, signal) {
  const card = await command(machine, 'basename $(readlink /sys/class/net/eth0/device)', signal)
  const steps = [
    'cd /sys/bus/virtio/drivers/virtio_net',
    `echo ${card} > unbind`,
    `echo ${card} > bind`,
    'cd /',
    'ip link set eth0 up',
    `ip address add ${itsAddress}/16 dev eth0`
  ]
  await command(machine, steps.join('; '), signal)
  return command(machine, 'cat /sys/class/net/eth0/address', signal)
}
