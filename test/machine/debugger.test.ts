// A machine under a debugger, and gdb's protocol. Breakpoints need a whole KVM: test/rig/debugger.test.ts.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import path from 'node:path'
import t from 'tap'
import { Recording } from '../../lib/eventlog/index.js'
import { Debugger, GdbServer, type Machine } from '../../lib/machine/index.js'
import { code, guest, noKvm as skip, scratch } from './support.js'

for (const board of ['deterministic', 'standard'] as const) {
  t.test(`steps, registers and memory, ${board}`, { skip }, async t => {
    const machine = await guest(t, 'hello', '', { board })
    const debug = await Debugger.attach(machine)
    const begin = (await debug.registers()).regs.rip
    t.strictSame(await debug.step(), { why: 'step', vcpu: 0 })
    const next = (await debug.registers()).regs.rip
    t.not(next, begin, 'it has gone on')
    t.ok(next - begin < 16n, 'by one instruction')

    await debug.setRegisters({ rax: 0x1234_5678_9abcn, r15: 7n })
    t.match((await debug.registers()).regs, { rax: 0x1234_5678_9abcn, r15: 7n, rip: next })

    const code0 = await debug.read(begin, 64)
    await debug.setBreakpoint(begin + 20n)
    await debug.setBreakpoint(begin + 20n)
    t.strictSame(debug.breakpoints, [begin + 20n])
    if (!debug.stepping) t.equal(machine.memory.read(begin + 20n, 1)[0], 0xcc, 'it is in the memory')
    t.strictSame(await debug.read(begin, 64), code0, 'and is not shown')
    await debug.write(begin + 16n, Buffer.alloc(8, 0x90))
    if (!debug.stepping) t.equal(machine.memory.read(begin + 20n, 1)[0], 0xcc, 'also when written over')
    t.equal(debug.clearBreakpoint(begin + 20n), true)
    t.equal(debug.clearBreakpoint(begin + 20n), false)
    t.equal(machine.memory.read(begin + 20n, 1)[0], 0x90)
    await debug.write(begin, code0)

    await t.rejects(debug.setBreakpoint(0xf000_0000n), code('ERANGE'), 'no RAM there')
    await t.rejects(debug.read(0xf000_0000n, 4), code('ERANGE'))
    await t.rejects(debug.setBreakpoint(-1n), code('EINVAL'))
    await t.rejects(debug.step(1), code('ERANGE'))

    await debug.setRegisters({ rax: 0n, r15: 0n, rip: next })
    t.strictSame(await debug.run(), { why: 'ended', vcpu: 0 })
    t.equal(machine.console.text, 'hello from hypertwin\nticks 5\n', 'the guest does not notice')
    await t.rejects(debug.step(), code('BAD_STATE'))
    await debug.close()
    await debug.close()
    await t.rejects(Debugger.attach(machine), code('BAD_STATE'))
  })

  t.test(`a running machine is paused by who attaches, and by an aborted run, ${board}`, { skip }, async t => {
    const machine = await guest(t, 'hello', 'ticks=1000000', { board })
    await machine.start()
    await using debug = await Debugger.attach(machine)
    t.equal(machine.state, 'paused')
    const signal = AbortSignal.timeout(50)
    t.match(await debug.run({ signal }), { why: 'paused' })
    t.equal(machine.state, 'paused')
    t.match(await debug.run({ signal }), { why: 'paused' }, 'a signal that is aborted already')
    await machine.resume()
    await t.rejects(debug.setBreakpoint(0x100000n), code('BAD_STATE'), 'it runs')
  })
}

t.test('what is recorded cannot be debugged, and the reverse', { skip }, async t => {
  const folder = scratch(t)
  const machine = await guest(t, 'hello', 'ticks=1000000')
  {
    await using recording = await Recording.start(machine, path.join(folder, 'log'))
    await machine.start()
    await t.rejects(Debugger.attach(machine), code('BAD_STATE'))
    t.equal(machine.state, 'running', 'and goes on')
    await recording.stop()
  }
  const debug = await Debugger.attach(machine)
  await t.rejects(Recording.start(machine, path.join(folder, 'second')), code('BAD_STATE'))
  await t.rejects(machine.snapshot(path.join(folder, 'snapshot')), code('BAD_STATE'))
  const running = debug.run({ signal: AbortSignal.timeout(50) })
  await t.rejects(Debugger.attach(machine), code('BAD_STATE'), 'by another')
  t.match(await running, { why: 'paused' }, 'whom the first does not notice')
  await debug.close()
  await machine.snapshot(path.join(folder, 'snapshot'))
})

