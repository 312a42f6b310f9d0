// Namespaces without a name: they live as long as the process in them that does nothing, and that one ends with the
// process that made it, unless it is told to stay. So nothing can be left behind.
import { spawn } from 'node:child_process'
import { HostsError } from './error.mjs'
import { identify } from './process.mjs'

// Ends when its input does, which is when its maker dies; told `keep`, it stays.
const hold = `while read -r word; do if [ "$word" = keep ]; then exec sleep infinity; fi; done`

// A network alone. $0 is the line to hold by.
const network = `
set -e
ip link set lo up
echo ready $$
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
    const failed = why => reject(new HostsError(`making namespaces: ${errors.trim() || why}`))
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

/** A command as it runs in the network namespace of a process. */
export function inNetwork(pid, ...command) {
  return ['nsenter', '--target', String(pid), '--net', '--', ...command]
}

/** A command as it runs on the host whose process 1 this is. */
export function onHost(pid, ...command) {
  return ['nsenter', '--target', String(pid), '--mount', '--uts', '--net', '--pid', '--wd=/', '--', ...command]
}
