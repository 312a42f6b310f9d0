// The live page of the demo: what the host processes tell of themselves, and what the users see, served by
// hypertwin/ha's own page from this process, which a browser can reach.
import { servePage, type HaServer, type HaSource, type HaStatus } from '../../ha/index.js'
import { blankStatus } from '../../ha/status.js'

/** A page of all hosts. */
export class Page implements AsyncDisposable {
  readonly #server: HaServer
  readonly #statuses: Map<number, HaStatus>

  private constructor(server: HaServer, statuses: Map<number, HaStatus>) {
    this.#server = server
    this.#statuses = statuses
  }

  /** @param listen - `'host:port'` */
  static async open(hosts: number, listen: string): Promise<Page> {
    const statuses = new Map<number, HaStatus>()
    const sources = Array.from({ length: hosts }, (_, i): HaSource => {
      const name = `host ${i + 1}`
      return { status: () => statuses.get(i + 1) ?? silent(name), async *events() {} }
    })
    return new Page(await servePage({ listen, sources }), statuses)
  }

  get url(): string {
    return this.#server.url
  }

  /** What a host said last, and what the users have of it. */
  update(host: number, status: HaStatus, figures: Record<string, number> = {}): void {
    this.#statuses.set(host, { ...status, figures })
  }

  /** A host is no more. */
  gone(host: number, message: string): void {
    const at = new Date().toISOString()
    const last = this.#statuses.get(host) ?? silent(`host ${host}`)
    const events = [...last.events, { at, text: message, state: 'ended' }]
    this.#statuses.set(host, { ...last, state: 'ended', code: 'KILLED', message, since: at, at, machine: null, figures: {}, events })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.close()
  }
}

/** Of a host that has said nothing yet. */
function silent(name: string): HaStatus {
  return blankStatus({ name, role: 'primary', state: 'connecting', code: '', message: 'its process starts' })
}
