// `hypertwin stream`: packs images, streams them, and learns what a start needs first.
import { once } from 'node:events'
import path from 'node:path'
import {
  examine as examineImage,
  ImageStream,
  Manifest,
  NbdServer,
  pack as packImage,
  Profile,
  QemuGuest,
  readTrace,
  StreamError,
  type FetchClass,
  type NbdOptions,
  type QemuOptions,
  type StreamOptions,
  type StreamProgress,
  type Trace
} from '../stream/index.js'
import { Cache } from '../stream/cache.js'
import { MANIFEST_FILE, MAX_MANIFEST_BYTES } from '../stream/manifest.js'
import { checkOverlay, checkQemu } from '../stream/qemu.js'
import { openSource } from '../stream/source.js'
import { writeWhole } from '../stream/whole_file.js'
import { bytes, count, Exit, interruption, nameOf, sleep, Ui, usage } from './common.js'
import { streamOptions, Turn, type StreamedOptions } from './streamed.js'

export interface PackOptions {
  format?: 'raw' | 'qcow2'
  chunkSize: string | number
  quality: number
  profile?: string
  json?: boolean
}

export async function pack(image: string, folder: string, options: PackOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const profile = options.profile === undefined ? undefined : await Profile.load(options.profile)
  let bar: ReturnType<Ui['bar']> | undefined
  try {
    const { manifest, zeroChunks, sharedChunks } = await packImage(image, folder, {
      chunkSize: options.chunkSize,
      quality: options.quality,
      ...(options.format && { format: options.format }),
      ...(profile && { profile }),
      signal,
      onProgress: ({ done, total }) => {
        bar ??= ui.bar('packed', Math.ceil(total / 2 ** 20))
        bar.update(Math.ceil(done / 2 ** 20))
      }
    })
    bar?.stop()
    const allocated = (manifest.chunks - zeroChunks) * manifest.chunkSize
    ui.say(
      `${bytes(manifest.imageSize)} of image, ${bytes(allocated)} of it not zero: ${bytes(manifest.dataSize)} in ` +
        `${count(manifest.blobs)} chunks, and ${bytes(manifest.bytes.length)} of manifest`
    )
    ui.say(`Serve ${folder} by any web server that knows byte ranges. The manifest's digest, for those who shall trust it:`)
    ui.say(manifest.digest)
    ui.result({
      folder,
      digest: manifest.digest,
      imageDigest: manifest.imageDigest,
      imageSize: manifest.imageSize,
      chunkSize: manifest.chunkSize,
      chunks: manifest.chunks,
      zeroChunks,
      sharedChunks,
      storedChunks: manifest.blobs,
      storedBytes: manifest.dataSize,
      manifestBytes: manifest.bytes.length
    })
    return Exit.ok
  } catch (error) {
    bar?.stop()
    if (signal.aborted) return Exit.interrupted
    throw error
  }
}

export interface SourceCliOptions extends StreamedOptions {
  cache: string
  manifest?: string
  trace?: string
  json?: boolean
}

export interface ServeOptions extends SourceCliOptions {
  socket?: string
  listen?: string
  writable?: boolean
}

async function turnOf(source: string, options: SourceCliOptions, ui: Ui, signal: AbortSignal): Promise<Turn<ImageStream>> {
  const { cache, manifest } = options
  const how: StreamOptions = { ...(await streamOptions(options)), cache, ...(manifest !== undefined && { manifest }) }
  return new Turn(cache, opening => ImageStream.open(source, { ...how, signal: opening }), options, text => ui.say(text), signal)
}

/** A line of what is going on. */
function line(progress: StreamProgress): string {
  const { state, presentBytes, allocatedBytes, profile, startInMs, waiting, bytesPerSecond, roundTripMs, trouble } = progress
  const share = (part: number, whole: number): string => `${whole === 0 ? 100 : Math.floor((100 * part) / whole)} %`
  return [
    `${share(presentBytes, allocatedBytes)} of ${bytes(allocatedBytes)} here`,
    ...(profile.bytes > 0 ? [`${share(profile.bytes - profile.missingBytes, profile.bytes)} of the profile`] : []),
    ...(state === 'gate' && startInMs !== undefined ? [`start in ${(startInMs / 1000).toFixed(1)} s`] : []),
    ...(waiting > 0 ? [`${count(waiting)} waited for`] : []),
    ...(bytesPerSecond !== undefined && state !== 'complete' ? [`${bytes(bytesPerSecond)}/s`] : []),
    ...(roundTripMs !== undefined && state !== 'complete' ? [`${roundTripMs.toFixed(1)} ms`] : []),
    ...(trouble ? [trouble.message] : [])
  ].join(', ')
}

