// Runs in a rig: Linux on a disk image with Debian's nginx, in a machine of ours, fetched from over a tap; through a snapshot
// while clients download and the guest writes to its disk; then from a clone of it beside the first, and from a machine that
// takes the first one's place. With `brief`, only until it has served.
//   node service_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "disk", "brief", "seconds"}'
// Prints one line of JSON: what was seen.
import { createHash } from 'node:crypto'
import { copyFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { Machine } from '../../dist/machine/index.js'
import { address, bindAnew, cloneAddress, cloneTap, command, machineOptions, observe, untilPrompt } from './guest.mjs'

const signal = AbortSignal.timeout(1000 * JSON.parse(process.argv[2]).seconds)

const digests = new Set()
let outstanding = 0
/** Fetches a file, and calls `onData` when more of it is there; gives the status and the digest. */
async function fetchFile(options, onData = () => {}) {
  outstanding++
  const answer = await new Promise((resolve, reject) => http.get({ ...options, signal }, resolve).on('error', reject))
  const hash = createHash('sha256')
  for await (const data of answer) {
    hash.update(data)
    onData(data.length)
  }
  outstanding--
  return `${answer.statusCode} ${hash.digest('hex')}`
}

/** Fetches the page so many times, by so many connections. */
async function fetchPages(count, connections, { host = address, onPage = () => {} } = {}) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections })
  const one = async () => onPage(digests.add(await fetchFile({ host, path: '/page', agent })))
  await Promise.all(Array.from({ length: count }, one))
  agent.destroy()
  return count
}

// Writes, again and again, one of 8 blocks that holds nothing but the number of the write, and waits for the disk each time.
const writer = [
  'w() { i=0; while [ ! -e /tmp/stop ]; do i=$((i+1))',
  'yes $(printf 1%014d $i) | head -c 65536 > /tmp/block',
  'dd if=/tmp/block of=/srv/blocks bs=64k seek=$((i%8)) conv=notrunc,fsync 2>/dev/null',
  'echo $i > /tmp/written; done; }'
].join('; ')
// How many of them are not of one number, or older than the last write but 8; and the number of the last one.
const check = [
  "c() { awk 'NR%4096==1 {n[b++]=$1} $1!=n[b-1] {bad++}",
  'END {for (i in n) if (n[i]+0>max) max=n[i]+0; for (i in n) if (n[i]+0<=max-8 || n[i]%8!=i) bad++',
  "print b, bad+0, max-1e14}' /srv/blocks; }"
].join('; ')

await observe(async (folder, given, seen) => {
  const image = path.join(folder, 'disk.img')
  copyFileSync(given.disk, image)
  let machine = await Machine.create(machineOptions(given, 'web', image))
  await machine.start()
  await untilPrompt(machine, 0, signal)
  seen.started = machine.console.text.includes('serving')
  seen.root = await command(machine, "grep -c '^/dev/vda / ext4' /proc/mounts", signal)
  seen.pages = await fetchPages(given.brief ? 4 : 20, 4)
  if (given.brief) {
    machine.console.write('poweroff -f\n')
    await machine.waitFor('stopped', { signal })
    seen.digests = [...digests]
    return machine.close()
  }
  // Wide enough for what is typed.
  for (const typed of ['stty cols 1000', writer, check, 'for i in $(seq 80); do cat /srv/page; done > /tmp/big', 'ln -s /tmp/big /srv/big'])
    await command(machine, typed, signal)
  const written = async its => Number(await command(its, 'cat /tmp/written', signal))
  await command(machine, 'w &', signal)
  await command(machine, 'until [ -e /tmp/written ] && [ $(cat /tmp/written) -ge 8 ]; do sleep 1; done', signal)
  // What is on the disk, not what the guest remembers; when its writer has ended.
  const blocks = async its => {
    await command(its, 'touch /tmp/stop; wait', signal)
    await command(its, 'echo 3 > /proc/sys/vm/drop_caches', signal)
    const [count, bad, last] = (await command(its, 'c', signal)).split(' ').map(Number)
    return { count, bad, went: last > acknowledged, whole: last === (await written(its)) }
  }
  seen.vhost = machine.nets[0].vhost
  await machine.pause()
  seen.vhostPaused = machine.nets[0].vhost
  await machine.snapshot(path.join(folder, 'base'), { track: true })
  await machine.resume()

  // While clients download: one of them a file that is longer than all buffers on its way, and has begun; of the others one
  // has come. What came meanwhile, whoever brought it, is in what the snapshot adds.
  const acknowledged = await written(machine)
  let received = 0
  let big
  await new Promise(resolve => {
    big = fetchFile({ host: address, path: '/big' }, size => resolve((received += size)))
  })
  let under
  await new Promise(resolve => {
    under = fetchPages(30, 6, { onPage: resolve })
  })
  await machine.pause()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file, { incremental: true })
  // What had left the guest before has come; what has not is still in it.
  for (let last = -1; last !== received; await sleep(100)) last = received
  seen.received = received
  seen.underWay = outstanding
  const before = await machine.stateDigest()
  copyFileSync(image, path.join(folder, 'copy.img'))
  await machine.resume()
  seen.underLoad = await under
  seen.big = await big

  const [cloneImage, mac] = [path.join(folder, 'clone.img'), '52:54:00:99:00:02']
  copyFileSync(path.join(folder, 'copy.img'), cloneImage)
  const clone = await Machine.restore(file, { disks: [cloneImage], nets: [{ backend: { tap: cloneTap }, mac }] })
  await clone.resume()
  seen.cloneVhost = clone.nets[0].vhost
  seen.cloneAddress = await bindAnew(clone, cloneAddress, signal)
  seen.cloneBlocks = await blocks(clone)
  seen.both = await Promise.all([fetchPages(20, 4), fetchPages(20, 4, { host: cloneAddress })])
  // What one writes is not the other's.
  await command(clone, 'echo clone > /tmp/who', signal)
  seen.apart = await command(machine, 'cat /tmp/who 2>/dev/null || echo nobody', signal)
  seen.blocks = await blocks(machine)
  await clone.close()
  await machine.close()

  machine = await Machine.restore(file, { disks: [path.join(folder, 'copy.img')] })
  seen.sameState = (await machine.stateDigest()).combined === before.combined
  await machine.resume()
  seen.restoredBlocks = await blocks(machine)
  seen.restored = await fetchPages(10, 2)
  machine.console.write('poweroff -f\n')
  await machine.waitFor('stopped', { signal })
  seen.counters = machine.counters()
  await machine.close()
  seen.digests = [...digests]
})
