// Starts of Debian images with real applications over slow links: how many bytes had come at the first right answer, how long
// it took, what waited, what came in vain; against nothing ahead, a whole download first, and an oracle.
//   npm run bench:stream -- [--json] [--images nginx,redis] [--links 20/40,100/5] [--ways nbdkit,demand,fill,examined,traced,full,download]
//     [--all] [--seconds 10] [--locals 2] [--resume | --fresh] [--table] [--build] [--missed]
// Links are Mb/s and ms of round trip, emulated (scripts/link). Guests run under QEMU's TCG. Default: all images, 20/40, nbdkit
// (its own curl plugin on the raw image), demand (ours, nothing ahead), examined, traced, full (a whole download first, computed;
// download: one that is measured, and how much of the link it used); --all: 5, 20, 100, 1000 Mb/s with
// 5 and 40 ms. What has been measured with the same code is not measured again; --resume: nor what was measured with other
// code; --fresh: all is. Each row goes to the results file at once, so that what is interrupted goes on. --json prints all
// rows, those of earlier runs too; --table only what the results file has, as Markdown. A start is watched, and its application
// used, for --seconds after its first right answer; at 20 Mb/s through its first minute, too.
// --build only builds the images. --missed tells which files starts read that an examination did not expect, and what it
// expected in vain; not of images that are held out. Exit code 1 when a start fails; a goal that is not met is a figure.
import { spawn } from 'node:child_process'
import { once, setMaxListeners } from 'node:events'
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { examine, Profile, readTrace, whyNoNbd } from 'hypertwin/stream'
import { slowLink, whyNoLinks } from '../scripts/link/index.mjs'
import { ToolError } from '../scripts/shared/error.mjs'
import { filesBelow, has, hashOf, root } from '../scripts/support.mjs'
import { builtImage } from './stream/build.mjs'
import { recipes } from './stream/images.mjs'
import { missedFiles } from './stream/missed.mjs'
import { goals, lineOf, summary, tables } from './stream/report.mjs'
import { downloadRow, fullRow, localRow, oracleOf, plainRow, streamedRow } from './stream/rows.mjs'
import { download, pin, start } from './stream/start.mjs'

const work = path.join(root, '.cache/stream-bench')
const results = path.join(work, 'results.jsonl')
const allWays = ['nbdkit', 'demand', 'fill', 'examined', 'traced', 'full', 'download']
const port = 8080

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    images: { type: 'string', default: recipes.map(({ name }) => name).join(',') },
    links: { type: 'string' },
    ways: { type: 'string', default: 'nbdkit,demand,examined,traced,full' },
    all: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '10' },
    locals: { type: 'string', default: '2' },
    resume: { type: 'boolean', default: false },
    fresh: { type: 'boolean', default: false },
    table: { type: 'boolean', default: false },
    build: { type: 'boolean', default: false },
    missed: { type: 'boolean', default: false }
  }
})

const stop = new AbortController()
setMaxListeners(0, stop.signal)
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'])
  process.on(name, () => stop.abort(new ToolError('interrupted; the same command goes on where this one ended')))

function chosen() {
  const known = new Map(recipes.map(recipe => [recipe.name, recipe]))
  const images = values.images.split(',').map(name => {
    if (!known.has(name)) throw new ToolError(`There is no image ${name}, but ${[...known.keys()].join(', ')}.`)
    return known.get(name)
  })
  const ways = values.ways.split(',')
  for (const way of ways) if (!allWays.includes(way)) throw new ToolError(`There is no way ${way}, but ${allWays.join(', ')}.`)
  const words = values.links ?? (values.all ? '5/5,5/40,20/5,20/40,100/5,100/40,1000/5,1000/40' : '20/40')
  const links = words.split(',').map(word => {
    const [, mbit, roundTripMs] = /^(\d+(?:\.\d+)?)\/(\d+)$/.exec(word) ?? []
    if (!(Number(mbit) > 0)) throw new ToolError(`${word} is no link: Mb/s and ms of round trip, 20/40.`)
    return { mbit: Number(mbit), roundTripMs: Number(roundTripMs) }
  })
  const [seconds, locals] = [Number(values.seconds), Number(values.locals)]
  if (!(seconds >= 0)) throw new ToolError('--seconds must be a number of seconds.')
  if (!(Number.isInteger(locals) && locals >= 1)) throw new ToolError('--locals must be a whole number above 0.')
  return { images, ways, links, seconds, locals }
}

