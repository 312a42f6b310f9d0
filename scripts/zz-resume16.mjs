// Resumes a snapshot over HTTP at 1 MiB/s: once to learn what the machine touches until it answers, then again with that
// first. A guest of ours; with a kernel and an initial RAM disk as scripts/linux-hello.mjs takes them, Linux.
//   node scripts/stream-resume.mjs [kernel initrd]     (after npm run build; root, for userfaultfd)
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { guestPath } from 'hypertwin'
import { Machine } from 'hypertwin/machine'
import { memoryTrace, pack, Profile, SnapshotStream } from 'hypertwin/stream'
import { slowServer } from './shared/web.mjs'

const [, , kernel, initrd] = process.argv
const folder = mkdtempSync(path.join(tmpdir(), 'stream-resume-'))
const at = name => path.join(folder, name)
const mib = bytes => `${(bytes / 2 ** 20).toFixed(1)} MiB`

/** A machine that has done its work so far, and waits for more. */
async function ready() {
  if (kernel && initrd) {
    const machine = await Machine.create({ board: 'standard', memory: '256MiB', kernel, initrd, commandLine: 'console=ttyS0 quiet' })
    await machine.start()
    await machine.console.waitFor('guest# ')
    return machine
  }
  const machine = await Machine.create({ memory: '64MiB', kernel: guestPath('dirtier'), commandLine: 'base=8M pages=6144 count=6144 rounds=1 stay=1' })
  await machine.start()
  await machine.console.waitFor('dirtier done')
  await machine.pause()
  // Its data, which does not compress.
  for (let page = 0; page < 6144; page++) machine.memory.write(BigInt((8 << 20) + 4096 * page + 8), randomBytes(4088))
  return machine
}

/** Has it do more, and waits for its answer. */
async function answer(machine) {
  if (kernel) {
    machine.console.write('echo still $((6 * 7))\n')
    return machine.console.waitFor('still 42')
  }
  machine.console.write('pattern=hotset count=256 seed=7 hot=2 bias=100 rounds=1\n')
  return machine.console.waitFor('dirtier done 2')
}

let server
try {
  const machine = await ready()
  await machine.pause()
  await machine.snapshot(at('snapshot'))
  await machine.close()
  const { manifest } = await pack(at('snapshot'), at('pack'), { quality: 1, chunkSize: '16KiB' })
  server = await slowServer(at('pack'), 2 ** 20)
  let profile = false
  for (const way of ['as it is touched', 'what was touched first']) {
    const begun = performance.now()
    const stream = await SnapshotStream.open(server.url, { cache: at(way), digest: manifest.digest, profile, fill: profile !== false })
    await stream.ready
    const restored = await stream.restore({ prefetch: profile !== false })
    await restored.resume()
    await answer(restored)
    const { waits, longestMs } = restored.paging()
    const fetched = Object.values(stream.progress().fetched).reduce((a, b) => a + b)
    console.log(
      `${way}: it answers after ${((performance.now() - begun) / 1000).toFixed(2)} s, when ${mib(fetched)} of ` +
        `${mib(manifest.dataSize)} have come; it waited for ${waits} pages, ${longestMs.toFixed(0)} ms at most`
    )
    profile = Profile.fromTrace(manifest, memoryTrace(restored, manifest))
    await restored.close()
    await stream.close()
  }
} finally {
  server?.close()
  rmSync(folder, { recursive: true, force: true })
}
