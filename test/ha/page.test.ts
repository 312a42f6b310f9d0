// The page in a real browser; the server behind it; metrics.
import { request } from 'node:http'
import t from 'tap'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { HaMetrics, servePage, statusServer, type HaSource, type HaStatus } from '../../lib/ha/index.js'
import { browse, noBrowser } from '../browser.js'
import { code, endless, guest, Holder, hypertwin, Command, noKvm, protection, scratch, standby, TestArbiter, Told } from './support.js'

/** A status of nobody's, to change at will. */
function status(name: string, change: Partial<HaStatus> = {}): HaStatus {
  const at = new Date().toISOString()
  const numbers = ['logBytes', 'logRecords', 'inputBytes', 'logBlocks', 'ackedRecords', 'boundary', 'peerBoundary', 'lagMs', 'lagP50Ms']
  numbers.push('lagP99Ms', 'lagMaxMs', 'roundTripMs', 'heldOutputs', 'heldBytes', 'releasedOutputs', 'droppedOutputs', 'holdP50Ms')
  numbers.push('holdP99Ms', 'pacedMs', 'heartbeatTimeoutMs')
  return {
    ...{ name, role: 'primary', state: 'protected', code: 'PROTECTED', message: '', since: at, at, session: 'a', peer: '', listen: '' },
    stats: Object.fromEntries(numbers.map(key => [key, 0])) as unknown as HaStatus['stats'],
    ...{ machine: null, sync: null, failovers: 0, failover: null, figures: {}, events: [] },
    ...change
  }
}

const failover = {
  ...{ at: new Date().toISOString(), cause: 'HEARTBEAT', detected: 12, claimed: 13, replayed: 13.5, live: 14, announced: 14.5 },
  ...{ boundary: 77, reissuedPackets: 2, reissuedRequests: 1 }
}

const source = (look: () => HaStatus): HaSource => ({ status: look, async *events() {} })

t.test('a failover, as a browser sees it', { skip: noKvm || noBrowser }, async t => {
  const folder = scratch(t)
  const arbiter = new FileArbiter(folder)
  const last = await standby(t, { arbiter, name: 'third' })
  const there = await standby(t, { arbiter, name: 'second', pool: last.listen })
  const holder = await Holder.start(t, { backup: [there.listen], claims: folder, status: true })
  const url = await holder.until(said => said.type === 'ready' && said.status)
  await using server = await servePage({ sources: [there, last], watch: [url], figures: () => ({ 'operations/s': 1234 }) })
  const { page, problems } = await browse(t, server.url)
  const host = (name: string, state: string) => page.locator(`[data-source="${name}"][data-state="${state}"]`)
  await host('holder', 'protected').waitFor()
  await host('second', 'protected').waitFor()
  await host('third', 'listening').waitFor()
  await page.locator('#say', { hasText: 'Protected' }).waitFor()
  t.equal(await page.locator('#feed').textContent(), 'live')
  t.notOk(await page.locator('#failover').isVisible())
  await page.locator('[data-chart="lag"] path.curve').waitFor()
  await page.locator('[data-chart="operations/s"] .now', { hasText: '1,234' }).waitFor()
  holder.child.kill('SIGKILL')
  await there.live
  await host('holder', 'ended').waitFor()
  await host('second', 'protected').waitFor()
  await host('third', 'protected').waitFor()
  await page.locator('#failover').waitFor()
  t.match(await page.locator('#total').textContent(), /paused for [\d.,]+ m?s/)
  for (const phase of ['detected', 'claimed', 'replayed', 'live'])
    t.equal(await page.locator(`#picture [data-phase="${phase}"]`).count(), 1, phase)
  t.match(await page.locator('#events').textContent(), /live/)
  t.match(await page.title(), /hypertwin/)
  t.strictSame(problems, [])
})

t.test('what others say is text to the page, and it stays readable', { skip: noBrowser }, async t => {
  const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
  const one = status(evil, { message: evil, failovers: 1, failover: { ...failover, cause: evil }, figures: { [evil]: 1 } })
  await using server = await servePage({ sources: [source(() => one)] })
  for (const scheme of ['light', 'dark'] as const) {
    const { page, problems } = await browse(t, server.url, scheme)
    await page.locator('.host .name', { hasText: '<img src=x' }).waitFor()
    t.match(await page.title(), /^Protected/)
    t.equal(await page.locator('main img').count(), 0)
    const [ink, ground] = await page.evaluate<[number, number]>(
      "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
    )
    t.ok(scheme === 'light' ? ground - ink > 500 : ink - ground > 500, `contrast, ${scheme}`)
    await page.setViewportSize({ width: 380, height: 800 })
    t.ok(await page.evaluate('document.documentElement.scrollWidth <= 380'), 'fits a narrow screen')
    t.strictSame(problems, [])
  }
})

