// An arbiter in etcd: one transaction that puts a key where there is none. Its client is loaded with the first claim.
import { hostname } from 'node:os'
import process from 'node:process'
import type { Etcd3 } from 'etcd3'
import type { Arbiter, Claim } from './arbiter.js'
import { ArbiterError, checkClaim, invalid, milliseconds, winnerIn, within } from './errors.js'

/**
 * Where etcd is, and how to speak to it.
 *
 * @since 0.1.0
 */
export interface EtcdArbiterOptions {
  /** The members, `'http://10.0.0.1:2379'` or `'https://…'`: all of one kind. */
  hosts: string | string[]
  /** For https: PEM texts. `ca` checks the members' certificates; `cert` and `key` are this side's own. */
  tls?: { ca: string | Uint8Array; cert?: string | Uint8Array; key?: string | Uint8Array }
  /** A user who may read and write keys with the prefix. */
  auth?: { username: string; password: string }
  /** What the keys begin with. Default `'hypertwin/claims/'`. */
  prefix?: string
  /** After so many milliseconds without an answer a claim is `'unreachable'`. Default 3000. */
  timeoutMs?: number
}

/**
 * An arbiter in an etcd 3 cluster. A claim is a key of about 200 bytes, put by a transaction that succeeds only while
 * the key was never created; etcd acknowledges it when a majority of its members has it on disk. The key stays: remove
 * it only when both sides are known to have ended.
 *
 * @example
 * ```ts
 * const arbiter = new EtcdArbiter({ hosts: ['http://10.0.0.1:2379', 'http://10.0.0.2:2379'] })
 * ```
 *
 * @since 0.1.0
 */
export class EtcdArbiter implements Arbiter {
  /** Why the last answer was `'unreachable'`; undefined when it was not. */
  lastError: Error | undefined
  readonly #options: EtcdArbiterOptions
  readonly #prefix: string
  readonly #timeoutMs: number
  #client: Promise<Etcd3> | undefined
  #closed = false

  /** @throws ArbiterError `EINVAL` */
  constructor(options: EtcdArbiterOptions) {
    const hosts = [options?.hosts].flat()
    if (hosts.length === 0 || hosts.some(host => typeof host !== 'string' || !/^https?:\/\/[^/\s]+$/.test(host)))
      throw invalid("hosts must be addresses such as 'http://10.0.0.1:2379'")
    if (new Set(hosts.map(host => host.startsWith('https:'))).size > 1)
      throw invalid('hosts must be all http or all https')
    if (options.tls && !hosts[0]?.startsWith('https:')) throw invalid('with tls, hosts must be https')
    this.#options = options
    this.#prefix = options.prefix ?? 'hypertwin/claims/'
    if (typeof this.#prefix !== 'string') throw invalid('prefix must be a string')
    this.#timeoutMs = milliseconds(options.timeoutMs ?? 3000, 'timeoutMs')
  }

  /**
   * See {@link Arbiter.claim}.
   *
   * @throws ArbiterError `EINVAL`, `CLOSED`
   */
  async claim(key: string, who: string): Promise<Claim> {
    checkClaim(key, who)
    this.#checkOpen()
    return this.#answer(
      async client => {
        const name = this.#prefix + key
        const value = JSON.stringify({ key, winner: who, at: new Date().toISOString(), host: hostname(), pid: process.pid })
        const answer = await client
          .if(name, 'Create', '==', 0)
          .then(client.put(name).value(value))
          .else(client.get(name))
          .commit()
        if (answer.succeeded) return 'won'
        // An earlier attempt of this side may have arrived although its answer did not.
        const there = answer.responses[0]?.response_range?.kvs[0]?.value.toString() ?? ''
        return winnerIn(there, `etcd's key ${name}`) === who ? 'won' : 'lost'
      },
      'unreachable'
    )
  }

  /** Connects; whether a majority of the cluster answers now. */
  async prepare(): Promise<boolean> {
    this.#checkOpen()
    return this.#answer(async client => {
      await client.get(`${this.#prefix}probe`)
      return true
    }, false)
  }

  /** Ends the connections. Calling it again is fine. */
  async close(): Promise<void> {
    this.#closed = true
    const client = await this.#client?.catch(() => undefined)
    this.#client = undefined
    client?.close()
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #checkOpen(): void {
    if (this.#closed) throw new ArbiterError('the arbiter is closed', { code: 'CLOSED' })
  }

  async #answer<T>(work: (client: Etcd3) => Promise<T>, otherwise: T): Promise<T> {
    try {
      const run = async (): Promise<T> => work(await (this.#client ??= this.#connect()))
      const answer = await within(this.#timeoutMs, run(), 'etcd')
      this.lastError = undefined
      return answer
    } catch (error) {
      this.lastError = error as Error
      return otherwise
    }
  }

  async #connect(): Promise<Etcd3> {
    const [{ Etcd3 }, { noop }] = await Promise.all([import('etcd3'), import('cockatiel')])
    const { tls, auth, hosts } = this.#options
    const timeout = this.#timeoutMs
    return new Etcd3({
      hosts,
      ...(tls && {
        credentials: {
          rootCertificate: Buffer.from(tls.ca),
          ...(tls.key !== undefined && { privateKey: Buffer.from(tls.key) }),
          ...(tls.cert !== undefined && { certChain: Buffer.from(tls.cert) })
        }
      }),
      ...(auth && { auth: { username: auth.username, password: auth.password } }),
      defaultCallOptions: () => ({ deadline: Date.now() + timeout }),
      // No member is left out because it failed a moment ago: whether it answers now is what is asked.
      faultHandling: { host: () => noop },
      grpcOptions: {
        'grpc.use_local_subchannel_pool': 1,
        'grpc.initial_reconnect_backoff_ms': 100,
        'grpc.min_reconnect_backoff_ms': 100,
        'grpc.max_reconnect_backoff_ms': 500
      }
    })
  }
}
