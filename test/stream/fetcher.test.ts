// How much of a link is used: as much as keeps it busy, and room for what somebody waits for.
import t, { type Test } from 'tap'
import { Cache } from '../../lib/stream/cache.js'
import { Fetcher } from '../../lib/stream/fetcher.js'
import { CHUNK, noise, packed, scratch } from './support.js'

const KIB = 1024

/** A fetcher over a link of 20 MiB/s with 20 ms of round trip: 1 MiB is twice what fits on it in 25 ms. No answer ever comes. */
async function fetcher(t: Test): Promise<{ fetcher: Fetcher; asked: { from: number; to: number }[]; underWay: () => number }> {
  const { manifest } = await packed(t, noise(200 * CHUNK, 'link'))
  const cache = await Cache.open(scratch(t), manifest)
  const asked: { from: number; to: number }[] = []
  const source = {
    where: 'nowhere',
    local: false,
    file: () => Promise.reject(new Error('there is none')),
    range: (_name: string, from: number, to: number, signal?: AbortSignal) => {
      asked.push({ from, to })
      return new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(new Error('aborted'))))
    },
    close: () => undefined
  }
  const one = new Fetcher(source, cache, true)
  t.teardown(async () => {
    await one.close()
    await cache.close()
  })
  one.link.answered(20, 0)
  one.link.busy(0)
  one.link.came(4 << 20, 200)
  t.equal(one.link.bytesPerSecond, 20 << 20)
  return { fetcher: one, asked, underWay: () => asked.reduce((sum, { from, to }) => sum + to - from, 0) / KIB }
}

const blobs = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => i)

t.test('a link is kept busy, by several requests', async t => {
  const { fetcher: one, asked, underWay } = await fetcher(t)
  one.order.want(blobs(100))
  one.pump()
  t.equal(underWay(), 1024)
  t.equal(asked.length, 4, 'so that one is under way while another begins')
})

t.test('what was guessed leaves room for what was not, once somebody reads', async t => {
  const { fetcher: one, underWay } = await fetcher(t)
  one.order.want(blobs(100))
  one.isGuess = true
  one.pump()
  t.equal(underWay(), 512)
  one.order.gate = true
  one.pump()
  t.equal(underWay(), 1024, 'nobody reads before the start')
  const { fetcher: other, underWay: rest } = await fetcher(t)
  other.isGuess = true
  other.pump()
  t.equal(rest(), 512, 'nor does the rest stand in the way')
})

t.test('who has waited will wait again', async t => {
  for (const [wanted, kib] of [[100, 512], [0, 256]] as const) {
    const { fetcher: one, asked, underWay } = await fetcher(t)
    one.order.want(blobs(wanted))
    void one.need(150).catch(() => undefined)
    t.same(asked[0], { from: 150 * CHUNK, to: 151 * CHUNK }, 'it is asked for at once, and alone')
    t.equal(underWay(), 64 + kib, wanted > 0 ? 'the profile gives way to it' : 'what nobody has asked for even more')
    const before = asked.length
    for (const chunk of [160, 170, 180]) void one.need(chunk).catch(() => undefined)
    t.equal(asked.length, before + 3, 'however much is under way')
  }
})
