// Runs in a rig: Linux on a disk image with Debian's nginx, in a machine of ours, fetched from over a tap; through a snapshot
// while clients download, and on in a machine that is restored from it.
//   node service_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "disk"}'
// Prints one line of JSON: what was seen.
import { createHash } from 'node:crypto'
import { copyFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { Machine } from '../../dist/machine/index.js'
import { address, command, machineOptions, observe, untilPrompt } from './guest.mjs'

const signal = AbortSignal.timeout(280_000)

const digests = new Set()
/** Fetches the page so many times, by so many connections. */
async function fetchPages(count, connections) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections })
  const one = () =>
    new Promise((resolve, reject) => {
      const request = http.get({ host: address, path: '/page', agent, signal }, answer => {
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

  // While clients download.
  const under = fetchPages(30, 6)
  await new Promise(resolve => setTimeout(resolve, 50))
  await machine.pause()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file)
  const before = await machine.stateDigest()
  copyFileSync(image, path.join(folder, 'copy.img'))
  await machine.resume()
  seen.underLoad = await under
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