/** Tells how far a stream is: on a terminal all the time, elsewhere each second. */
function teller(ui: Ui): (progress: StreamProgress) => void {
  let said = -Infinity
  return progress => {
    const { elapsedMs } = progress
    if (ui.tty || elapsedMs >= said + 1000) ui.live(line(progress))
    if (elapsedMs >= said + 1000) said = elapsedMs
  }
}

/** Tells how far the stream is until it is whole. */
async function follow(stream: ImageStream, ui: Ui, quiet: () => boolean): Promise<void> {
  const told = teller(ui)
  for await (const progress of stream) {
    const { state } = progress
    if (quiet()) continue
    told(progress)
    if (state === 'complete' || state === 'failed' || state === 'closed') break
  }
}

/** Serves the image over NBD until it is interrupted. */
export async function serve(source: string, options: ServeOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  if (options.socket !== undefined && options.listen !== undefined) throw usage('Give --socket or --listen, not both')
  const turn = await turnOf(source, options, ui, signal)
  const failure = new AbortController()
  let failed: unknown
  try {
    const ours = await turn.take()
    await using server = await NbdServer.start(options.cache, {
      waitSeconds: options.wait ?? 0,
      ...(options.socket !== undefined && { socket: options.socket }),
      ...(options.listen !== undefined && { listen: options.listen }),
      ...(options.trace !== undefined && { trace: options.trace }),
      ...(options.writable && { writable: true })
    })
    if (!ours) await turn.others()
    ui.say(`The image is at ${server.uri}`)
    if (server.takenOver)
      ui.say('The server that was left at this socket goes on as it was started: --writable, --trace and --wait of this command have no effect on it.')
    ui.result({ event: 'serving', uri: server.uri, pid: server.pid, takenOver: server.takenOver, streams: ours, page: turn.page ?? null })
    if (!ours) {
      ui.say('Another process streams into this cache; this one takes over when that ends.')
      turn.begin(
        error => {
          failed = error
          failure.abort()
        },
        stream => {
          ui.say('This process streams now.')
          ui.result({ event: 'streaming', page: turn.page ?? null })
          void tell(stream, ui)
        }
      )
    } else if (turn.stream) void tell(turn.stream, ui)
    const ended = server.ended.then(() => {
      if (signal.aborted) return
      failed = new StreamError('nbdkit has ended', { code: 'TOOL_FAILED' })
      failure.abort()
    })
    const stop = AbortSignal.any([signal, failure.signal])
    if (!stop.aborted) await once(stop, 'abort')
    void ended
    if (failed !== undefined) throw failed
    return Exit.interrupted
  } finally {
    await turn.end()
  }
}

async function tell(stream: ImageStream, ui: Ui): Promise<void> {
  void stream.ready.then(
    () => {
      ui.say('The start may be made.')
      ui.result({ event: 'ready', elapsedMs: stream.progress().elapsedMs })
    },
    () => undefined
  )
  await follow(stream, ui, () => false)
  const { state, trouble, elapsedMs } = stream.progress()
  if (state === 'complete') ui.say(`The copy is whole: ${path.join(stream.cache, 'image')}`)
  if (state === 'complete' || state === 'failed') ui.result({ event: state, elapsedMs, ...(trouble && { trouble }) })
}

export interface RunOptions extends SourceCliOptions {
  memory: string | number
  cpus: number
  accel?: 'kvm' | 'tcg'
  kernel?: string
  initrd?: string
  append?: string
  overlay?: string
}

