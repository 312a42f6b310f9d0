// A status server of another process, looked at again and again.
import { haStates } from './figures.js'
import { invalid } from './errors.js'
import { blankStatus, type HaStatus } from './status.js'

const EVERY_MS = 250
const TIMEOUT_MS = 2000
const MOST_BYTES = 4 << 20

/** @internal */
export class Watched {
  readonly #url: URL
  readonly #stop = new AbortController()
  #statuses: HaStatus[] = []
  #trouble: string | undefined = 'not heard of yet'

  constructor(url: string) {
    this.#url = Watched.check(url)
    void this.#run()
  }

  /** @throws HaError `EINVAL` */
  static check(url: unknown): URL {
    const text = typeof url === 'string' && !url.includes('://') ? `http://${url}` : url
    const parsed = typeof text === 'string' && URL.canParse(text) ? new URL(text) : undefined
    if (!parsed || !/^https?:$/.test(parsed.protocol) || parsed.hostname === '')
      throw invalid(`what is watched must be an address such as 'http://10.0.0.2:7201', not ${JSON.stringify(url) ?? 'nothing'}`)
    return new URL('/state.json', parsed)
  }

  /** As last heard; who does not answer is shown as such. */
  statuses(): HaStatus[] {
    if (this.#trouble === undefined) return this.#statuses
    if (this.#statuses.length === 0) return [silent(this.#url.host, this.#trouble)]
    return this.#statuses.map(status => ({
      ...status,
      state: 'ended',
      code: 'UNREACHABLE',
      message: `its status server does not answer: ${this.#trouble}`,
      machine: null
    }))
  }

  close(): void {
    this.#stop.abort()
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      try {
        this.#statuses = await look(this.#url, signal)
        this.#trouble = undefined
      } catch (error) {
        const { cause, message } = error as Error & { cause?: { code?: string } }
        this.#trouble = cause?.code ?? message
      }
      await new Promise<void>(resolve => {
        const timer = setTimeout(done, EVERY_MS)
        function done(): void {
          clearTimeout(timer)
          signal.removeEventListener('abort', done)
          resolve()
        }
        if (signal.aborted) done()
        else signal.addEventListener('abort', done)
      })
    }
  }
}

/**
 * The statuses that a status server gives.
 *
 * @internal
 */
export async function look(url: URL, signal?: AbortSignal, timeoutMs = TIMEOUT_MS): Promise<HaStatus[]> {
  const timeout = AbortSignal.timeout(timeoutMs)
  const response = await fetch(url, { redirect: 'error', signal: signal ? AbortSignal.any([signal, timeout]) : timeout })
  if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`)
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    size += chunk.length
    if (size > MOST_BYTES) throw new Error('the answer is too long')
    chunks.push(chunk)
  }
  const { version, sources } = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { version?: unknown; sources?: unknown }
  if (version !== 1 || !Array.isArray(sources)) throw new Error('the answer is no state of hypertwin')
  return sources.map(checked)
}

/** Another process' word: only what has the form that it must have. */
function checked(value: unknown): HaStatus {
  const given = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const model = silent('', '')
  const bad = (): never => {
    throw new Error('the answer is no state of hypertwin')
  }
  const text = (key: keyof HaStatus): string => (typeof given[key] === 'string' ? given[key] : bad())
  const nullable = <T>(key: keyof HaStatus): T => {
    const found = given[key]
    return (found === null ? null : typeof found === 'object' ? found : bad()) as T
  }
  const numbers = (key: keyof HaStatus): Record<string, number> => {
    const found = nullable<Record<string, unknown> | null>(key) ?? bad()
    return Object.values(found).every(one => typeof one === 'number') ? (found as Record<string, number>) : bad()
  }
  if (!haStates.includes(given['state'] as HaStatus['state'])) bad()
  const events = Array.isArray(given['events']) ? (given['events'] as Partial<HaStatus['events'][number]>[]) : []
  return {
    ...model,
    name: text('name'),
    role: given['role'] === 'backup' ? 'backup' : 'primary',
    state: given['state'] as HaStatus['state'],
    code: text('code'),
    message: text('message'),
    since: text('since'),
    at: text('at'),
    session: text('session'),
    peer: text('peer'),
    listen: text('listen'),
    machine: nullable('machine'),
    stats: { ...model.stats, ...numbers('stats') },
    sync: nullable('sync'),
    failovers: typeof given['failovers'] === 'number' ? given['failovers'] : bad(),
    failover: nullable('failover'),
    figures: numbers('figures'),
    events: events
      .filter(one => typeof one?.at === 'string' && typeof one.text === 'string')
      .map(one => ({ at: one.at as string, text: one.text as string, state: typeof one.state === 'string' ? one.state : null }))
  }
}

function silent(name: string, message: string): HaStatus {
  return blankStatus({
    name,
    role: 'backup',
    state: 'ended',
    code: 'UNREACHABLE',
    message: `its status server does not answer: ${message}`
  })
}
