// The thread of a SnapshotStream: an ImageStream, and what it tells.
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import type { Blocks } from './blocks.js'
import { StreamError } from './errors.js'
import { Profile } from './profile.js'
import type { StreamProgress } from './progress.js'
import { ImageStream, type StreamOptions } from './stream.js'

/** What the thread is made with. @internal */
export interface WorkerData {
  source: string
  options: Omit<StreamOptions, 'signal' | 'profile'>
  /** Its text; false for none. */
  profile: string | false | undefined
}

/** @internal */
export interface ToldError {
  message: string
  code: string
}

/** What it is told. @internal */
export type ToWorker = 'blocks' | 'close'

/** What the thread says. @internal */
export type FromWorker =
  | { type: 'opened'; source: string; manifest: Uint8Array; profile: string | undefined; progress: StreamProgress }
  | { type: 'blocks'; blocks: Blocks }
  | { type: 'failed'; error: ToldError }
  | { type: 'progress'; progress: StreamProgress }
  | { type: 'ready' | 'complete'; error: ToldError | undefined }

const told = (error: unknown): ToldError => ({
  message: (error as Error).message,
  code: error instanceof StreamError ? error.code : 'EINVAL'
})

async function main(port: MessagePort, { source, options, profile }: WorkerData): Promise<void> {
  const say = (what: FromWorker): void => port.postMessage(what)
  let stream: ImageStream
  try {
    const parsed = typeof profile === 'string' ? Profile.parse(profile) : profile
    stream = await ImageStream.open(source, { ...options, ...(parsed !== undefined && { profile: parsed }) })
  } catch (error) {
    say({ type: 'failed', error: told(error) })
    return
  }
  const ended = new Promise<void>(resolve =>
    port.on('message', (asked: ToWorker) => (asked === 'close' ? resolve() : say({ type: 'blocks', blocks: stream.blocks() })))
  )
  say({ type: 'opened', source: stream.source, manifest: stream.manifest.bytes, profile: stream.profile && String(stream.profile), progress: stream.progress() })
  for (const type of ['ready', 'complete'] as const)
    stream[type].then(
      () => say({ type, error: undefined }),
      (error: unknown) => say({ type, error: told(error) })
    )
  void (async () => {
    for await (const progress of stream) say({ type: 'progress', progress })
  })()
  await ended
  await stream.close()
  port.close()
}

if (parentPort) void main(parentPort, workerData as WorkerData)
