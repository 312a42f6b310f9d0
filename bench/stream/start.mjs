// One start of an image, from the moment somebody wants it until some time after its first right answer, and what came and
// what waited meanwhile.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { ImageStream, NbdServer, QemuGuest, readTrace } from 'hypertwin/stream'
import { plainDisk } from './plain.mjs'
import { ToolError } from '../../scripts/shared/error.mjs'

/** Between two requests, once the guest has a network; until then, and how long one that nobody takes may last. */
const AGAIN_MS = 100
const DARK_MS = 250
const DARK_LIMIT_MS = 2_000
const ANSWER_MS = 15_000
/** Between two requests of one whose first was answered: a guest that rests reads nothing. */
const USED_MS = 1_000
/** A guest that has not answered by then never will. */
const READY_MS = 900_000
const MINUTE_MS = 60_000

/** A port that is free now. */
async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/** Keeps a process and its threads to these processors, as taskset(1) names them. */
export async function pin(pid, processors) {
  const child = spawn('taskset', ['--all-tasks', '--pid', '--cpu-list', processors, String(pid)], { stdio: 'ignore' })
  await once(child, 'close')
}

/**
 * Asks until the right answer comes. While the guest is without a network QEMU takes connections that nobody answers: then
 * several are under way; after the first sign of the guest one request follows the other.
 */
async function answered(request, port, signal) {
  const done = new AbortController()
  const either = AbortSignal.any([signal, done.signal])
  let bright = false
  const asked = async ms => {
    const limit = AbortSignal.any([either, AbortSignal.timeout(ms)])
    try {
      return await request.ask(port, limit)
    } catch (error) {
      // QEMU takes connections before the guest can, and refuses them only before that.
      if (!limit.aborted && error.code !== 'ECONNREFUSED') bright = true
      return false
    }
  }
  const dark = (async () => {
    const under = new Set()
    let found = false
    while (!found && !bright && !either.aborted) {
      const one = asked(DARK_LIMIT_MS).then(right => {
        under.delete(one)
        found ||= right
      })
      under.add(one)
      await Promise.race([sleep(DARK_MS), one.then(() => (found ? undefined : sleep(DARK_MS)))])
    }
    return found
  })()
  try {
    if (await dark) return
    for (;;) {
      signal.throwIfAborted()
      if (await asked(ANSWER_MS)) return
      await sleep(AGAIN_MS)
    }
  } finally {
    done.abort()
  }
}

/** Asks again and again, until it is told to end. Resolves with how often there was a right answer. */
async function used(request, port, signal) {
  let answers = 0
  try {
    for (;;) {
      await sleep(USED_MS, undefined, { signal })
      if (await request.ask(port, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)])).catch(() => false)) answers++
    }
  } catch {
    return answers
  }
}

/** A streamed image as the guest's disk. `counters()`: what a trace's head counts, while it grows. */
async function streamedDisk({ source, options, trace }, { processors, signal, closing }) {
  const begin = performance.now()
  const stream = await ImageStream.open(source, { ...options, signal })
  closing.push(() => stream.close())
  const nbdMs = performance.now() - begin
  const server = await NbdServer.start(stream.cache, { trace, exitWithLastClient: true })
  closing.push(() => server.close())
  if (processors) await pin(server.pid, processors.rest)
  await Promise.race([stream.ready, aborted(signal)])
  return {
    server,
    progress: () => stream.progress(),
    counters: async () => {
      const { stalls, waited } = await readTrace(trace)
      return { stalls, waited }
    },
    seen: async () => ({ seen: await readTrace(trace), here: Uint8Array.from(stream.map()), firstReadMs: nbdMs + firstRead(trace) })
  }
}

/**
 * @param image - as builtImage() gives it
 * @param where.source - of ImageStream.open(); `where.options`: its options; or `where.url`, of a raw image that nbdkit alone serves
 * @param where.trace - the file for what is read
 * @param seconds - how long it is watched, and asked again, after the first right answer
 * @param minuteToo - and at least until a minute after the guest's start
 * @param processors - `{ guest, rest }`: where these may run; undefined: anywhere
 * @returns times in milliseconds since the stream was opened, what the stream told at the first right answer and at the end,
 *   stalls, the trace, and which chunks were there at the end
 */
