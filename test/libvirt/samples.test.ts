// Each sample on libvirt is run as its first lines say, on real hosts, and says what it should.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import process from 'node:process'
import t, { type Test } from 'tap'
import { domainXml } from '../../lib/libvirt/index.js'
import { whyNoNbd } from '../../lib/stream/index.js'
import { noTools } from '../stream/support.js'
import { noHosts, oneHost } from './hosts.js'

interface Sample {
  /** Resolves when it has said this; rejects when it ends without. */
  says: (what: RegExp) => Promise<void>
  /** Asserts that it ends well, or as one that is interrupted; resolves with all that it has said. */
  ends: (status?: number) => Promise<string>
  interrupt: () => void
}

function start(t: Test, name: string, ...args: string[]): Sample {
  const child = spawn(process.execPath, [`scripts/${name}.mjs`, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const closed = once(child, 'close')
  const says = async (what: RegExp): Promise<void> => {
    while (!what.test(said)) {
      if (child.stdout.closed) throw new Error(`${name} has not said ${what}: ${said}\n${errors}`)
      await Promise.race([once(child.stdout, 'data'), closed])
    }
  }
  const ends = async (expected = 0): Promise<string> => {
    const [status, signal] = (await closed) as [number | null, NodeJS.Signals | null]
    t.strictSame([status, signal, errors], [expected, null, ''], said)
    return said
  }
  return { says, ends, interrupt: () => child.kill('SIGINT') }
}

const run = (t: Test, name: string, ...args: string[]): Promise<string> => start(t, name, ...args).ends()
const options = { skip: noHosts, timeout: 120_000 }

t.test('watch', options, async t => {
  const { here, host } = await oneHost(t)
  const xml = domainXml({ name: 'watched', type: 'qemu', memory: '64MiB', agent: false })
  await using domain = await here.createDomain(xml, { persistent: false, paused: true })
  const watch = start(t, 'libvirt-watch', host.uri, '--interval', '0.2')
  await watch.says(/watched +paused/)
  await domain.resume()
  await watch.says(/^watched: resumed$/m)
  await watch.says(/watched +running +\d+ %/)
  await host.restart()
  await watch.says(/^the connection was lost for \d+ ms$[^]*watched +running/m)
  watch.interrupt()
  t.match(await watch.ends(130), /^domain +state +cpu +memory/m)
  t.match(await run(t, 'libvirt-watch', 'test:///default', '--interval', '0.1', '--count', '2'), /^(\ndomain .*\ntest +running\n){2}$/)
})

t.test('console', options, async t => {
  t.equal(await run(t, 'libvirt-console', '--run', 'echo $((6 * 7)) on $(uname -s)'), '42 on Linux\r\n')
})

for (const how of [[], ['--post-copy']])
  t.test(['migrate', ...how].join(' '), options, async t => {
    const svg = `${t.testdir()}/rounds.svg`
    const said = await run(t, 'libvirt-migrate', '--bandwidth', '40MiB', '--svg', svg, ...how)
    t.match(said, /^guest1 boots on host1 …\nhost1 -> host2\n/)
    t.match(said, /^host2 -> host1$/m)
    t.equal(said.match(/^The machine stood still for |^How long the machine stood still is not known/gm)?.length, 2)
    const [, answers] = /^The client had (\d+) answers in their order, on one connection; it waited \d+ ms at most\.$/m.exec(said) ?? []
    t.ok(Number(answers) > 10, `${answers} answers`)
    t.match(readFileSync(svg, 'utf8'), /^<svg[^]*<\/svg>\s*$/)
  })

for (const how of [[], ['--pull']])
  t.test(['backup', ...how].join(' '), options, async t => {
    const said = await run(t, 'libvirt-backup', '--size', '64', ...how)
    const sizes = [...said.matchAll(/^(everything|written since checkpoint\d): ([\d.]+) MiB in \d+ ms$/gm)].map(
      ([, what, size]) => [what, Math.floor(Number(size))]
    )
    t.strictSame(sizes, [['everything', 16], ['written since checkpoint0', 4], ['written since checkpoint1', 8]])
    t.match(said, /Images are identical\.\n$/)
  })

t.test('dirty-top', options, async t => {
  const said = await run(t, 'libvirt-dirty-top', '--count', '4')
  const pictures = said.split(/^domain .*\n/m).slice(1)
  t.equal(pictures.length, 4)
  for (const picture of pictures) {
    const names = picture.trim().split('\n').map(line => line.split(' ')[0])
    t.strictSame(names.sort(), ['busier', 'busy', 'quiet'])
  }
  const [, peak] = /^busier .* ([\d.]+ [KMG]iB)\/s/m.exec(pictures.at(-1) ?? '') ?? []
  t.ok(peak !== undefined && Number.parseFloat(peak) > 0, `${peak}/s at most`)
})

const noStream = noHosts || (whyNoNbd()?.message ?? noTools('debugfs', 'sfdisk', 'mke2fs', 'readelf'))

t.test('stream', { ...options, skip: noStream }, async t => {
  const said = await run(t, 'stream-libvirt')
  const [, share] = /^[\d.]+ s: nginx has served its page; [\d.]+ MiB of [\d.]+ were needed so far, (\d+) %/m.exec(said) ?? []
  t.ok(Number(share) < 60, said)
  t.match(said, /the copy is the image/)
})
