// Measures starts of a Linux image over a slow link: how long until it says a word on its serial port, how many bytes had
// come by then, what waited. Needs root (network namespaces, TUN devices), nbdkit, QEMU, a C compiler.
//   node scripts/stream-measure.mjs --image disk.raw --kernel vmlinuz --initrd initrd --append "root=/dev/vda console=ttyS0" \
//     --until "login:" [--app /usr/sbin/nginx] [--mbit 20] [--rtt 20] [--ways demand,fill,examined,traced,full] [--work folder] [--json]
// Ways: nothing ahead of reads; only blind fill; the profile of an examination; that of a trace (recorded first, on a
// whole copy); the whole download first.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { examine, ImageStream, Manifest, NbdServer, pack, Profile, QemuGuest, readTrace } from 'hypertwin/stream'
import { slowLink } from './link/index.mjs'
import { readFile } from 'node:fs/promises'

const { values } = parseArgs({
  options: {
    image: { type: 'string' },
    kernel: { type: 'string' },
    initrd: { type: 'string' },
    append: { type: 'string' },
    until: { type: 'string', default: 'login:' },
    app: { type: 'string', multiple: true, default: [] },
    mbit: { type: 'string', default: '20' },
    rtt: { type: 'string', default: '20' },
    ways: { type: 'string', default: 'demand,fill,examined,traced,full' },
    memory: { type: 'string', default: '1GiB' },
    after: { type: 'string', default: '5' },
    work: { type: 'string' },
    serve: { type: 'string' },
    json: { type: 'boolean', default: false }
  }
})

/** Files with ranges, and nothing else: at the far end of the link. */
function serve(folder) {
  const server = createServer(async (request, response) => {
    try {
      const file = await open(path.join(folder, path.basename(request.url)))
      const { size } = await file.stat()
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [undefined, 0, size - 1]
      const range = request.headers.range ? { 'content-range': `bytes ${from}-${to}/${size}` } : {}
      response.writeHead(request.headers.range ? 206 : 200, { 'content-length': to - from + 1, ...range })
      file.createReadStream({ start: Number(from), end: Number(to), highWaterMark: 262_144 }).on('error', () => response.destroy()).pipe(response)
    } catch {
      response.writeHead(404).end()
    }
  })
  server.keepAliveTimeout = 60_000
  server.listen(8080, () => console.log('serving'))
}

async function start(source, options, cache, trace) {
  const begin = performance.now()
  const stream = await ImageStream.open(source, { cache, ...options })
  const server = await NbdServer.start(stream.cache, { trace })
  await stream.ready
  const startedMs = performance.now() - begin
  const guest = await QemuGuest.start(server, stream.manifest.imageSize, {
    accelerator: 'tcg',
    memory: values.memory,
    ...(values.kernel && { kernel: values.kernel, initrd: values.initrd, append: values.append }),
    args: ['-nic', 'user,model=virtio-net-pci'],
    stdio: ['ignore', 'pipe', 'inherit']
  })
  try {
    let said = ''
    guest.process.stdout.setEncoding('latin1')
    for await (const text of guest.process.stdout) {
      said += text
      if (said.includes(values.until)) break
    }
    if (!said.includes(values.until)) throw new Error(`QEMU ended before it said ${values.until}: ${said.slice(-1000)}`)
    const readyMs = performance.now() - begin
    const progress = stream.progress()
    // What waits after that counts too.
    await new Promise(resolve => setTimeout(resolve, 1000 * Number(values.after)))
    const seen = await readTrace(trace)
    return { startedMs, readyMs, progress, seen, manifest: stream.manifest }
  } finally {
    await guest.close()
    await server.close()
    await stream.close()
  }
}

