// What happens when a side dies, or the arbiter: a primary in another process, killed; claims lost; nobody reached.
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { Hub, HubPlug } from '../../lib/cli/demo/hub.js'
import { MailroomClient } from '../../lib/cli/mailroom/client.js'
import { FrameLink } from '../../lib/cli/mailroom/link.js'
import { MailLoad } from '../../lib/cli/mailroom/load.js'
import { MAILROOM_PORT } from '../../lib/cli/mailroom/protocol.js'
import { Command, endless, guest, Holder, hypertwin, noKvm as skip, protection, scratch, standby, TestArbiter, Told } from './support.js'

function claimsIn(folder: string): string {
  const claims = path.join(folder, 'claims')
  mkdirSync(claims)
  return claims
}

t.test('the primary is killed: users go on, nothing acknowledged is lost, a new backup joins', { skip }, async t => {
  const folder = scratch(t)
  const claims = claimsIn(folder)
  const arbiter = new FileArbiter(claims)
  const socket = path.join(folder, 'hub.sock')
  const hub = await Hub.listen(socket)
  t.teardown(() => hub.close())
  const next = await standby(t, { arbiter, disks: [path.join(folder, 'third.img')], taps: [null] })
  const there = await standby(t, {
    arbiter,
    disks: [path.join(folder, 'second.img')],
    taps: [null],
    pool: next.listen,
    protection: { retry: { firstMs: 20 } }
  })
  const holder = await Holder.start(t, {
    backup: [there.listen],
    claims,
    mailroom: { disk: path.join(folder, 'first.img'), hub: socket }
  })
  const link = new FrameLink(hub, { guestPort: MAILROOM_PORT })
  const client = new MailroomClient(link, { timeout: 'adaptive', attempts: 2000 })
  t.teardown(() => client.close())
  await link.ready(30_000)
  const load = new MailLoad(client, { users: 8 })
  await load.login()
  load.start()
  while (load.operations < 300) await new Promise(resolve => setTimeout(resolve, 5))
  const plug = await HubPlug.connect(socket)
  const told = new Told(there)
  holder.child.kill('SIGKILL')
  const machine = await there.live
  plug.plugIn(machine.net(0))
  t.match(there.timeline(), { cause: 'PEER_LOST', detected: Number, claimed: Number, replayed: Number, live: Number })
  const { detected = 0, claimed = 0, replayed = 0, live = 0 } = there.timeline() ?? {}
  t.ok(detected <= claimed && claimed <= replayed && replayed <= live, 'in this order')
  const before = load.operations
  while (load.operations < before + 300) await new Promise(resolve => setTimeout(resolve, 5))
  await there.protection?.ready
  await next.waitFor('protected')
  t.match(there.status(), { role: 'primary', state: 'protected', failovers: 1, failover: { cause: 'PEER_LOST' } })
  await told.find('state', event => event.role === 'primary' && event.state === 'protected')
  // And the planned way.
  await load.stop()
  t.match(await load.verify(), { lost: 0, surplus: 0 })
  await there.protection?.handOver()
  const third = await next.live
  plug.plugIn(third.net(0))
  t.match(await load.verify(), { lost: 0, surplus: 0 })
  t.match(machine, { state: 'stopped', reason: 'handed-over' })
})

t.test('hypertwin backup: follows, goes live, protects itself again, hands over when it is interrupted', { skip }, async t => {
  const folder = scratch(t)
  const claims = claimsIn(folder)
  const last = await standby(t, { arbiter: new FileArbiter(claims) })
  const command = new Command(t, [
    ...['backup', '--listen', 'tcp://127.0.0.1:0', '--arbiter', `file:${claims}`, '--silence', '2000'],
    ...['--pool', last.listen, '--status', '127.0.0.1:0', '--name', 'second']
  ])
  const { listen, status } = (await command.line(line => line['type'] === 'listening')) as { listen: string; status: string }
  t.match(hypertwin('ha', 'status', status), { status: 0, stdout: /second: backup, listening/ })
  const holder = await Holder.start(t, { backup: [listen], claims })
  await command.line(line => line['state'] === 'protected' && line['role'] === 'backup')
  t.match(hypertwin('ha', 'status', status).stdout, /second: backup, protected/)
  holder.child.kill('SIGKILL')
  await command.line(line => line['state'] === 'live')
  t.match(await command.line(line => line['type'] === 'failover'), { timeline: { cause: 'PEER_LOST', boundary: Number } })
  await command.line(line => line['state'] === 'protected' && line['role'] === 'primary')
  const shown = hypertwin('ha', 'status', status, '--json')
  t.match(JSON.parse(shown.stdout), {
    sources: [{ name: 'second', role: 'primary', state: 'protected', failovers: 1, machine: { state: 'running' } }]
  })
  command.child.kill('SIGTERM')
  t.equal(await command.closed, 0, command.stderr)
  t.match(command.lines.at(-1), { type: 'ended', state: 'stopped', reason: 'handed-over' })
  t.match(await last.live, { state: 'running' })
})

t.test('hypertwin backup, interrupted while it waits', { skip }, async t => {
  const command = new Command(t, ['backup', '--listen', 'tcp://127.0.0.1:0', '--arbiter', `file:${scratch(t)}`])
  await command.line(line => line['type'] === 'listening')
  command.child.kill('SIGINT')
  t.equal(await command.closed, 130, command.stderr)
})