t.test('what is taken away is what was put there', { skip }, async t => {
  const machine = await guest(t, 'hello', 'ticks=1000000')
  await machine.start()
  await machine.console.waitFor('hello from hypertwin\n')
  const debug = await Debugger.attach(machine)
  // The same memory a second time, in the address space's next 512 GiB.
  const tables = (await debug.registers()).sregs.cr3 & ~0xfffn
  machine.memory.write(tables + 8n, machine.memory.read(tables, 8))
  const [here, there] = [0xf0_0000n, 0x80_00f0_0000n]
  const before = Buffer.from('90919293', 'hex')
  machine.memory.write(here, before)
  const armed = debug.stepping ? before[0] : 0xcc

  await debug.setBreakpoint(here)
  await debug.setBreakpoint(there)
  t.strictSame(await debug.read(here, 4), before)
  t.strictSame(await debug.read(there, 4), before)
  t.equal(debug.clearBreakpoint(here), true)
  t.equal(machine.memory.read(here, 1)[0], armed, 'it is a breakpoint by its other address')
  await debug.write(here, Buffer.of(0x94))
  t.equal(machine.memory.read(here, 1)[0], debug.stepping ? 0x94 : 0xcc)
  await debug.setBreakpoint(here)
  await debug.setBreakpoint(here + 1n)
  // The guest uses the page for something else.
  machine.memory.write(here + 1n, Buffer.of(0x77))
  t.strictSame(await debug.read(there, 4), Buffer.from('94779293', 'hex'))

  // Once it fails; it is tried again.
  const memory = { ...machine.memory }
  machine.memory.write = () => {
    throw new Error('not now')
  }
  if (!debug.stepping) await t.rejects(debug.close(), { message: 'not now' })
  Object.assign(machine.memory, memory)
  await debug.close()
  t.strictSame(machine.memory.read(here, 4), Buffer.from('94779293', 'hex'))
  await (await Debugger.attach(machine)).close()
  await t.rejects(debug.setBreakpoint(here), code('CLOSED'))
})

/** The other end of gdb's protocol. */
class Client {
  #input = ''
  #wake: () => void = () => undefined
  closed = false

  constructor(readonly socket: Socket) {
    socket.on('data', data => {
      this.#input += data.toString('latin1')
      this.#wake()
    })
    socket.on('close', () => {
      this.closed = true
      this.#wake()
    })
    socket.on('error', () => undefined)
  }

  static async to(server: GdbServer): Promise<Client> {
    const [host = '', port] = server.address.split(':')
    const socket = connect(Number(port), host)
    await once(socket, 'connect')
    return new Client(socket)
  }