async function main() {
  if (!values.image) throw new Error('give --image; see the head of this file')
  const work = values.work ?? mkdtempSync(path.join(tmpdir(), 'hypertwin-measure-'))
  mkdirSync(work, { recursive: true })
  const at = name => path.join(work, name)
  if (!existsSync(at('pack/manifest'))) await pack(values.image, at('pack'))
  const manifest = new Manifest(await readFile(at('pack/manifest')))
  const ways = values.ways.split(',')
  const profiles = { demand: false, fill: false, full: false }
  if (ways.includes('examined')) profiles.examined = (await examine(values.image, manifest, { applications: values.app })).profile
  if (ways.includes('traced')) {
    if (!existsSync(at('trace'))) await start(at('pack'), { gate: 'all', profile: false }, at('whole'), at('trace'))
    profiles.traced = Profile.fromTrace(manifest, (await readTrace(at('trace'))).accesses)
  }
  const link = await slowLink({ mbit: Number(values.mbit), roundTripMs: Number(values.rtt) })
  const [command, ...args] = link.command(process.execPath, fileURLToPath(import.meta.url), '--serve', at('pack'))
  const server = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    await once(server.stdout, 'data')
    for (const way of ways) {
      rmSync(at('cache'), { recursive: true, force: true })
      const options = { profile: profiles[way], fill: way !== 'demand', gate: way === 'full' ? 'all' : way === 'demand' ? 'none' : 'forecast' }
      const { startedMs, readyMs, progress, seen } = await start(`http://${link.far}:8080/`, options, at('cache'), at('now'))
      const { fetched } = progress
      const sum = Object.values(fetched).reduce((a, b) => a + b)
      const read = new Set(seen.accesses.map(({ chunk }) => manifest.blobOf[chunk]))
      const ahead = profiles[way] ? profiles[way].match(manifest).wanted.map(({ chunk }) => chunk) : []
      const bytesOf = chunks => chunks.reduce((all, chunk) => all + manifest.lengthOf(manifest.blobOf[chunk]), 0)
      const needed = [...read].filter(blob => blob < manifest.blobs).reduce((all, blob) => all + manifest.lengthOf(blob), 0)
      const row = {
        way,
        mbit: Number(values.mbit),
        roundTripMs: Number(values.rtt),
        startedSeconds: startedMs / 1000,
        readySeconds: readyMs / 1000,
        // With the manifest, which comes first.
        urgentBytes: fetched.demand + fetched.gate + fetched.profile + manifest.bytes.length,
        fetchedBytes: sum + manifest.bytes.length,
        storedBytes: manifest.dataSize,
        neededBytes: needed,
        shareOfImage: (fetched.demand + fetched.gate + fetched.profile + manifest.bytes.length) / manifest.imageSize,
        shareOfStored: (fetched.demand + fetched.gate + fetched.profile + manifest.bytes.length) / manifest.dataSize,
        waitedReads: seen.waited.reads,
        waitedSeconds: seen.waited.ms / 1000,
        longestMs: seen.waited.longestMs,
        stalls: seen.stalls,
        vainShare: ahead.length === 0 ? null : bytesOf(ahead.filter(chunk => !read.has(manifest.blobOf[chunk]))) / bytesOf(ahead)
      }
      if (values.json) console.log(JSON.stringify(row))
      else
        console.log(
          `${way.padEnd(9)} started ${(startedMs / 1000).toFixed(1).padStart(6)} s  ready ${(readyMs / 1000).toFixed(1).padStart(6)} s  ` +
            `urgent ${(row.urgentBytes / 2 ** 20).toFixed(1).padStart(6)} MiB (${(100 * row.shareOfImage).toFixed(1)} % of the image, ${(100 * row.shareOfStored).toFixed(1)} % of the pack)  ` +
            `waited ${row.waitedReads} reads, ${row.waitedSeconds.toFixed(1)} s, ${row.longestMs.toFixed(0)} ms at most, ${row.stalls} above 100 ms` +
            (row.vainShare === null ? '' : `  in vain ${(100 * row.vainShare).toFixed(0)} %`)
        )
    }
  } finally {
    server.kill()
    await link.close()
    if (!values.work) rmSync(work, { recursive: true, force: true })
  }
}

if (values.serve) serve(values.serve)
else await main()
