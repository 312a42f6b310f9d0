// Runs in a rig: a machine of ours with Linux and Debian's nginx, ready, saved, and published as two packs (memory and disk);
// then resumed from both over HTTP, once to learn what it needs until a page is served, and again with that first.
//   node streamed_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "disk", "digest"}'
// Prints one line of JSON: what was seen.
import { createHash } from 'node:crypto'
import { copyFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { Machine } from '../../dist/machine/index.js'
import { ImageStream, memoryTrace, NbdServer, pack, Profile, readTrace, SnapshotStream } from '../../dist/stream/index.js'
import { slowServer } from '../../scripts/shared/web.mjs'
import { address, command, machineOptions, observe, untilPrompt } from './guest.mjs'

const signal = AbortSignal.timeout(280_000)
const digestOf = bytes => createHash('sha256').update(bytes).digest('hex')
const once = () =>
  new Promise((resolve, reject) => {
    const request = http.get({ host: address, path: '/page', signal }, async answer => resolve(digestOf(Buffer.concat(await answer.toArray()))))
    request.on('error', reject)
  })
/** Until a guest answers whose memory is on its way: it may not even answer ARP in time. */
async function page() {
  for (;;)
    try {
      return await once()
    } catch (error) {
      if (signal.aborted) throw error
    }
}
const sum = counts => Object.values(counts).reduce((a, b) => a + b)

await observe(async (folder, given, seen) => {
  const at = name => path.join(folder, name)
  copyFileSync(given.disk, at('disk'))
  const machine = await Machine.create(machineOptions(given, 'web', at('disk')))
  await machine.start()
  await untilPrompt(machine, 0, signal)
  // It is ready for the page, and has not read it.
  await command(machine, 'sync', signal)
  await machine.pause()
  await machine.snapshot(at('memory'))
  await machine.close()
  for (const [name, chunkSize] of [['memory', '16KiB'], ['disk', '64KiB']]) await pack(at(name), at(`${name}.pack`), { chunkSize, quality: 1 })

  const servers = { memory: await slowServer(at('memory.pack'), 8 << 20), disk: await slowServer(at('disk.pack'), 8 << 20) }
  seen.ways = []
  let profiles = { memory: false, disk: false }
  for (const [turn, prefetch] of [false, true].entries()) {
    const begun = performance.now()
    const open = (kind, name) =>
      kind.open(servers[name].url, { cache: at(`${name}.${turn}`), profile: profiles[name], gate: prefetch ? 'profile' : 'none', fill: false })
    const [memory, disk] = await Promise.all([open(SnapshotStream, 'memory'), open(ImageStream, 'disk')])
    const nbd = await NbdServer.start(disk.cache, { writable: true, trace: at(`trace.${turn}`) })
    await Promise.all([memory.ready, disk.ready])
    const restored = await memory.restore({ prefetch, disks: [nbd.uri], nets: [{ backend: { tap: 'guest0' } }] })
    await restored.resume()
    const digest = await page()
    seen.ways.push({
      right: digest === given.digest,
      seconds: (performance.now() - begun) / 1000,
      fetched: sum(memory.progress().fetched) + sum(disk.progress().fetched),
      bytes: memory.manifest.imageSize + disk.manifest.imageSize,
      stored: memory.manifest.dataSize + disk.manifest.dataSize,
      memory: restored.paging(),
      diskWaits: disk.progress().demands.count
    })
    profiles = {
      memory: Profile.fromTrace(memory.manifest, memoryTrace(restored, memory.manifest)),
      disk: Profile.fromTrace(disk.manifest, (await readTrace(at(`trace.${turn}`))).accesses)
    }
    await restored.close()
    await nbd.close()
    await Promise.all([memory.close(), disk.close()])
  }
})
