// The arbiter in etcd, with Debian's etcd-server: one winner, whatever etcd goes through.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { EtcdArbiter } from '../../lib/arbiter/index.js'
import { code, scratch } from '../machine/support.js'
import { limit } from '../patience.js'
import { certificates, Etcd, noEtcd as skip, noOpenssl } from './support.js'

t.test('one wins, for ever', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  await using source = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000) })
  await using destination = new EtcdArbiter({ hosts: [etcd.url], timeoutMs: limit(3000) })
  t.equal(await source.prepare(), true)
  t.equal(await source.claim('abc', 'source'), 'won')
  t.equal(await destination.claim('abc', 'destination'), 'lost')
  t.equal(await source.claim('abc', 'source'), 'won', 'again')
  t.equal(await destination.claim('def', 'destination'), 'won', 'another session')
  await using others = new EtcdArbiter({ hosts: etcd.url, prefix: 'elsewhere/', timeoutMs: limit(3000) })
  t.equal(await others.claim('abc', 'destination'), 'won', 'another prefix')
  await source.close()
  await t.rejects(source.claim('abc', 'source'), code('CLOSED'))
})

t.test('two claim 1000 keys at once: each has exactly one winner', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  await using source = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000) })
  await using destination = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000) })
  const wins = [0, 0]
  let wrong = 0
  for (let batch = 0; batch < 1000; batch += 50)
    await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        const ask = [() => source.claim(`key${batch + i}`, 'source'), () => destination.claim(`key${batch + i}`, 'destination')]
        const asked = i % 2 ? ask.map(one => one()) : ask.toReversed().map(one => one()).toReversed()
        const [first, second] = await Promise.all(asked)
        if (first === 'won') wins[0]!++
        if (second === 'won') wins[1]!++
        if (`${first} ${second}` !== 'won lost' && `${first} ${second}` !== 'lost won') wrong++
      })
    )
  t.equal(wrong, 0)
  t.equal(wins[0]! + wins[1]!, 1000)
  t.ok(wins[0]! > 0 && wins[1]! > 0, `both won some: ${wins.join(' and ')}`)
})

t.test('etcd stops in the middle of a claim, and goes on', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  await using source = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(500) })
  await using destination = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(10_000) })
  t.ok((await source.prepare()) && (await destination.prepare()))
  etcd.process?.kill('SIGSTOP')
  t.equal(await source.claim('abc', 'source'), 'unreachable', 'no answer')
  t.match(source.lastError, Error)
  const asked = [destination.claim('abc', 'destination'), source.claim('def', 'source')]
  etcd.process?.kill('SIGCONT')
  const [answer] = await Promise.all(asked)
  // The claim without an answer may have arrived: then it counts.
  const again = await until(() => source.claim('abc', 'source'))
  t.strictSame([again, answer].toSorted(), ['lost', 'won'])
  t.equal(await until(() => source.claim('def', 'source')), 'won')
})

t.test('etcd is killed in the middle of claims, and started again', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  await using source = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(1000) })
  await using destination = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(1000) })
  t.equal(await source.claim('before', 'source'), 'won')
  const keys = Array.from({ length: 200 }, (_, i) => `key${i}`)
  let kill: Promise<void> | undefined
  let answers = 0
  const first = await Promise.all(
    keys.map(async key => {
      const claim = await source.claim(key, 'source')
      if (++answers === 10) kill = etcd.kill()
      return claim
    })
  )
  await kill
  t.equal(await destination.claim('key0', 'destination'), 'unreachable')
  t.equal(await destination.prepare(), false)
  t.notOk(first.includes('lost'))
  t.comment(`${first.filter(claim => claim === 'won').length} of 200 were answered before the end`)
  await etcd.start()
  t.equal(await until(() => destination.claim('before', 'destination')), 'lost')
  let wrong = 0
  for (const [i, key] of keys.entries()) {
    const claim = await until(() => destination.claim(key, 'destination'))
    // What was won stays won; what nobody heard of belongs to one of them.
    if (first[i] === 'won' && claim !== 'lost') wrong++
    if ((await until(() => source.claim(key, 'source'))) === claim) wrong++
  }
  t.equal(wrong, 0)
})

