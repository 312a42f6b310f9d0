// What the tests of arbiters share: an etcd of their own, certificates.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import path from 'node:path'
import type { Test } from 'tap'

const program = ['/usr/bin/etcd', '/usr/local/bin/etcd'].find(existsSync)

/** Why tests with etcd cannot run here; false when they can. */
export const noEtcd: string | false = program === undefined ? 'etcd is missing (Debian: etcd-server)' : false

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** One etcd member, which can be killed and started again on its data. */
export class Etcd {
  process: ChildProcess | undefined
  private constructor(
    readonly folder: string,
    readonly url: string,
    readonly peerUrl: string,
    readonly extra: string[]
  ) {}

  static async start(t: Test, folder: string, extra: string[] = [], scheme = 'http'): Promise<Etcd> {
    const etcd = new Etcd(
      path.join(folder, 'etcd'),
      `${scheme}://127.0.0.1:${await freePort()}`,
      `http://127.0.0.1:${await freePort()}`,
      extra
    )
    await etcd.start()
    t.teardown(() => etcd.kill())
    return etcd
  }

  /** Until it serves clients. */
  async start(): Promise<void> {
    const child = spawn(
      program ?? 'etcd',
      [
        '--data-dir', this.folder, '--name', 'test',
        '--listen-client-urls', this.url, '--advertise-client-urls', this.url,
        '--listen-peer-urls', this.peerUrl, '--initial-advertise-peer-urls', this.peerUrl,
        '--initial-cluster', `test=${this.peerUrl}`,
        '--logger', 'zap', ...this.extra
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] }
    )
    this.process = child
    let said = ''
    await new Promise<void>((resolve, reject) => {
      child.stderr?.setEncoding('utf8').on('data', (text: string) => {
        said += text
        if (/serving (insecure )?client/.test(said)) resolve()
      })
      child.once('exit', () => reject(new Error(`etcd ended: ${said.slice(-2000)}`)))
    })
    child.stderr?.removeAllListeners('data').resume()
  }

  async kill(): Promise<void> {
    const child = this.process
    this.process = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }
}

/** A certificate authority's, and one certificate for 127.0.0.1 and localhost by it: file names. */
export interface Certificates {
  ca: string
  cert: string
  key: string
}

/** Why tests with certificates cannot run here; false when they can. */
export const noOpenssl: string | false =
  spawnSync('openssl', ['version']).status === 0 ? false : 'the program openssl is missing'

/** Makes them in `folder`, with `name` in their names. */
export function certificates(folder: string, name = 'test'): Certificates {
  const file = (what: string): string => path.join(folder, `${name}-${what}.pem`)
  const openssl = (...args: string[]): void => {
    const { status, stderr } = spawnSync('openssl', args, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stderr}`)
  }
  const made = { ca: file('ca'), cert: file('cert'), key: file('key') }
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-batch', '-days', '2']
  openssl('req', '-x509', ...ec, '-subj', `/CN=${name} authority`, '-keyout', file('ca-key'), '-out', made.ca)
  openssl(
    'req', '-x509', ...ec, '-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost',
    '-addext', 'basicConstraints=critical,CA:false', '-CA', made.ca, '-CAkey', file('ca-key'),
    '-keyout', made.key, '-out', made.cert
  )
  return made
}
