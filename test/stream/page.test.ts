// What one sees of a stream: its blocks by why and when they came, the picture of them, and the page.
import t from 'tap'
import { blocksPicture, ImageStream, StreamPage, type BlockState } from '../../lib/stream/index.js'
import { CHUNK, code, imageBytes, packed, scratch, WebServer } from './support.js'

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
