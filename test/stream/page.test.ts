// What one sees of a stream: its blocks by why and when they came, the picture of them, and the page.
import t from 'tap'
import { blocksPicture, ImageStream, SnapshotStream, StreamPage, type BlockState } from '../../lib/stream/index.js'
import { browse, noBrowser } from '../browser.js'
import { limit } from '../patience.js'
import { CHUNK, code, imageBytes, packed, scratch, until, WebServer } from './support.js'

const get = async (url: string, init: RequestInit = {}): Promise<{ status: number; text: string; headers: Headers }> => {
  const response = await fetch(url, init)
  return { status: response.status, text: await response.text(), headers: response.headers }
}

t.test('the blocks, the picture and the page', async t => {
  const { folder } = await packed(t, imageBytes(60))
  const web = await WebServer.start(t, folder)
  const cache = scratch(t)
  {
    await using before = await ImageStream.open(web.url, { cache, gate: 'none', fill: false })
    await before.read(4 * CHUNK, 1)
  }
  await using stream = await ImageStream.open(web.url, { cache, gate: 'none', fill: false })
  await stream.read(8 * CHUNK, 1)
  const { state, atMs } = stream.blocks()
  t.equal(state.length, 60)
  const seen = (chunk: number, expected: BlockState): void => void t.equal(state[chunk], expected, `chunk ${chunk}`)
  seen(2, 'zeros')
  seen(4, 'kept')
  seen(8, 'demand')
  seen(40, 'missing')
  t.ok(Number.isNaN(atMs[4]) && Number.isNaN(atMs[40]))
  t.ok((atMs[8] as number) > 0 && (atMs[8] as number) < stream.progress().elapsedMs)

  const svg = blocksPicture(stream.blocks(), 'a <b> & c')
  t.match(svg, /^<svg [^]*a &lt;b> &amp; c[^]*<\/svg>$/)
  for (const words of ['not here yet: ', 'nothing but zeros: 15', 'here before: ', 'waited for by a read: 1']) t.match(svg, words)
  t.equal(blocksPicture({ state: Array<BlockState>(100_000).fill('fill'), atMs: new Float64Array(100_000).map((_, i) => i) }, 'x').match(/M\d/g)?.length, 2 * 4096)

  await using page = await StreamPage.serve(stream, { title: 'an image' })
  const html = await get(page.url)
  t.equal(html.status, 200)
  t.match(html.headers.get('content-security-policy'), /default-src 'none'/)
  t.notMatch(html.text, /https?:\/\//, 'it needs nothing from elsewhere')
  t.match(JSON.parse((await get(`${page.url}progress.json`)).text), { title: 'an image', state: 'rest', demands: { count: 1 } })
  t.match((await get(`${page.url}blocks.svg`)).text, 'an image')
  t.equal((await get(`${page.url}nothing`)).status, 404)
  t.equal((await get(page.url, { method: 'POST' })).status, 405)
  await t.rejects(StreamPage.serve(stream, { listen: page.url }), code('EINVAL'))
  await t.rejects(StreamPage.serve(stream, { listen: new URL(page.url).host }), code('EADDRINUSE'))
})

t.test('the same of a snapshot, which a thread streams', async t => {
  const { folder } = await packed(t, imageBytes(60))
  const web = await WebServer.start(t, folder)
  const stream = await SnapshotStream.open(web.url, { cache: scratch(t), gate: 'none' })
  t.teardown(() => stream.close())
  t.equal(stream.source, web.url)
  await using page = await StreamPage.serve(stream, { title: 'a snapshot' })
  await stream.complete
  const { state, atMs } = await stream.blocks()
  t.strictSame([state.length, atMs.length, state[2], state[8]], [60, 60, 'zeros', 'fill'])
  t.ok((atMs[8] as number) > 0)
  t.match((await get(`${page.url}blocks.svg`)).text, /a snapshot[^]*of the rest: 45/)
  await until(() => stream.progress().state === 'complete')
  t.match(JSON.parse((await get(`${page.url}progress.json`)).text), { title: 'a snapshot', state: 'complete' })
  // While another thread takes its place there is nobody who could tell, and nothing hangs.
  const asked = stream.blocks()
  await Promise.all([stream.endThread(), asked.then(() => undefined, error => void t.match(error, { code: 'CLOSED' }))])
  await until(() => stream.blocks().then(blocks => blocks.state[8] === 'kept', () => false))
  await stream.close()
  await t.rejects(stream.blocks(), code('CLOSED'))
  await using late = await StreamPage.serve(stream)
  t.equal((await get(`${late.url}blocks.svg`)).status, 500)
})

t.test('the page, as a browser sees it', { skip: noBrowser, timeout: limit(120_000) }, async t => {
  const { folder } = await packed(t, imageBytes(60))
  const web = await WebServer.start(t, folder)
  const stream = await ImageStream.open(web.url, { cache: scratch(t), gate: 'none', fill: false })
  t.teardown(() => stream.close())
  await stream.read(8 * CHUNK, 1)
  await stream.read(8 * CHUNK, 1)
  const server = await StreamPage.serve(stream, { title: 'an <i>image' })
  t.teardown(() => server.close())
  const { page, problems } = await browse(t, server.url)
  const row = (name: string, value: string | RegExp) => page.locator('#rows div', { has: page.locator('dt', { hasText: name }) }).locator('dd', { hasText: value })
  await page.locator('#state', { hasText: 'The start may be made; the rest is coming' }).waitFor()
  t.equal(await page.locator('h1').textContent(), 'an <i>image')
  t.equal(await page.title(), 'an <i>image')
  await row('waited for nothing', '50.0 % of the reads').waitFor()
  await row('came because a read waited', '64 KiB').waitFor()
  await row('profile', /^-$/).waitFor()
  const shown = (id: string): Promise<number> => page.locator(id).evaluate(one => (one as unknown as { value: number }).value)
  const all = await shown('#all')
  t.ok(all > 0 && all < 1, `${all}`)
  await page.waitForFunction("document.getElementById('blocks').naturalWidth > 0")
  // What is bad, and what is good again.
  await web.stop()
  const read = stream.read(20 * CHUNK, 1)
  await page.locator('#state.bad', { hasText: '127.0.0.1' }).waitFor()
  await row('waited for now', /^1$/).waitFor()
  await web.listen()
  await read
  await page.locator('#state:not(.bad)').waitFor()
  await stream.read(0, 60 * CHUNK)
  await page.locator('#state', { hasText: 'The copy is whole' }).waitFor()
  t.equal(await shown('#all'), 1)
  t.same(problems, [])
  await server.close()
  await page.locator('#state.bad', { hasText: 'The process that streams has gone' }).waitFor()
})