async function checkTools() {
  const why = (await whyNoLinks()) || whyNoNbd()?.message
  if (why) throw new ToolError(why)
  const tools = { 'qemu-system-x86_64': 'qemu-system-x86', 'qemu-img': 'qemu-utils', ip: 'iproute2', taskset: 'util-linux', debugfs: 'e2fsprogs', readelf: 'binutils', sfdisk: 'fdisk' }
  process.env.PATH += ':/usr/sbin:/sbin'
  const missing = Object.keys(tools).filter(name => !has(name) && !(process.env.PATH ?? '').split(':').some(folder => existsSync(path.join(folder, name))))
  if (missing.length > 0) throw new ToolError(`These programs are missing: ${missing.join(', ')}. Type: apt-get install ${missing.map(name => tools[name]).join(' ')}`)
}

function say(text) {
  console.error(`bench: ${text}`)
}

/** On a terminal: what is under way, in its last line. */
function doing(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

function told(row) {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
  if (values.json) console.log(JSON.stringify(row))
  console.error(lineOf(row))
}

/** What has been measured. Of rows about the same the last one counts. */
class Results {
  #rows = new Map()

  constructor() {
    // The last line may be half a one.
    for (const line of existsSync(results) ? readFileSync(results, 'utf8').split('\n') : [])
      try {
        const row = JSON.parse(line)
        this.#rows.set(Results.#key(row), row)
      } catch {
        continue
      }
  }

  static #key({ image, digest, way, number, locals, mbit, roundTripMs, seconds, processors }) {
    return JSON.stringify([image, digest, way, number, locals, mbit, roundTripMs, seconds, processors])
  }

  find(about) {
    const row = this.#rows.get(Results.#key(about))
    return row && !row.error && !values.fresh && (values.resume || row.code === about.code) ? row : undefined
  }

  add(row) {
    this.#rows.set(Results.#key(row), row)
    appendFileSync(results, `${JSON.stringify(row)}\n`)
  }

  /** Of each image as it was last, each start as it was measured last. */
  get rows() {
    const rows = [...this.#rows.values()]
    const digests = new Map(rows.map(({ image, digest }) => [image, digest]))
    const last = new Map(rows.map(row => [JSON.stringify([row.image, row.way, row.number, row.mbit, row.roundTripMs]), row]))
    return [...last.values()].filter(({ image, digest }) => digest === digests.get(image))
  }
}

/** One image at all links, in all ways. */
class Bench {
  #results
  #common
  #links = new Map()

  constructor(results, common) {
    this.#results = results
    this.#common = common
  }

  async image(recipe, { links, ways, locals }) {
    const image = await builtImage(recipe, { signal: stop.signal, say })
    const served = path.join(work, 'served', image.name)
    const about = { image: image.name, heldOut: image.heldOut, digest: image.manifest.digest, ...this.#common }
    const rows = []
    const found = await this.#locals(image, about, locals)
    rows.push(...found.map(({ row }) => row))
    const profiles = { traced: Profile.merge(await Promise.all(found.map(async ({ trace }) => Profile.fromTrace(image.manifest, (await readTrace(trace)).accesses)))) }
    if (ways.includes('examined') || values.missed) profiles.examined = (await examine(image.image, image.manifest, { applications: image.application, signal: stop.signal })).profile
    if (values.missed && !image.heldOut) for (const line of await missedFiles(image, profiles.examined, found)) console.error(line)
    for (const way of ways) this.#serve(path.join(served, way), image, profiles[way])
    for (const link of links)
      for (const way of ways) {
        const row = { ...about, way, ...link, locals }
        const known = this.#results.find(row)
        if (known) told(known)
        rows.push(known ?? (await this.#streamed(image, row, found, profiles[way], link)))
      }
    return rows
  }

  /** Starts on a whole local copy: of them come the profile and the oracle. */
  async #locals(image, about, count) {
    const found = []
    const whole = path.join(work, 'whole')
    try {
      for (let number = 1; number <= count; number++) {
        const trace = path.join(work, 'traces', `${image.name}-${image.manifest.digest.slice(0, 16)}-${number}`)
        let row = existsSync(trace) ? this.#results.find({ ...about, way: 'local', number }) : undefined
        if (!row) {
          doing(`${image.name}: local start ${number}`)
          rmSync(trace, { force: true })
          row = { ...about, way: 'local', number }
          // Without a whole copy and a trace of it there is nothing to compare with.
          const started = await start(image, { source: image.pack, options: { cache: whole, profile: false, gate: 'all' }, trace }, { ...this.#common, minuteToo: true, processors: cores(), signal: stop.signal })
          Object.assign(row, localRow(image.manifest, started))
          this.#results.add(row)
        }
        told(row)
        found.push({ row, trace })
      }
      return found
    } finally {
      rmSync(whole, { recursive: true, force: true })
    }
  }

  /** A pack with this profile, or with none. */
  #serve(folder, image, profile) {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    for (const name of ['manifest', image.manifest.dataName]) symlinkSync(path.join(image.pack, name), path.join(folder, name))
    symlinkSync(image.image, path.join(folder, 'raw'))
    if (profile) writeFileSync(path.join(folder, 'profile.json'), profile.toString())
  }

  async #streamed(image, row, locals, profile, link) {
    const { way } = row
    const oracle = await oracleOf(image.manifest, locals, link)
    const local = locals.reduce((sum, { row }) => sum + row.readySeconds, 0) / locals.length
    if (way === 'full') Object.assign(row, fullRow(image.manifest, local, link))
    else {
      doing(`${image.name}, ${link.mbit} Mb/s, ${link.roundTripMs} ms, ${way}`)
      const cache = path.join(work, 'copy')
      rmSync(cache, { recursive: true, force: true })
      try {
        Object.assign(row, await this.#over(link, image, way, profile, cache))
      } catch (error) {
        stop.signal.throwIfAborted()
        row.error = error.message
        process.exitCode = 1
      } finally {
        rmSync(cache, { recursive: true, force: true })
      }
    }
    if (row.readySeconds !== undefined) {
      const lost = row.lostSeconds ?? row.readySeconds - local
      Object.assign(row, { localSeconds: local, oracleSeconds: oracle, toOracle: row.readySeconds / oracle, lostToOracle: (local + lost) / oracle })
    }
    this.#results.add(row)
    told(row)
    if (row.error) console.error(row.error)
    return row
  }

  async #over(link, image, way, profile, cache) {
    const { manifest } = image
    const { far } = await this.#link(link)
    const source = `http://${far}:${port}/${image.name}/${way}/`
    const common = { ...this.#common, processors: cores(), signal: stop.signal }
    if (way === 'download') return downloadRow(manifest, await download(source, cache, stop.signal), link)
    // Nothing comes but what is read.
    if (way === 'nbdkit') return plainRow(manifest, await start(image, { url: `${source}raw` }, { ...common, seconds: 0 }))
    const options = { cache, gate: way === 'demand' ? 'none' : 'forecast', fill: way !== 'demand' }
    // A goal speaks of the first minute at 20 Mb/s.
    const started = await start(image, { source, options, trace: path.join(work, 'trace') }, { ...common, minuteToo: link.mbit === 20 })
    return streamedRow(manifest, started, profile)
  }

  /** With a web server at its far end. */
  async #link({ mbit, roundTripMs }) {
    const name = `${mbit}/${roundTripMs}`
    const known = this.#links.get(name)
    if (known) return known
    const link = await slowLink({ mbit, roundTripMs })
    const [command, ...args] = link.command(process.execPath, fileURLToPath(new URL('stream/web_server.mjs', import.meta.url)), path.join(work, 'served'), String(port))
    // In a group of its own: what is interrupted ends its guests before its links.
    const server = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], detached: true })
    server.stdin.on('error', () => {})
    await Promise.race([once(server.stdout, 'data'), once(server, 'close').then(() => Promise.reject(new ToolError('the web server at the far end of the link ended')))])
    const made = {
      far: link.far,
      close: async () => {
        if (server.exitCode === null) {
          server.stdin.end()
          await once(server, 'close')
        }
        await link.close()
      }
    }
    this.#links.set(name, made)
    return made
  }

  async close() {
    for (const link of this.#links.values()) await link.close()
  }
}

/** With two processors the guest has one of its own, and all else shares the other. */
function cores() {
  return cpus().length >= 2 ? { guest: '1', rest: '0' } : undefined
}

async function show(rows) {
  if (values.json) for (const goal of goals(rows)) console.log(JSON.stringify(goal))
  console.error('')
  for (const { link, way, images, readySeconds, toOracle, shareOfImage, shareOfAllocated, stallsAfterReady, vainShare } of summary(rows)) {
    const text = (one, f) => (one.median === undefined ? '' : `${f(one.median)} (p90 ${f(one.p90)})`)
    const share = value => `${(100 * value).toFixed(1)} %`
    console.error(
      `${link.padEnd(18)} ${way.padEnd(9)} ${images} images  ready ${text(readySeconds, v => v.toFixed(1))} s  ${text(toOracle, v => v.toFixed(2))} of the oracle` +
        (way === 'full' ? '  computed' : `  of the image ${text(shareOfImage, share)}, of what is allocated ${text(shareOfAllocated, share)}  stalls after ${text(stallsAfterReady, String)}`) +
        (vainShare.median === undefined ? '' : `  in vain ${text(vainShare, share)}`)
    )
  }
  for (const { where, link, goal, text, most, met } of goals(rows)) console.error(`${met ? 'met    ' : 'NOT MET'} ${goal} <= ${most}: ${text}  (${where}, ${link})`)
}

async function main() {
  const wanted = chosen()
  if (values.table) return console.log(tables(new Results().rows))
  await checkTools()
  mkdirSync(path.join(work, 'traces'), { recursive: true })
  if (values.build) {
    for (const recipe of wanted.images) {
      const { name, manifest } = await builtImage(recipe, { signal: stop.signal, say })
      console.error(`${name.padEnd(12)} ${manifest.imageSize / 2 ** 20} MiB, ${(manifest.dataSize / 2 ** 20).toFixed(0)} MiB stored`)
    }
    return
  }
  const code = hashOf([...filesBelow('lib/stream', 'native/nbdkit', 'bench/stream', 'scripts/link')])
  const processors = cores()
  if (processors) await pin(process.pid, processors.rest)
  const bench = new Bench(new Results(), { seconds: wanted.seconds, processors: processors !== undefined, code })
  const rows = []
  try {
    for (const recipe of wanted.images)
      try {
        rows.push(...(await bench.image(recipe, wanted)))
      } catch (error) {
        stop.signal.throwIfAborted()
        process.exitCode = 1
        console.error(`bench: FAILED: ${recipe.name}: ${error.message}`)
      }
  } finally {
    await bench.close()
  }
  await show(rows)
}

try {
  await main()
} catch (error) {
  if (!(error instanceof ToolError)) throw error
  console.error(`bench: ${error.message}`)
  process.exitCode = 1
}