/** Until nbdkit that has ended is missed: at a guest's normal end it ends just before. */
const MISSED_MS = 1_000
/** So often within this time another one is started. */
const MAX_STARTS = 5
const STARTS_MS = 60_000

/** An NBD server for a guest. Where nbdkit ends before the guest, another one is started at the same socket, where QEMU finds it. */
class Served implements AsyncDisposable {
  readonly #over = new AbortController()
  readonly #servers: NbdServer[]
  #keeping: Promise<void> | undefined

  private constructor(
    readonly first: NbdServer,
    private readonly cache: string,
    private readonly options: NbdOptions
  ) {
    this.#servers = [first]
  }

  static async start(cache: string, options: NbdOptions): Promise<Served> {
    return new Served(await NbdServer.start(cache, options), cache, options)
  }

  /** In the background, until it is closed. */
  keep(say: (text: string) => void, failed: (error: unknown) => void): void {
    this.#keeping = this.#keep(say).catch(failed)
  }

  async #keep(say: (text: string) => void): Promise<void> {
    const { trace, ...options } = this.options
    const { signal } = this.#over
    const over = once(signal, 'abort')
    let begun: number[] = []
    while (!signal.aborted) {
      await Promise.race([(this.#servers.at(-1) as NbdServer).ended, over])
      if (!(await sleep(MISSED_MS, signal))) return
      begun = begun.filter(at => at > performance.now() - STARTS_MS)
      if (begun.length === MAX_STARTS) throw new StreamError(`nbdkit ends again and again: the guest cannot go on`, { code: 'TOOL_FAILED' })
      begun.push(performance.now())
      try {
        // Its trace would take the place of the first one's.
        this.#servers.push(await NbdServer.start(this.cache, { ...options, socket: this.first.socket as string }))
        say(`nbdkit has ended, and another one takes its place${trace === undefined ? '' : '. What is read from now on is not in the trace'}`)
      } catch (error) {
        say(`nbdkit has ended, and no other one serves: ${(error as Error).message}`)
      }
    }
  }

  /** Twice is fine. */
  async close(): Promise<void> {
    this.#over.abort()
    await this.#keeping
    // The last one has the socket, and the first one the folder that it is in.
    for (const server of [...this.#servers].reverse()) await server.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Runs QEMU on the image, with its serial port on this terminal. */
export async function run(source: string, qemuArgs: string[], options: RunOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const how: QemuOptions = {
    memory: options.memory,
    cpus: options.cpus,
    ...(options.accel && { accelerator: options.accel }),
    ...(options.kernel !== undefined && { kernel: options.kernel }),
    ...(options.initrd !== undefined && { initrd: options.initrd }),
    ...(options.append !== undefined && { append: options.append }),
    ...(options.overlay !== undefined && { overlay: options.overlay }),
    args: qemuArgs,
    // Without this process its console would be nobody's, and a second one would meet it at its overlay.
    exitWithParent: true,
    // With --json standard output is for the result.
    stdio: ['inherit', options.json ? 2 : 'inherit', 'inherit']
  }
  // Not after all has come.
  checkQemu(how)
  const turn = await turnOf(source, options, ui, signal)
  let guest: QemuGuest | undefined
  const stop = (): void => void guest?.close()
  signal.addEventListener('abort', stop)
  try {
    let failed: unknown
    const ours = await turn.take()
    await using served = await Served.start(options.cache, {
      exitWithLastClient: true,
      waitSeconds: options.wait ?? 0,
      ...(options.trace !== undefined && { trace: options.trace })
    })
    const fail = (error: unknown): void => {
      failed = error
      stop()
    }
    served.keep(text => ui.say(text), fail)
    const manifest = turn.stream?.manifest ?? (await turn.others())
    if (options.overlay !== undefined) await checkOverlay(path.resolve(options.overlay), manifest)
    let started = false
    const show = (stream: ImageStream): void => void follow(stream, ui, () => started).catch(() => undefined)
    if (ours && turn.stream) show(turn.stream)
    else {
      ui.say(
        `Another process streams into this cache: this one takes over when that ends${
          options.gate === 'none' ? '' : options.gate === 'all' ? ', and starts when the copy is whole' : ", and starts when that one's gate has opened"
        }.`
      )
      turn.begin(fail, show)
    }
    const interrupted = signal.aborted ? Promise.resolve() : once(signal, 'abort')
    await Promise.race([turn.mayStart(teller(ui)), interrupted])
    started = true
    signal.throwIfAborted()
    const before = turn.stream?.progress()
    if (before) ui.say(`Starting after ${(before.elapsedMs / 1000).toFixed(1)} s: ${line(before)}`)
    guest = await QemuGuest.start(served.first, manifest, how)
    // What came while it was being started.
    if (signal.aborted || failed !== undefined) stop()
    const status = await guest.ended
    // Then all of its reads are counted.
    await served.close()
    const after = turn.stream?.progress()
    if (after) ui.say(summary(after))
    ui.result({ status: status ?? null, startedAfterMs: before?.elapsedMs ?? null, progress: after ?? null })
    if (failed !== undefined) throw failed
    if (signal.aborted) return Exit.interrupted
    return status === 0 ? Exit.ok : Exit.failed
  } catch (error) {
    if (signal.aborted) return Exit.interrupted
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
    await guest?.close()
    await turn.end()
  }
}

const why: Readonly<Record<FetchClass, string>> = {
  demand: 'waited for by a read',
  gate: 'before the start',
  profile: 'of the profile, after it',
  ahead: 'behind a read',
  fill: 'of the rest'
}

function summary(progress: StreamProgress): string {
  const { fetched, reads, demands, requests, corrupt } = progress
  const rows = Object.entries(fetched).filter(([, size]) => size > 0)
  return [
    line(progress),
    ...rows.map(([name, size]) => `  ${bytes(size).padStart(10)}  ${why[name as FetchClass]}`),
    ...(reads.count > 0
      ? [
          `  ${count(reads.count)} reads: ${((100 * reads.hits) / reads.count).toFixed(1)} % waited for nothing, ${count(reads.stalls)} for more than 100 ms` +
            (reads.failed > 0 ? `, ${count(reads.failed)} failed` : '')
        ]
      : []),
    `  ${count(demands.count)} chunks were waited for, ${(demands.ms / 1000).toFixed(1)} s altogether, ${demands.longestMs.toFixed(0)} ms at most`,
    `  ${count(requests.count)} requests${requests.failed > 0 ? `, ${count(requests.failed)} failed` : ''}${corrupt > 0 ? `, ${count(corrupt)} chunks came damaged` : ''}`
  ].join('\n')
}

const cells = ' ░▒▓█'

/** The image from its start to its end, 64 columns: what is here, of what is not all zeros. */
function picture(manifest: Manifest, map: Uint8Array): string {
  const columns = 64
  const total = Math.min(16 * columns, manifest.chunks)
  const rows: string[] = []
  for (let cell = 0; cell < total; cell++) {
    const from = Math.floor((cell * manifest.chunks) / total)
    const to = Math.floor(((cell + 1) * manifest.chunks) / total)
    let here = 0
    let all = 0
    for (let chunk = from; chunk < to; chunk++) {
      if (map[chunk] === 2) continue
      all++
      if (map[chunk] === 1) here++
    }
    const row = Math.floor(cell / columns)
    const shade = all === 0 ? '·' : cells.charAt(here === 0 ? 0 : here === all ? 4 : 1 + Math.floor((3 * here) / all))
    rows[row] = (rows[row] ?? '') + shade
  }
  return rows.map(row => `  ${row}`).join('\n')
}

/** What the process that streams into a cache says, or what is in the cache when none does. */
export async function status(cache: string, options: { map?: boolean; json?: boolean }): Promise<number> {
  const ui = new Ui(options.json === true)
  const manifest = await Cache.manifestIn(cache)
  if (!manifest) throw usage(`${cache} is no cache of an image: give the folder that \`hypertwin stream serve\` or \`run\` was given`)
  const map = await Cache.mapIn(cache, manifest)
  let progress: StreamProgress | undefined
  let nobody = 'Nobody streams into it'
  try {
    progress = await ImageStream.status(cache)
  } catch (error) {
    if (!(error instanceof StreamError) || error.code !== 'NOT_RUNNING') throw error
    if (error.cause !== undefined) nobody = error.message
  }
  const here = map.filter(byte => byte === 1).length
  const all = map.filter(byte => byte !== 2).length
  if (progress) ui.say(`${progress.state}: ${summary(progress)}`)
  else ui.say(`${nobody}: ${count(here)} of ${count(all)} chunks are here`)
  if (options.map) ui.say(picture(manifest, map))
  ui.result({ digest: manifest.digest, imageSize: manifest.imageSize, chunks: all, chunksHere: here, progress: progress ?? null })
  return Exit.ok
}

/** The manifest of a local copy, or of a pack. */
async function manifestAt(where: string): Promise<Manifest> {
  return (await Cache.manifestIn(where)) ?? new Manifest(await openSource(where).file(MANIFEST_FILE, MAX_MANIFEST_BYTES), `What ${where} has as its ${MANIFEST_FILE}`)
}

const storedBytes = (profile: Profile, manifest: Manifest): number =>
  profile.entries.reduce((sum, { chunk }) => sum + manifest.lengthOf(manifest.blobOf[chunk] as number), 0)

export interface ExamineCliOptions {
  pack: string
  app?: string[]
  out?: string
  files?: boolean
  json?: boolean
}

/** Makes a profile by looking into an image. */
export async function examine(image: string, options: ExamineCliOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const manifest = await manifestAt(options.pack)
  const { profile, files, system, init, services, missed } = await examineImage(image, manifest, {
    applications: options.app ?? [],
    signal
  })
  const stored = storedBytes(profile, manifest)
  if (options.files) for (const file of files) ui.say(`${file.why.padEnd(12)}${bytes(file.bytes).padStart(10)}  ${nameOf(file.path)}`)
  ui.say(`${nameOf(system ?? 'A system')}, started by ${nameOf(init ?? 'nothing that could be found')}; ${count(services.length)} services`)
  for (const name of missed) ui.say(`Nothing is known of ${nameOf(name)}`)
  ui.say(
    `${count(files.length)} files are wanted: ${count(profile.entries.length)} chunks, ${bytes(stored)} of ${bytes(manifest.dataSize)} as they are stored`
  )
  if (options.out !== undefined) await writeWhole(options.out, profile.toString())
  ui.result({
    system: system ?? null,
    init: init ?? null,
    services,
    missed,
    files: options.files ? files : files.length,
    chunks: profile.entries.length,
    storedBytes: stored,
    out: options.out ?? null
  })
  return Exit.ok
}

export interface TraceOptions {
  image: string
  out?: string
  seconds?: number
  json?: boolean
}

/** Makes a profile of traces. */
export async function trace(files: string[], options: TraceOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const manifest = await manifestAt(options.image)
  const traces: { file: string; trace: Trace }[] = []
  for (const file of files) {
    const one = await readTrace(file)
    if (one.manifest !== manifest.digest) throw usage(`${file} is the trace of another image than ${options.image}`)
    traces.push({ file, trace: one })
  }
  const limit = options.seconds === undefined ? Infinity : options.seconds * 1000
  const profile = Profile.merge(
    traces.map(({ trace: { accesses } }) => Profile.fromTrace(manifest, accesses.filter(({ atMs }) => atMs <= limit)))
  )
  for (const { file, trace: one } of traces)
    ui.say(
      `${file}: ${count(one.reads)} reads of ${bytes(one.bytes)}, ${count(one.accesses.length)} chunks; ${count(one.waited.reads)} waited, ` +
        `${(one.waited.ms / 1000).toFixed(1)} s altogether, ${count(one.stalls)} for more than 100 ms`
    )
  const stored = storedBytes(profile, manifest)
  ui.say(`The profile has ${count(profile.entries.length)} chunks, ${bytes(stored)} as they are stored`)
  if (options.out !== undefined) await writeWhole(options.out, profile.toString())
  ui.result({
    traces: traces.map(({ file, trace: { accesses, ...rest } }) => ({ file, ...rest, chunks: accesses.length })),
    chunks: profile.entries.length,
    storedBytes: stored,
    out: options.out ?? null
  })
  return Exit.ok
}

