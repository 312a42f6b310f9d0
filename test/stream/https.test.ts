// Over HTTPS: whose certificate is trusted, and which redirections are followed.
import { readFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import t, { type Test } from 'tap'
import { ImageStream } from '../../lib/stream/index.js'
import { certificates, noOpenssl } from '../arbiter/support.js'
import { CHUNK, code, noise, packed, scratch, WebServer, type Asked } from './support.js'

/** Two servers of one pack, over HTTP and over HTTPS, and the authority that vouches for the latter. */
async function servers(t: Test): Promise<{ plain: WebServer; secure: WebServer; ca: Buffer; otherCa: Buffer; bytes: Buffer }> {
  const { folder, bytes } = await packed(t, noise(10 * CHUNK, 'https'))
  const made = certificates(scratch(t))
  const other = certificates(scratch(t), 'other')
  const secure = await WebServer.start(t, folder, { cert: readFileSync(made.cert), key: readFileSync(made.key) })
  const plain = await WebServer.start(t, folder)
  return { plain, secure, ca: readFileSync(made.ca), otherCa: readFileSync(other.ca), bytes }
}

const to =
  (server: WebServer) =>
  ({ name }: Asked, response: ServerResponse): boolean => {
    response.writeHead(307, { location: server.url + name }).end()
    return true
  }

t.test('a certificate is trusted by its authority alone', { skip: noOpenssl }, async t => {
  const { secure, ca, otherCa, bytes } = await servers(t)
  const open = (options: object) => ImageStream.open(secure.url, { cache: scratch(t), ...options })
  await t.rejects(open({}), code('SOURCE_UNREACHABLE'), 'the system’s authorities do not know it')
  await t.rejects(open({ ca: otherCa }), { code: 'SOURCE_UNREACHABLE', message: /certificate/ }, 'nor does another one')
  t.equal(secure.asked.length, 0, 'nothing was asked of it')
  for (const trusted of [ca, ca.toString()]) {
    const stream = await open({ ca: trusted })
    t.ok((await stream.read(0, bytes.length)).equals(bytes))
    await stream.close()
  }
})

t.test('a certificate for another name is not trusted', { skip: noOpenssl }, async t => {
  const { secure, ca } = await servers(t)
  const elsewhere = secure.url.replace('127.0.0.1', '127.0.0.2')
  const there = new WebServer(secure.folder, '127.0.0.2', secure.tls)
  there.port = secure.port
  await there.listen()
  t.teardown(() => there.stop())
  await t.rejects(ImageStream.open(elsewhere, { cache: scratch(t), ca }), code('SOURCE_UNREACHABLE'))
  t.equal(there.asked.length, 0)
})

t.test('redirected to HTTPS, not away from it', { skip: noOpenssl }, async t => {
  const { plain, secure, ca, bytes } = await servers(t)
  plain.trouble = to(secure)
  const stream = await ImageStream.open(plain.url, { cache: scratch(t), ca })
  t.ok((await stream.read(0, bytes.length)).equals(bytes))
  await stream.close()
  t.ok(secure.asked.length > 0)

  plain.trouble = () => false
  const before = plain.asked.length
  secure.trouble = to(plain)
  await t.rejects(ImageStream.open(secure.url, { cache: scratch(t), ca }), { code: 'SOURCE_REFUSED', message: /not followed/ })
  secure.trouble = (_, response) => {
    response.writeHead(302, { location: 'file:///etc/passwd' }).end()
    return true
  }
  await t.rejects(ImageStream.open(secure.url, { cache: scratch(t), ca }), { code: 'SOURCE_REFUSED', message: /not followed/ })
  t.equal(plain.asked.length, before)
  secure.trouble = to(secure)
  await t.rejects(ImageStream.open(secure.url, { cache: scratch(t), ca }), { code: 'SOURCE_REFUSED', message: /again and again/ })
})
