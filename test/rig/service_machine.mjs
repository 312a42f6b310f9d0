// Runs in a rig: Debian's nginx from a disk image, in a machine of ours, fetched from over a tap; through a snapshot while
// clients download, and on in two machines from it.
//   node service_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "disk"}'
// Prints one line of JSON: what was seen.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { Machine } from '../../dist/machine/index.js'

const { board, vcpus, kernel, initrd, commandLine, disk } = JSON.parse(process.argv[2])
const address = '10.9.0.2'
const folder = mkdtempSync(path.join(tmpdir(), 'service-'))
const seen = {}
const prompt = 'guest# '
const signal = AbortSignal.timeout(280_000)
const ip = (...args) => execFileSync('ip', args)

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

try {
  ip('tuntap', 'add', 'guest0', 'mode', 'tap')
  ip('address', 'add', '10.9.0.1/16', 'dev', 'guest0')
  ip('link', 'set', 'guest0', 'up')
  const image = path.join(folder, 'disk.img')
  copyFileSync(disk, image)
  let machine = await Machine.create({
    board,
    vcpus,
    kernel,
    initrd,
    memory: '192MiB',
    commandLine: `console=ttyS0 quiet guest.name=web guest.address=${address} ${commandLine}`,
    disks: [{ path: image }],
    nets: [{ backend: { tap: 'guest0' } }]
  })
  const command = async text => {
    const from = machine.console.text.length
    if (text) machine.console.write(`${text}\n`)
    while (machine.console.text.indexOf(prompt, from) < 0) {
      if (machine.state !== 'running') throw new Error(`it is ${machine.state}: ${machine.message}`)
      signal.throwIfAborted()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    return machine.console.text.slice(from)
  }
  await machine.start()
  await command('')
  seen.started = await command('mkdir -p /mnt; mount /dev/vda /mnt && mount --bind /dev /mnt/dev && chroot /mnt /usr/sbin/nginx && echo ser""ving')
  seen.started = seen.started.includes('serving')
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
  seen.restored = await fetchPages(10, 2)
  machine.console.write('poweroff -f\n')
  await machine.waitFor('stopped', { signal })
  seen.counters = machine.counters()
  await machine.close()
} catch (error) {
  seen.error = error.stack
} finally {
  try {
    ip('link', 'delete', 'guest0')
  } catch {
    // It was not made.
  }
  rmSync(folder, { recursive: true, force: true })
}
seen.digests = [...digests]
process.stdout.write(`${JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? Number(value) : value))}\n`)
