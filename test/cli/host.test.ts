// `hypertwin host` as its users run it, on libvirt's test driver and between two real hosts.
import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { bootGuest, noHosts, twoHosts } from '../libvirt/hosts.js'
import { noLibvirt } from '../libvirt/support.js'
import { limit } from '../patience.js'

const command = path.resolve('dist/cli/main.js')

function host(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [command, 'host', ...args], { encoding: 'utf8', timeout: limit(60_000) })
}

t.test('help', async t => {
  for (const name of ['list', 'watch', 'migrate', 'dirty']) {
    const { status, stdout } = host(name, '--help')
    t.equal(status, 0)
    t.match(stdout, `Usage: hypertwin host ${name}`)
    t.match(stdout, /Example:\n {2}\$ hypertwin host /)
  }
})

t.test('on the test driver', { skip: noLibvirt }, async t => {
  const uri = 'test:///default'
  const { stdout } = host('list', '-c', uri, '--json')
  t.match(JSON.parse(stdout), { domains: [{ name: 'test', state: 'running', vcpus: 2, memory: 2147483648 }] })
  t.match(host('list', '-c', uri).stdout, /^id +name +state.*\n +1 +test +running/)
  t.match(host('migrate', 'nothing', uri, '-c', uri), { status: 1, stderr: /Domain not found/ })
  t.match(host('migrate', 'test', uri, '-c', uri, '--tunnelled'), { status: 2, stderr: /--peer/ })
  t.match(host('migrate', 'test', uri, '-c', uri, '--parallel', '0'), { status: 2 })
  t.match(host('dirty', 'test', '-c', uri, '--count', '1', '--json'), { status: 1, stdout: /"error"/ })
  t.match(host('dirty', '-c', uri, '--count', '1'), { status: 0, stdout: /test +.*not supported/ })
  t.match(host('list', '-c', 'test:///nowhere.xml'), { status: 1, stderr: /hypertwin: / })
})

t.test('between two hosts', { skip: noHosts, timeout: limit(120_000) }, async t => {
  const pair = await twoHosts(t)
  const { host: first, other } = pair
  const { guest } = await bootGuest(pair, { network: false, agent: false, memory: 96 }, { persistent: false })
  const watch = spawn(process.execPath, [command, 'host', 'watch', '-c', first.uri, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let told = ''
  watch.stdout.setEncoding('utf8').on('data', text => (told += text))
  while (!told.includes('"open"')) await once(watch.stdout, 'data')
  const moved = host('migrate', guest.name, other.uri, '-c', first.uri, '--json')
  t.equal(moved.status, 0, moved.stderr)
  t.match(JSON.parse(moved.stdout), { domain: guest.name, postCopy: false })
  t.match(JSON.parse(host('list', '-c', other.uri, '--json').stdout), { domains: [{ name: guest.name, state: 'running' }] })
  while (!told.includes('"stopped"')) await once(watch.stdout, 'data')
  watch.kill('SIGINT')
  const [status] = (await once(watch, 'close')) as [number]
  t.equal(status, 130)
  const rates = host('dirty', guest.name, '-c', other.uri, '--count', '1', '--json')
  t.match(JSON.parse(rates.stdout), { mode: 'page-sampling', samples: [{ domains: { [guest.name]: Number } }] })
})