  async ask(body: string): Promise<string> {
    const sum = [...body].reduce((total, character) => (total + character.charCodeAt(0)) & 0xff, 0)
    this.socket.write(`$${body}#${sum.toString(16).padStart(2, '0')}`)
    for (;;) {
      const packet = /\+?\$([^#]*)#[0-9a-f]{2}/.exec(this.#input)
      if (packet) {
        this.#input = this.#input.slice(packet.index + packet[0].length)
        this.socket.write('+')
        return packet[1] ?? ''
      }
      if (this.closed) return 'closed'
      await new Promise<void>(resolve => (this.#wake = resolve))
    }
  }

  async end(): Promise<void> {
    while (!this.closed) await new Promise<void>(resolve => (this.#wake = resolve))
  }
}

async function served(t: Tap, machine: Machine): Promise<GdbServer> {
  const server = await GdbServer.listen(machine, { port: 0 })
  t.teardown(() => server.close())
  return server
}
type Tap = Parameters<typeof guest>[0]

t.test("gdb's protocol", { skip }, async t => {
  const machine = await guest(t, 'hello', 'ticks=1000000', { board: 'standard', vcpus: 2 })
  await machine.start()
  const server = await served(t, machine)
  const client = await Client.to(server)
  t.match(await client.ask('qSupported:multiprocess+'), /PacketSize=.*qXfer:features:read\+/)
  t.equal(machine.state, 'paused')
  t.match(await client.ask('?'), /^T02thread:1;$/)
  t.match(await client.ask('qXfer:features:read:target.xml:0,4000'), /^l<\?xml.*i386:x86-64/s)
  t.equal(await client.ask('qfThreadInfo'), 'm1,2')
  t.equal(await client.ask('qsThreadInfo'), 'l')
  t.equal(await client.ask('Hg2'), 'OK')
  t.equal(await client.ask('Hg3'), 'E01')
  t.equal(await client.ask('Hg1'), 'OK')
  const all = await client.ask('g')
  t.equal(all.length, 2 * (17 * 8 + 4 + 6 * 4 + 80 + 32))
  const { regs } = await machine.registers(0)
  t.equal(Buffer.from(all.slice(256, 272), 'hex').readBigUInt64LE(), regs.rip)
  t.equal(await client.ask('p10'), all.slice(256, 272))
  t.equal(await client.ask('P0=1122334455667788'), 'OK')
  t.equal(await client.ask('p0'), '1122334455667788')
  t.equal(await client.ask('P0=00'), 'E01')
  t.equal(await client.ask(`P0=${all.slice(0, 16)}`), 'OK')
  t.equal(await client.ask('m100000,4'), machine.memory.read(0x100000n, 4).toString('hex'))
  t.equal(await client.ask('mf0000000,4'), 'E01')
  t.equal(await client.ask('mzz,4'), 'E01')
  t.equal(await client.ask('m0,ffffffffffff'), 'E01')
  t.equal(await client.ask('Mfff000,2:abcd'), 'OK')
  t.equal(machine.memory.read(0xfff000n, 2).toString('hex'), 'abcd')
  t.equal(await client.ask('Mfff000,3:abcd'), 'E01')
  t.equal(await client.ask('Z0,100000,1'), 'OK')
  t.equal(await client.ask('z0,100000,1'), 'OK')
  t.equal(await client.ask('Z1,100000,1'), '', 'no hardware breakpoints')
  t.equal(await client.ask('vCont?'), 'vCont;c;C;s;S')
  t.equal(await client.ask('nonsense'), '')
  t.equal(await client.ask('vFile:open'), '')
  const running = client.ask('vCont;c')
  while (machine.state !== 'running') await new Promise(resolve => setTimeout(resolve, 1))
  client.socket.write('\x03')
  t.match(await running, /^T02thread:/, 'interrupted')

  const second = await Client.to(server)
  await second.end()
  t.ok(second.closed, 'one gdb at a time')
  client.socket.write('$g#00')
  client.socket.write('+')
  t.match(await client.ask('?'), /^T02/, 'a wrong checksum is asked for again')

  t.equal(await client.ask('D'), 'OK')
  await client.end()
  await machine.waitFor('running')
  t.equal(machine.state, 'running', 'it goes on when gdb detaches')

  // One is let go of a moment after its connection has ended.
  const free = async () => {
    while (server.attached) await new Promise(resolve => setTimeout(resolve, 1))
  }
  await free()
  const third = await Client.to(server)
  await third.ask('?')
  third.socket.destroy()
  await machine.waitFor('running')
  await free()
  const fourth = await Client.to(server)
  await fourth.ask('?')
  fourth.socket.write('rubbish without end')
  await fourth.end()
  await free()
  const fifth = await Client.to(server)
  t.match(await fifth.ask('?'), /^T02/)
  const last = fifth.ask('k')
  await machine.waitFor('stopped')
  await last
})

t.test('where it cannot listen', { skip }, async t => {
  const machine = await guest(t, 'hello')
  const server = await served(t, machine)
  await t.rejects(GdbServer.listen(machine, { port: Number(server.address.split(':')[1]) }), code('EADDRINUSE'))
  await t.rejects(GdbServer.listen(machine, { path: '/no/such/folder/socket' }), { code: /^(ENOENT|EACCES)$/ })
  await t.rejects(GdbServer.listen(machine, {} as { port: number }), code('EINVAL'))
})
