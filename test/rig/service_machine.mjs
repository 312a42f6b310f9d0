// Runs in a rig: Linux on a disk image with Debian's nginx, in a machine of ours, fetched from over a tap; through a snapshot
// while clients download; then from a clone of it beside the first, and from a machine that takes the first one's place.
//   node service_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "disk"}'
// Prints one line of JSON: what was seen.
import { createHash } from 'node:crypto'
import { copyFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { Machine } from '../../dist/machine/index.js'
import { address, bindAnew, cloneAddress, cloneTap, command, machineOptions, observe, untilPrompt } from './guest.mjs'

const signal = AbortSignal.timeout(280_000)

const digests = new Set()
/** Fetches the page so many times, by so many connections. */
async function fetchPages(count, connections, host = address) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections })
  const one = () =>
    new Promise((resolve, reject) => {
      const request = http.get({ host, path: '/page', agent, signal }, answer => {
        const hash = createHash('sha256')
        answer.on('data', data => hash.update(data))
        answer.on('end', () => resolve(digests.add(`${answer.statusCode} ${hash.digest('hex')}`)))
        answer.on('error', reject)
      })
      request.on('error', reject)
    })
  await Promise.all(Array.from({ length: count }, one))
  agent.destroy()
  return count
}

await observe(async (folder, given, seen) => {
  const image = path.join(folder, 'disk.img')
  copyFileSync(given.disk, image)
  let machine = await Machine.create(machineOptions(given, 'web', image))
  await machine.start()
  await untilPrompt(machine, 0, signal)
  seen.started = machine.console.text.includes('serving')
  seen.root = await command(machine, "grep -c '^/dev/vda / ext4' /proc/mounts", signal)
  seen.pages = await fetchPages(20, 4)
  seen.vhost = machine.nets[0].vhost
  await machine.pause()
  seen.vhostPaused = machine.nets[0].vhost
  await machine.snapshot(path.join(folder, 'base'), { track: true })
  await machine.resume()

  // While clients download. What came meanwhile, whoever brought it, is in what the snapshot adds.
  const under = fetchPages(30, 6)
  await new Promise(resolve => setTimeout(resolve, 50))
  await machine.pause()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file, { incremental: true })
  const before = await machine.stateDigest()
  copyFileSync(image, path.join(folder, 'copy.img'))
  await machine.resume()
  seen.underLoad = await under

  const [cloneImage, mac] = [path.join(folder, 'clone.img'), '52:54:00:99:00:02']
  copyFileSync(path.join(folder, 'copy.img'), cloneImage)
  const clone = await Machine.restore(file, { disks: [cloneImage], nets: [{ backend: { tap: cloneTap }, mac }] })
  await clone.resume()
  seen.cloneVhost = clone.nets[0].vhost
  seen.cloneAddress = await bindAnew(clone, cloneAddress, signal)
  await command(clone, 'echo 3 > /proc/sys/vm/drop_caches', signal)
  seen.both = await Promise.all([fetchPages(20, 4), fetchPages(20, 4, cloneAddress)])
  // What one writes is not the other's.
  await command(clone, 'echo clone > /tmp/who', signal)
  seen.apart = await command(machine, 'cat /tmp/who 2>/dev/null || echo nobody', signal)
  await clone.close()
  await machine.close()

  machine = await Machine.restore(file, { disks: [path.join(folder, 'copy.img')] })
  seen.sameState = (await machine.stateDigest()).combined === before.combined
  await machine.resume()
  // From the copy of the disk, not from what the guest remembers.
  await command(machine, 'echo 3 > /proc/sys/vm/drop_caches', signal)
  seen.restored = await fetchPages(10, 2)
  machine.console.write('poweroff -f\n')
  await machine.waitFor('stopped', { signal })
  seen.counters = machine.counters()
  await machine.close()
  seen.digests = [...digests]
})