t.test('TLS with client certificates, and users', { skip: skip || noOpenssl }, async t => {
  const folder = scratch(t)
  const mine = certificates(folder)
  const foreign = certificates(folder, 'foreign')
  const etcd = await Etcd.start(
    t,
    folder,
    ['--cert-file', mine.cert, '--key-file', mine.key, '--trusted-ca-file', mine.ca, '--client-cert-auth'],
    'https'
  )
  const read = (files: { ca: string; cert: string; key: string }) => ({
    ca: readFileSync(files.ca),
    cert: readFileSync(files.cert, 'utf8'),
    key: readFileSync(files.key)
  })
  await using right = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000), tls: read(mine) })
  t.equal(await right.claim('abc', 'source'), 'won')
  await using stranger = new EtcdArbiter({ hosts: etcd.url, timeoutMs: 1000, tls: { ...read(foreign), ca: read(mine).ca } })
  t.equal(await stranger.claim('abc', 'source'), 'unreachable', 'a certificate by another authority')
  await using mistrusting = new EtcdArbiter({ hosts: etcd.url, timeoutMs: 1000, tls: { ...read(mine), ca: read(foreign).ca } })
  t.equal(await mistrusting.claim('abc', 'source'), 'unreachable', "a server by another authority")
})

t.test('users', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  const { Etcd3 } = await import('etcd3')
  const admin = new Etcd3({ hosts: etcd.url })
  const role = await admin.role('root').create()
  await (await admin.user('root').create('secret')).addRole(role)
  await admin.auth.authEnable()
  admin.close()
  await using right = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000), auth: { username: 'root', password: 'secret' } })
  t.equal(await right.claim('abc', 'source'), 'won')
  await using wrong = new EtcdArbiter({ hosts: etcd.url, timeoutMs: 1000, auth: { username: 'root', password: 'guess' } })
  t.equal(await wrong.claim('abc', 'destination'), 'unreachable')
  await using nobody = new EtcdArbiter({ hosts: etcd.url, timeoutMs: 1000 })
  t.equal(await nobody.claim('abc', 'destination'), 'unreachable')
})

t.test('what is no claim is unreachable', { skip }, async t => {
  const etcd = await Etcd.start(t, scratch(t))
  const { Etcd3 } = await import('etcd3')
  const client = new Etcd3({ hosts: etcd.url })
  await using arbiter = new EtcdArbiter({ hosts: etcd.url, timeoutMs: limit(3000) })
  for (const [key, value] of Object.entries({ empty: '', torn: '{"win', other: '{}', nothing: 'null' })) {
    await client.put(`hypertwin/claims/${key}`).value(value)
    t.equal(await arbiter.claim(key, 'source'), 'unreachable', key)
  }
  client.close()
})

t.test('arguments', async t => {
  for (const hosts of ['', [], 'localhost:2379', 'http://a/b', ['http://a:1', 'https://b:1'], undefined, 7])
    t.throws(() => new EtcdArbiter({ hosts: hosts as string }), code('EINVAL'), String(hosts))
  t.throws(() => new EtcdArbiter({ hosts: 'http://a:1', timeoutMs: NaN }), code('EINVAL'))
  t.throws(() => new EtcdArbiter({ hosts: 'http://a:1', tls: { ca: '' } }), code('EINVAL'))
  t.throws(() => new EtcdArbiter(undefined as never), code('EINVAL'))
  await using nowhere = new EtcdArbiter({ hosts: 'http://127.0.0.1:1', timeoutMs: 2000 })
  await t.rejects(nowhere.claim('../x', 'source'), code('EINVAL'))
  t.equal(await nowhere.claim('abc', 'source'), 'unreachable')
  await nowhere.close()
  await nowhere.close()
})

/** Asks until somebody knows. */
async function until<T extends string>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    const answer = await ask()
    if (answer !== 'unreachable') return answer
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}