t.test('a backup that is stopped and goes on: it lost the claim', { skip }, async t => {
  const folder = scratch(t)
  const claims = claimsIn(folder)
  const command = new Command(t, [
    ...['backup', '--listen', 'tcp://127.0.0.1:0', '--arbiter', `file:${claims}`, '--silence', '200']
  ])
  const { listen } = (await command.line(line => line['type'] === 'listening')) as { listen: string }
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, {
    backup: listen,
    arbiter: new FileArbiter(claims),
    heartbeat: { intervalMs: 20, minTimeoutMs: 200, maxTimeoutMs: 1000 },
    reprotect: false
  })
  const told = new Told(here)
  await here.ready
  command.child.kill('SIGSTOP')
  t.match(await told.find('state', event => event.state === 'suspecting'), { code: 'HEARTBEAT', message: /nothing was heard/ })
  await told.find('state', event => event.state === 'unprotected')
  t.equal(machine.state, 'running')
  const { timeline } = await told.find('failover')
  t.match(timeline, { cause: 'HEARTBEAT', detected: Number, claimed: Number })
  command.child.kill('SIGCONT')
  await command.line(line => line['state'] === 'halted' && line['code'] === 'LOST_CLAIM')
  // It waits for the next primary.
  await command.line(line => line['state'] === 'listening' && line['code'] === 'NEXT')
})

t.test('a primary that is stopped and goes on is fenced', { skip }, async t => {
  const claims = claimsIn(scratch(t))
  const there = await standby(t, {
    arbiter: new FileArbiter(claims),
    heartbeat: { intervalMs: 20, minTimeoutMs: 200, maxTimeoutMs: 1000 }
  })
  const holder = await Holder.start(t, {
    backup: [there.listen],
    claims,
    options: { heartbeat: { intervalMs: 20, minTimeoutMs: 200, maxTimeoutMs: 1000 } }
  })
  holder.child.kill('SIGSTOP')
  const machine = await there.live
  t.equal(there.timeline()?.cause, 'HEARTBEAT')
  holder.child.kill('SIGCONT')
  t.match(await holder.state('halted'), { code: 'LOST_CLAIM', message: /took over/ })
  t.match(await holder.until(said => said.type === 'machine' && said.state === 'stopped' && said), { reason: 'fenced' })
  t.equal(machine.state, 'running')
})

t.test('the arbiter does not answer: nobody takes a risk, until it does', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const between = await relay(t, there.listen)
  const here = await protection(t, machine, { backup: between.address, arbiter, reprotect: false })
  await here.ready
  await there.waitFor('protected')
  const [told, toldThere] = [new Told(here), new Told(there)]
  arbiter.out = true
  between.cut()
  t.match(await told.find('state', event => event.state === 'waiting'), { code: 'ARBITER_UNREACHABLE' })
  await toldThere.find('state', event => event.state === 'waiting')
  t.match(machine, { state: 'paused', reason: 'in-doubt' })
  t.equal(there.machine, undefined)
  arbiter.out = false
  await Promise.race([there.live, told.find('state', event => event.state === 'unprotected')])
  const won = [...arbiter.won.values()][0]
  if (won === 'backup') {
    t.match(await there.live, { state: 'running' })
    await machine.waitFor('stopped')
    t.equal(machine.reason, 'fenced')
  } else {
    await machine.waitFor('running')
    await toldThere.find('state', event => event.state === 'halted')
  }
  t.equal(arbiter.won.size, 1)
})

t.test('a standby that is closed while it claims goes live first, and its machine stays', { skip }, async t => {
  const arbiter = new TestArbiter()
  let tell!: () => void
  let claimed!: () => void
  const told = new Promise<void>(resolve => (tell = resolve))
  const asked = new Promise<void>(resolve => (claimed = resolve))
  // The claim succeeds at once; its answer comes later.
  const late = {
    async claim(key: string, who: string) {
      const claim = await arbiter.claim(key, who)
      claimed()
      await told
      return claim
    }
  }
  const there = await standby(t, { arbiter: late })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  await here.ready
  const handed = here.handOver()
  await asked
  const closing = there.close()
  const first = await Promise.race([closing.then(() => 'closed'), new Promise(resolve => setTimeout(resolve, 500, 'waits'))])
  t.equal(first, 'waits')
  tell()
  const survivor = await there.live
  await closing
  await handed
  t.equal(there.machine, survivor)
  t.match(survivor, { state: 'running' })
  t.match(machine, { state: 'stopped', reason: 'handed-over' })
  const { boundary } = survivor
  while (survivor.boundary <= boundary + 5n) await new Promise(resolve => setImmediate(resolve))
})

/** Between the two sides; cut() breaks it, so that both lose each other at once. */
async function relay(t: Test, target: string): Promise<{ address: string; cut: () => void }> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    const onward = connect(Number(target.split(':').at(-1)), '127.0.0.1')
    for (const one of [socket, onward]) {
      one.setNoDelay().on('error', () => undefined)
      sockets.add(one)
    }
    socket.pipe(onward)
    onward.pipe(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  t.teardown(cut)
  return { address: `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`, cut }
}