/** As fetch, but with any Host header. */
function ask(url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<{ status: number; headers: Record<string, unknown>; body: string }> {
  return new Promise((resolve, reject) => {
    // A connection of its own: a server may end an idle one at the moment of the next request.
    request(url, { headers, method, agent: false }, response => {
      let body = ''
      response.setEncoding('utf8').on('data', (text: string) => (body += text))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }))
    })
      .on('error', reject)
      .end()
  })
}

t.test('what the server answers, and to whom', async t => {
  await using server = await servePage({ sources: [source(() => status('one'))], allowedHosts: ['ha.example.org'] })
  const page = await ask(server.url)
  t.equal(page.status, 200)
  t.match(page.headers['content-security-policy'], /default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-/)
  t.notMatch(page.body, /https?:\/\/(?!www\.w3\.org\/2000\/svg)/)
  for (const host of ['localhost', '127.0.0.1', '[::1]:80', 'HA.example.org:9'])
    t.match(await ask(server.url, { host }), { status: 200 }, host)
  for (const host of ['evil.example.org', 'localhost.evil.org', 'a b', '[::1', '127.0.0.1.evil.org'])
    t.match(await ask(`${server.url}state.json`, { host }), { status: /^4(21|00)$/ }, host)
  t.match(await ask(server.url, {}, 'POST'), { status: 405, headers: { allow: 'GET, HEAD' } })
  t.match(await ask(server.url, {}, 'HEAD'), { status: 200, body: /^$/ })
  t.match(await ask(`${server.url}../etc/passwd`), { status: 404 })
  t.match(JSON.parse((await ask(`${server.url}state.json`)).body), { version: 1, sources: [{ name: 'one' }] })
  t.match(await ask(`${server.url}metrics`), { headers: { 'content-type': /^text\/plain/ }, body: /^hypertwin_ha_state\{/m })
  const bare = await statusServer(source(() => status('two')))
  t.match(await ask(bare.url), { body: /state\.json/ })
  // Somebody who listens does not keep it open.
  const listening = await fetch(`${bare.url}events`)
  const { value } = (await listening.body?.getReader().read()) as { value: Uint8Array }
  t.match(Buffer.from(value).toString(), /event: history\ndata: \[/)
  await bare.close()
  await bare.close()
  await t.rejects(fetch(bare.url))
  for (const listen of ['nowhere', '1.2.3.4:99999', 7, ':']) await t.rejects(servePage({ listen: listen as string }), code('EINVAL'))
  await t.rejects(servePage({ listen: new URL(server.url).host }), code('EADDRINUSE'))
  await t.rejects(servePage({ watch: ['ftp://x'] }), code('EINVAL'))
  await t.rejects(servePage({ sources: [{} as HaSource] }), code('EINVAL'))
})

t.test('watching others: those that answer, those that do not, those that lie', async t => {
  const one = await statusServer(source(() => status('far', { figures: { x: 1 } })))
  const liar = await statusServer(source(() => status('liar', { state: 'immortal' as 'live' })))
  t.teardown(() => liar.close())
  await using server = await servePage({ watch: [one.url, liar.url, 'http://127.0.0.1:9'] })
  const sources = async () => (JSON.parse((await ask(`${server.url}state.json`)).body) as { sources: HaStatus[] }).sources
  while ((await sources())[0]?.name !== 'far') await new Promise(resolve => setTimeout(resolve, 20))
  t.match((await sources())[0], { name: 'far', state: 'protected', figures: { x: 1 } })
  await one.close()
  while ((await sources())[0]?.state !== 'ended') await new Promise(resolve => setTimeout(resolve, 20))
  t.match((await sources())[0], { name: 'far', code: 'UNREACHABLE', message: /does not answer/ })
  while (!(await sources())[1]?.message.includes('no state')) await new Promise(resolve => setTimeout(resolve, 20))
  t.match((await sources())[2], { code: 'UNREACHABLE' })
  const command = new Command(t, ['ha', 'status', liar.url])
  t.equal(await command.closed, 1)
  t.match(command.stderr, /no state of hypertwin/)
  t.match(command.lines[0], { error: { code: String } })
  const other = new Command(t, ['ha', 'status', server.url])
  t.equal(await other.closed, 1, 'of one that does not answer nothing is known')
  t.match(other.stderr, /far: unknown \(its status server does not answer/)
})

t.test('metrics count over sessions and failovers', async t => {
  let now = status('one')
  const metrics = new HaMetrics(() => [now])
  const value = async (line: string): Promise<number> => {
    const found = (await metrics.text()).split('\n').find(one => one.startsWith(`hypertwin_ha_${line}`))
    return Number(found?.split(' ').at(-1))
  }
  now = status('one', { session: 'a', stats: { ...now.stats, logBytes: 100, lagMs: 2, pacedMs: 1500 } })
  t.equal(await value('log_bytes_total'), 100)
  t.equal(await value('lag_seconds'), 0.002)
  t.equal(await value('log_bytes_total'), 100, 'looking does not count')
  now = status('one', { session: 'a', stats: { ...now.stats, logBytes: 150 } })
  t.equal(await value('log_bytes_total'), 150)
  // Protected again: that one counts from nothing.
  now = status('one', { session: 'b', stats: { ...now.stats, logBytes: 30 } })
  t.equal(await value('log_bytes_total'), 180)
  t.equal(await value('state{source="one",role="primary",state="protected"}'), 1)
  t.equal(await value('state{source="one",role="primary",state="live"}'), 0)
  now = status('one', { role: 'backup', state: 'live', failovers: 1, failover, stats: now.stats })
  t.equal(await value('failovers_total{source="one",role="backup",cause="HEARTBEAT"}'), 1)
  t.equal(await value('failover_pause_seconds_sum'), 0.014)
  t.equal(await value('failover_pause_seconds_count'), 1)
  t.equal(await value('failover_phase_seconds{source="one",role="backup",phase="detected"}'), 0.012)
  t.ok(Number.isNaN(await value('state{source="one",role="primary",state="protected"}')), 'what is not there any more is not shown')
})

t.test('every statistic of a protection is a metric', { skip: noKvm }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  await here.ready
  await using server = await statusServer(here)
  while (here.stats().logRecords < 20n) await new Promise(resolve => setTimeout(resolve, 5))
  const text = await server.metrics.text()
  for (const name of ['state', 'lag_seconds', 'lag_quantile_seconds', 'log_bytes_total', 'held_outputs', 'round_trip_seconds', 'boundary'])
    t.match(text, new RegExp(`^hypertwin_ha_${name}\\{.*\\} \\d`, 'm'), name)
  while (there.stats().lagMaxMs === 0) await new Promise(resolve => setTimeout(resolve, 5))
  await using other = await statusServer(there)
  t.match(await other.metrics.text(), /^hypertwin_ha_lag_quantile_seconds\{.*role="backup".*\} [0-9.e-]*[1-9]/m, 'of a standby too')
  const told = new Told(here)
  await here.close()
  await told.over
})

t.test('hypertwin ha serve', async t => {
  const far = await statusServer(source(() => status('far')))
  t.teardown(() => far.close())
  const command = new Command(t, ['ha', 'serve', '--listen', '127.0.0.1:0', '--watch', far.url])
  const { url } = (await command.line(() => true)) as { url: string }
  t.match(await ask(url), { status: 200, body: /<!doctype html>/ })
  command.child.kill('SIGINT')
  t.equal(await command.closed, 130)
})

t.test('wrong arguments: one line that says what to do, exit code 2', async t => {
  const claims = scratch(t)
  const backup = ['backup', '--listen', 'tcp://127.0.0.1:0', '--arbiter', `file:${claims}`]
  for (const args of [
    ['backup'],
    ['backup', '--listen', 'tcp://127.0.0.1:0'],
    ['backup', '--listen', 'nowhere', '--arbiter', `file:${claims}`],
    ['backup', '--listen', 'tcp://127.0.0.1:0', '--arbiter', 'dice'],
    [...backup, '--pool', 'here'],
    [...backup, '--silence', '1'],
    [...backup, '--tls-ca', '/nonexistent'],
    [...backup, '--tls-name', 'x'],
    [...backup, '--tls-ca', '/nonexistent', '--tls-cert', '/nonexistent', '--tls-key', '/nonexistent'],
    [...backup, '--status', 'nowhere'],
    ['ha'],
    ['ha', 'serve'],
    ['ha', 'serve', '--watch', 'ftp://x'],
    ['ha', 'serve', '--watch', '127.0.0.1:1', '--listen', 'nowhere'],
    ['ha', 'status'],
    ['ha', 'status', 'ftp://x']
  ]) {
    const { status, stdout, stderr } = hypertwin(...args)
    if (args.join(' ') === 'ha') {
      t.not(status, 0)
      continue
    }
    if (noKvm && args.includes('--status')) continue
    t.equal(status, 2, args.join(' '))
    t.equal(stdout.startsWith('Waiting') ? '' : stdout, '')
    t.match(stderr, /^(hypertwin|error): .+\n$/)
  }
  t.match(hypertwin('ha', 'status', 'http://127.0.0.1:9'), { status: 1, stderr: /^hypertwin: No status at / })
  const without = hypertwin(...backup, '--kvm-device', '/nonexistent/kvm', '--json')
  t.equal(without.status, 3)
  t.match(JSON.parse(without.stdout), { error: { code: 'ENOENT' } })
})
