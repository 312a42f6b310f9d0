// The commands that move a machine, as two processes.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { noOpenssl, certificates } from '../arbiter/support.js'
import { noKvm as skip, scratch } from '../machine/support.js'
import { limit } from '../patience.js'

const command = path.resolve('dist/cli/main.js')
const run = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [command, ...args], { encoding: 'utf8', timeout: limit(60_000) })

/** `hypertwin receive`, and what it says, line by line. */
class Receiver {
  readonly lines: Record<string, unknown>[] = []
  readonly child: ChildProcess
  readonly gone: Promise<[number | null]>
  #text = ''

  constructor(t: Test, ...args: string[]) {
    this.child = spawn(process.execPath, [command, 'receive', '--listen', 'tcp://127.0.0.1:0', '--json', ...args], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    this.gone = once(this.child, 'exit') as Promise<[number | null]>
    t.teardown(() => this.child.kill('SIGKILL'))
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      const lines = (this.#text + text).split('\n')
      this.#text = lines.pop() ?? ''
      for (const line of lines) this.lines.push(JSON.parse(line) as Record<string, unknown>)
      this.child.emit('said')
    })
    this.child.stderr?.resume()
  }

  async said(type: string): Promise<Record<string, unknown>> {
    for (;;) {
      const found = this.lines.find(line => line['type'] === type)
      if (found) return found
      await Promise.race([
        once(this.child, 'said'),
        this.gone.then(() => {
          throw new Error(`it ended: ${JSON.stringify(this.lines)}`)
        })
      ])
    }
  }
}

t.test('a guest moves, by TLS, and ends there', { skip: skip || noOpenssl }, async t => {
  const folder = scratch(t)
  const { ca, cert, key } = certificates(folder)
  const tls = ['--tls-ca', ca, '--tls-cert', cert, '--tls-key', key]
  const arbiter = ['--arbiter', `file:${folder}`]
  const there = new Receiver(t, ...tls, ...arbiter)
  const { address } = await there.said('listening')
  const svg = path.join(folder, 'rounds.svg')
  const here = run(
    ...['migrate', 'hello', '--memory', '16MiB', '--append', `ticks=${limit(100)}`, '--after', '0.5'],
    ...['--to', String(address), '--svg', svg, '--json', ...tls, ...arbiter]
  )
  t.equal(here.status, 0, here.stderr)
  const result = JSON.parse(here.stdout) as { session: string; digest: { combined: string }; rounds: unknown[] }
  t.match(await there.said('received'), { session: result.session, digest: result.digest.combined, state: 'running' })
  t.match(await there.said('ended'), { state: 'stopped', reason: 'power-off' })
  t.strictSame((await there.gone)[0], 0)
  t.ok(result.rounds.length > 0)
  t.match(readFileSync(svg, 'utf8'), /^<svg [^]*stop[^]*<\/svg>\n$/)
})

t.test('what cannot be', { skip }, async t => {
  for (const [args, status, message] of [
    [['migrate', 'hello'], 2, '--to'],
    [['migrate', 'nothing', '--to', 'tcp://127.0.0.1:1'], 2, 'no guest'],
    [['migrate', 'hello', '--to', 'nowhere', '--after', '0.2'], 2, 'tcp://HOST:PORT'],
    [['migrate', 'hello', '--to', 'tcp://127.0.0.1:1', '--tls-ca', 'x'], 2, 'TLS needs'],
    [['migrate', 'hello', '--to', 'tcp://127.0.0.1:1', '--arbiter', 'x'], 2, 'an arbiter is'],
    [['migrate', 'hello', '--append', 'ticks=100000', '--to', 'tcp://127.0.0.1:1', '--after', '0.2'], 1, '127.0.0.1:1'],
    [['receive'], 2, '--listen'],
    [['receive', '--listen', 'here'], 2, 'tcp://HOST:PORT']
  ] as const) {
    const { status: ended, stderr } = run(...args)
    t.equal(ended, status, `${args.join(' ')}: ${stderr}`)
    t.match(stderr, message)
  }
})

t.test('a stranger is told of, and an interrupted receiver ends', { skip }, async t => {
  const there = new Receiver(t)
  const { address } = await there.said('listening')
  const { connect } = await import('node:net')
  connect(Number(/:(\d+)$/.exec(String(address))?.[1]), '127.0.0.1').end('hello there\r\n'.repeat(9))
  t.match(await there.said('failed'), { code: 'PROTOCOL' })
  there.child.kill('SIGINT')
  t.strictSame((await there.gone)[0], 130)
})
