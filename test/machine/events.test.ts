// What a machine tells: states, console, markers and packets, each bounded.
import t from 'tap'
import type { MachineEvent } from '../../lib/machine/index.js'
import { code, guest, noKvm as skip } from './support.js'

t.test('events from the first to the last', { skip }, async t => {
  const machine = await guest(t, 'hello')
  const events: MachineEvent[] = []
  const done = (async () => {
    for await (const event of machine.events()) events.push(event)
  })()
  await machine.start()
  await done
  const states = events.filter(event => event.type === 'state')
  t.strictSame(
    states.map(event => `${event.state} ${event.reason}`),
    ['created none', 'running requested', 'stopped power-off']
  )
  t.equal(states.at(-1)?.boundary, machine.boundary)
  const console = events.filter(event => event.type === 'console')
  t.equal(console.map(event => event.text).join(''), machine.console.text)
  t.equal(Buffer.concat(console.map(event => event.bytes)).toString(), machine.console.text)
  const later = []
  for await (const event of machine.events()) later.push(event)
  t.match(later, [{ type: 'state', state: 'stopped' }], 'an ended machine tells its state alone')
})

t.test('a full buffer drops the oldest, counts them, and keeps the states', { skip }, async t => {
  // Each round is a marker; nobody iterates meanwhile.
  const machine = await guest(t, 'dirtier', 'pages=8 base=8M count=1 rounds=3000')
  const events = machine.events({ limit: 16 })
  const all = machine.events({ limit: 100_000 })
  await machine.start()
  await machine.waitFor('stopped')
  const kept: MachineEvent[] = []
  for await (const event of events) kept.push(event)
  const whole: MachineEvent[] = []
  for await (const event of all) whole.push(event)
  t.ok(kept.length <= 20, `${kept.length} of ${whole.length} kept`)
  const dropped = kept.find(event => event.type === 'dropped')
  t.ok(dropped)
  t.equal(dropped?.type === 'dropped' && dropped.count + kept.length - 1, whole.length, 'each is kept or counted')
  t.strictSame(
    kept.filter(event => event.type === 'state').map(event => event.state),
    ['created', 'running', 'stopped']
  )
  const markers = whole.filter(event => event.type === 'marker').map(event => event.value)
  t.strictSame(markers, Array.from({ length: 3000 }, (_, i) => i + 1), 'every marker, in order')
})

t.test('the console both ways', { skip }, async t => {
  const machine = await guest(t, 'dirtier', 'pages=8 base=8M count=1 rounds=1 stay=1')
  await machine.start()
  await machine.console.waitFor('dirtier done 1\n')
  t.ok(machine.console.write('rounds=2\n'))
  const seen = await machine.console.waitFor(/dirtier done (2|3)\n/)
  t.match(seen, /done 1\n[^]*done [23]\n$/)
  const waiting = t.rejects(machine.console.waitFor('never this'), { code: 'FINAL_STATE', message: /never this/ })
  await machine.stop()
  await waiting
  const pieces = []
  for await (const piece of machine.console.output()) pieces.push(piece)
  t.strictSame(pieces, [], 'nothing comes any more')
})

/** An ARP request for the mailroom's address. */
function arp(): Buffer {
  return Buffer.from(
    'ffffffffffff' + '026874000001' + '0806' + '0001080006040001' + '026874000001' + '0a4d0001' + '000000000000' + '0a4d0002' + '00'.repeat(18),
    'hex'
  )
}

t.test('packets in and out', { skip }, async t => {
  const machine = await guest(t, 'mailroom', 'disk=0', { nets: [{ mac: '52:54:00:aa:bb:cc' }] })
  const port = machine.net(0)
  t.equal(port.mac, '52:54:00:aa:bb:cc')
  await machine.start()
  await machine.console.waitFor('mailroom ready')
  const batches = port.packets()
  t.throws(() => port.packets(), code('BUSY'))
  t.throws(() => port.onPackets(() => {}), code('BUSY'))
  t.equal(port.send(arp()), 1)
  const first = await batches.next()
  const answer = (first.value as Buffer[])[0]!
  t.equal(answer.toString('hex', 0, 14), '026874000001' + '525400aabbcc' + '0806')
  t.equal(answer.readUInt16BE(20), 2, 'an ARP reply')
  await batches.return?.()

  let got = 0
  const enough = new Promise<void>(resolve => {
    const end = port.onPackets(packets => {
      got += packets.length
      if (got === 100) {
        end()
        resolve()
      }
    })
  })
  t.equal(port.send(Array.from({ length: 100 }, arp)), 100)
  await enough
  t.equal(got, 100)
  t.ok(machine.counters().packetsIn >= 101n)
  t.equal(machine.counters().packetsOut, 101n)

  const abort = new AbortController()
  const waiting = port.packets({ signal: abort.signal }).next()
  abort.abort(new Error('enough'))
  await t.rejects(waiting, /enough/)
  const last = port.packets().next()
  await machine.stop()
  t.match(await last, { done: true }, 'a stopped machine sends nothing')
})

t.test('nobody takes the packets: the oldest are dropped and counted', { skip }, async t => {
  const machine = await guest(t, 'mailroom', 'disk=0', { nets: [{}] })
  await machine.start()
  await machine.console.waitFor('mailroom ready')
  const port = machine.net(0)
  const total = 6000
  for (let sent = 0; sent < total; ) {
    sent += port.send(Array.from({ length: Math.min(200, total - sent) }, arp))
    // The guest's answers are the clock: a batch is answered before the next.
    while (machine.counters().packetsOut < BigInt(sent) && machine.state === 'running')
      await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(port.dropped, BigInt(total - 4096))
  t.equal(port.take().length, 4096)
  t.strictSame(port.take(), [])
})

t.test('a full mailbox pushes back', { skip }, async t => {
  const machine = await guest(t, 'mailroom', 'disk=0', { nets: [{}] })
  // Nobody takes packets out of a machine that is not running.
  const accepted = machine.net(0).send(Array.from({ length: 5000 }, arp))
  t.equal(accepted, 4096)
  t.equal(machine.net(0).send(arp()), 0)
})
