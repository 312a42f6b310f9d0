// Namespaces without a name: they live as long as the process in them that does nothing, and that one ends with the
// process that made it, unless it is told to stay. So nothing can be left behind.
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import process from 'node:process'
import { Duplex } from 'node:stream'
import { ToolError } from './error.mjs'
import { execute, identify, must } from './process.mjs'

// Ends when its input does, which is when its maker dies; told `keep`, it stays.
const hold = `while read -r word; do if [ "$word" = keep ]; then exec sleep infinity; fi; done`

// A network, alone or with processes. $0 is the line to hold by.
const network = `
set -e
read -r pid rest < /proc/self/stat
ip link set lo up
echo ready $pid
exec sh -c "$0"`

// A host. tini is the namespace's process 1: it reaps what daemons leave, and its end is the end of all of them.
// $0 is the line to hold by, $1 the folder of the host, $2 its name.
const host = `
set -e
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt /run/lock
for folder in run/libvirt etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt; do
  mount --bind "$1/$folder" "/$folder"
done
for file in hosts passwd group; do mount --bind "$1/etc/$file" "/etc/$file"; done
echo "$2" > /proc/sys/kernel/hostname
ip link set lo up
echo ready $pid
exec tini -- sh -c "$0"`

/** Makes namespaces; what it resolves with can be told to stay. */
async function create(kinds, script, args) {
  const child = spawn('unshare', [...kinds, '--', 'sh', '-c', script, hold, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true
  })
  child.stdin.on('error', () => {})
  let errors = ''
  child.stderr.on('data', text => (errors += text))
  const pid = await new Promise((resolve, reject) => {
    const failed = why => reject(new ToolError(`making namespaces: ${errors.trim() || why}`))
    child.once('error', error => failed(error.message))
    child.once('close', (status, signal) => failed(`unshare ended with ${signal ?? status}`))
    child.stdout.once('data', text => resolve(Number(/^ready (\d+)/.exec(text)?.[1])))
  })
  child.unref()
  for (const stream of [child.stdin, child.stdout, child.stderr]) stream.unref()
  return { holder: identify(pid), keep: () => new Promise(resolve => child.stdin.write('keep\n', resolve)) }
}

export function createNetwork() {
  return create(['--net'], network, [])
}

export function createHost(folder, name) {
  return create(['--mount', '--uts', '--net', '--pid', '--fork', '--kill-child'], host, [folder, name])
}

/** A network with processes of its own: all that are started in it end with it. */
export function createMachineRoom() {
  return create(['--net', '--pid', '--fork', '--kill-child'], network, [])
}

/** Makes the bridge on which the others are. */
export async function makeWire(holder, address) {
  await must(inNetwork(holder.pid, 'ip', '-batch', '-'), {
    input: `link add wire type bridge forward_delay 0 mcast_snooping 0
address add ${address} dev wire
link set wire up
`
  })
}

/** A command as it runs in the network namespace of a process. */
export function inNetwork(pid, ...command) {
  return ['nsenter', '--target', String(pid), '--net', '--', ...command]
}

/** A command as it runs in a machine room. */
export function inMachineRoom(pid, ...command) {
  return ['nsenter', '--target', String(pid), '--net', '--pid', '--', ...command]
}

/** A TCP connection from within the network namespace of a process. */
export function connect(pid, address, port) {
  const program = `const s = require('net').connect(${Number(port)}, ${JSON.stringify(address)})
s.on('error', e => { console.error(e.message); process.exit(1) })
process.stdin.pipe(s).pipe(process.stdout)`
  const [command, ...args] = inNetwork(pid, process.execPath, '-e', program)
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let why = ''
  child.stderr.setEncoding('utf8').on('data', text => (why += text))
  child.stdin.on('error', () => {})
  const stream = Duplex.from({ readable: child.stdout, writable: child.stdin })
  child.once('error', error => stream.destroy(error))
  child.once('close', status => {
    if (status) stream.destroy(new ToolError(`connecting to ${address}, port ${port}: ${why.trim()}`))
  })
  stream.once('close', () => child.kill('SIGKILL'))
  return stream
}

/** Why namespaces with a network of their own cannot be made here, or false. @param what - who needs them */
export async function whyNoNamespaces(what) {
  if (process.platform !== 'linux') return `${what} need Linux`
  if (process.getuid() !== 0) return `${what} need root: run it as root, or by sudo`
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch (error) {
    return `${what} need /dev/net/tun (modprobe tun): ${error.message}`
  }
  const namespaces = ['unshare', '--mount', '--uts', '--net', '--pid', '--fork']
  try {
    const tried = await execute([...namespaces, 'sh', '-c', 'mount -t proc proc /proc && ip link add x type bridge'])
    if (tried.status !== 0) return `${what} need namespaces and bridges of their own: ${tried.stderr.trim()}`
  } catch (error) {
    return error.message
  }
  return false
}

/** A command as it runs on the host whose process 1 this is. */
export function onHost(pid, ...command) {
  return ['nsenter', '--target', String(pid), '--mount', '--uts', '--net', '--pid', '--wd=/', '--', ...command]
}
