// Slow links: never faster than they are said to be. How much slower this machine makes them is nobody's promise.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { networkInterfaces } from 'node:os'
import process from 'node:process'
import t, { type Test } from 'tap'
import { slowLink, whyNoLinks, type SlowLink } from '../../scripts/link/index.mjs'
import { limit } from '../patience.js'

const BYTES = 250_000
const PORT = 7000
// Takes so many bytes, then gives as many.
const server = `
require('net').createServer(socket => {
  let came = 0
  socket.on('data', piece => (came += piece.length) === ${BYTES} && socket.end(Buffer.alloc(${BYTES}, 'y')))
}).listen(${PORT}, () => console.log('listening'))`

async function serve(t: Test, link: SlowLink): Promise<void> {
  const [command, ...args] = link.command(process.execPath, '-e', server)
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}

/** As much up as then down: when it was connected, and when all had come, in milliseconds from the start on. */
async function exchange(t: Test, address: string): Promise<{ connected: number; came: number }> {
  const begun = performance.now()
  const socket = connect(PORT, address)
  await once(socket, 'connect')
  const connected = performance.now() - begun
  socket.write(Buffer.alloc(BYTES, 'x'))
  let came = 0
  for await (const piece of socket) came += (piece as Buffer).length
  t.equal(came, BYTES)
  return { connected, came: performance.now() - begun }
}

t.test('a link has its round trip and no more than its rate', { skip: await whyNoLinks(), timeout: limit(60_000) }, async t => {
  const [slow, far] = [await slowLink({ mbit: 8, roundTripMs: 10 }), await slowLink({ mbit: 100, roundTripMs: 120 })]
  for (const link of [slow, far]) await serve(t, link)
  t.not(slow.far, far.far)
  // Up, and then down: 250 ms each at 8 Mb/s, 20 ms at 100; before each the link is crossed once to and fro.
  const [atSlow, atFar] = [await exchange(t, slow.far), await exchange(t, far.far)]
  t.ok(atSlow.connected >= 10, `connected after ${atSlow.connected} ms`)
  t.ok(atSlow.came >= 10 + 250 + 250 + 10, `all came after ${atSlow.came} ms`)
  t.ok(atFar.connected >= 120, `connected after ${atFar.connected} ms`)
  t.ok(atFar.came >= 120 + 20 + 20 + 120, `all came after ${atFar.came} ms`)
  for (const link of [slow, far]) await link.close()
  const addresses = Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address))
  t.notOk(addresses.includes(slow.near) || addresses.includes(far.near), 'nothing is left of them')
})
