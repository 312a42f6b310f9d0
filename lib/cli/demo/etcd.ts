// An etcd of one member for the demo's arbiter, on the bridge that all hosts reach. It ends with this process.
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import path from 'node:path'
import { usage } from '../common.js'
import type { Topology } from './topology.js'
import { WIRE_ADDRESS } from './topology.js'

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

/** Starts it; resolves to its address once it answers, and to what ends it. */
export async function startEtcd(
  topology: Topology | undefined,
  folder: string
): Promise<{ url: string; end: () => Promise<void> }> {
  const host = topology ? WIRE_ADDRESS : '127.0.0.1'
  const [client, peer] = topology ? [2379, 2380] : [await freePort(), await freePort()]
  const url = `http://${host}:${client}`
  const etcd = [
    'etcd',
    ...['--name', 'demo', '--data-dir', path.join(folder, 'etcd')],
    ...['--listen-client-urls', url, '--advertise-client-urls', url],
    ...['--listen-peer-urls', `http://127.0.0.1:${peer}`, '--initial-advertise-peer-urls', `http://127.0.0.1:${peer}`],
    ...['--initial-cluster', `demo=http://127.0.0.1:${peer}`]
  ]
  // The shell ends etcd when its own input ends, that is when this process does.
  const script = '"$@" </dev/null & etcd=$!; cat >/dev/null; kill -9 $etcd; wait'
  const [program, ...args] = [...(topology ? topology.onWire() : []), 'sh', '-c', script, 'sh', ...etcd]
  let ended = () => {}
  const end = new Promise<void>(resolve => (ended = resolve))
  const child = spawn(program!, args, { stdio: ['pipe', 'ignore', 'pipe'], detached: true })
  child.stdin.on('error', () => {})
  let said = ''
  await new Promise<void>((resolve, reject) => {
    const failed = (why: string) => reject(usage(`--arbiter etcd: ${why} (Debian: apt-get install etcd-server)`))
    child.once('error', error => failed(error.message))
    child.stderr.on('data', (text: Buffer) => {
      said = (said + text.toString()).slice(-4000)
      if (/ready to serve client requests|serving (insecure )?client (requests|traffic)/i.test(said)) resolve()
      else if (/not found/.test(said)) failed('etcd is not installed')
    })
    child.once('close', () => {
      ended()
      failed(`etcd ended: ${said.trim().split('\n').at(-1) ?? ''}`)
    })
  })
  child.stderr.resume()
  return {
    url,
    end: () => {
      child.stdin.end()
      return end
    }
  }
}