export async function start(image, where, { seconds, minuteToo, processors, signal }) {
  const begin = performance.now()
  const since = () => performance.now() - begin
  const closing = []
  let said = ''
  try {
    const disk = await (where.url ? plainDisk : streamedDisk)(where, { processors, signal, closing })
    const gateMs = since()
    const port = image.port === undefined ? undefined : await freePort()
    const forward = port === undefined ? '' : `,hostfwd=tcp:127.0.0.1:${port}-:${image.port}`
    const guest = await QemuGuest.start(disk.server, image.manifest, {
      accelerator: 'tcg',
      memory: image.memory,
      kernel: image.kernel,
      initrd: image.initrd,
      append: image.append,
      args: ['-nic', `user,model=virtio-net-pci${forward}`],
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const guestMs = since()
    closing.push(() => guest.close())
    if (processors) await pin(guest.process.pid, processors.guest)
    guest.process.stdout.setEncoding('latin1').on('data', text => (said += text))
    const gone = guest.ended.then(status => {
      throw new ToolError(`QEMU ended with ${status}`)
    })
    // Nobody is asked any more.
    const over = new AbortController()
    gone.catch(error => over.abort(error))
    const patience = AbortSignal.timeout(READY_MS)
    const limit = AbortSignal.any([signal, patience, over.signal])
    const minute = sleep(MINUTE_MS, undefined, { ref: false }).then(() => disk.counters())
    minute.catch(() => {})
    const { request } = image
    const right = request.said
      ? (async () => {
          while (!request.said(said)) await once(guest.process.stdout, 'data', { signal: limit })
        })()
      : answered(request, port, limit)
    try {
      await Promise.race([right, gone])
    } catch (error) {
      signal.throwIfAborted()
      if (patience.aborted) throw new ToolError(`there was no right answer to ${request.what} in ${READY_MS / 1000} s`)
      throw error
    }
    const readyMs = since()
    const atReady = disk.progress()
    const seenAtReady = await disk.counters()
    const using = request.said ? undefined : used(request, port, AbortSignal.any([signal, over.signal]))
    await Promise.race([sleep(Math.max(1000 * seconds, minuteToo ? guestMs + MINUTE_MS + 100 - since() : 0), undefined, { signal }), gone])
    over.abort()
    const answers = await using
    const seenInMinute = since() - guestMs >= MINUTE_MS ? await minute : undefined
    const atEnd = disk.progress()
    const seen = await disk.seen()
    if (/I\/O error|Kernel panic|EXT4-fs error/.test(said)) throw new ToolError('the guest saw errors on its disk')
    return { gateMs, guestMs, readyMs, atReady, atEnd, seenAtReady, seenInMinute, answers, watched: seconds > 0, ...seen }
  } catch (error) {
    if (said && !signal.aborted) error.message += `; its console ends:\n${said.slice(-1500)}`
    throw error
  } finally {
    for (const close of closing.reverse()) await close()
  }
}

/** A whole download into this folder, and no guest. */
export async function download(source, cache, signal) {
  const begin = performance.now()
  const stream = await ImageStream.open(source, { cache, profile: false, gate: 'all', signal })
  try {
    await Promise.race([stream.ready, aborted(signal)])
    return { ms: performance.now() - begin, progress: stream.progress() }
  } finally {
    await stream.close()
  }
}

/** When the first read came, in milliseconds after nbdkit's start: readTrace() counts from it on. */
function firstRead(trace) {
  const bytes = readFileSync(trace)
  let first = Infinity
  for (let at = 4096; at + 16 <= bytes.length; at += 16) first = Math.min(first, Number(bytes.readBigUInt64LE(at)) / 1000)
  return first
}

function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
