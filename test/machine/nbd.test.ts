// Disks on NBD servers: nbdkit's, while it serves, stops, dies and comes back; with a guest of ours on both boards.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { connectMailroom } from '../../lib/cli/mailroom/boot.js'
import type { MailroomClient } from '../../lib/cli/mailroom/client.js'
import { Recording, Replay } from '../../lib/eventlog/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine, type DiskOptions, type MachineBoard, type MachineEvent } from '../../lib/machine/index.js'
import { NbdKit, noNbdkit } from '../nbdkit.js'
import { limit } from '../patience.js'
import { code, guest, noKvm, scratch, Talking } from './support.js'

const size = 8 << 20
const skip = noKvm || noNbdkit

/** What is told of the machine's disks. */
function notes(machine: Machine): AsyncGenerator<Extract<MachineEvent, { type: 'disk' }>> {
  // From now on, not from the first that is waited for.
  const events = machine.events()
  return (async function* () {
    for await (const event of events) if (event.type === 'disk') yield event
  })()
}

/** One whose file is empty. */
function blank(t: Test, options: readonly string[] = [], parameters: readonly string[] = []): NbdKit {
  const image = path.join(scratch(t), 'image')
  writeFileSync(image, '')
  truncateSync(image, size)
  return new NbdKit(t, image, options, parameters)
}

async function mailroom(t: Test, board: MachineBoard, disk: DiskOptions): Promise<{ machine: Machine; client: MailroomClient }> {
  const machine = await guest(t, 'mailroom', '', { board, memory: '32MiB', disks: [disk], nets: [{}] })
  await machine.start()
  const client = await connectMailroom(machine)
  t.teardown(() => client.close())
  return { machine, client }
}

async function send(client: MailroomClient, mails: number): Promise<void> {
  const user = client.user(1)
  if (user.session === 0) await user.login()
  for (let i = 0; i < mails; i++) await user.send(2, Buffer.from(`mail ${i}`))
}

for (const board of ['deterministic', 'standard'] as const) {
  t.test(`${board}: what a guest has written is on the server, and read again by the next one`, { skip }, async t => {
    const server = await blank(t).start()
    const first = await mailroom(t, board, { path: server.uri })
    t.equal(first.machine.disks[0]?.size, size, 'the size is the server’s')
    await send(first.client, 20)
    const { digest } = await first.client.digest()
    first.client.close()
    await first.machine.close()
    t.ok(readFileSync(server.image).includes('mail 19'))
    const second = await mailroom(t, board, { path: server.uri })
    t.equal((await second.client.digest()).digest, digest)
  })

  t.test(`${board}: the server is killed under I/O and comes back`, { skip }, async t => {
    const server = await blank(t, ['--filter=delay'], ['delay-write=2ms']).start()
    const { machine, client } = await mailroom(t, board, { path: server.uri })
    for (let round = 0; round < 3; round++) {
      const sent = send(client, 30)
      await new Promise(resolve => setTimeout(resolve, 20))
      await server.kill()
      await new Promise(resolve => setTimeout(resolve, 50))
      await server.start()
      await sent
    }
    t.equal(machine.state, 'running')
    const { digest } = await client.digest()
    client.close()
    await machine.close()
    const again = await mailroom(t, board, { path: server.uri })
    t.equal((await again.client.digest()).digest, digest, 'nothing is lost')
  })

  t.test(`${board}: a server that stays away is an I/O error for the guest`, { skip }, async t => {
    const server = await blank(t).start()
    const { machine, client } = await mailroom(t, board, { path: server.uri, reconnectSeconds: 0 })
    await send(client, 1)
    await server.kill()
    const sent = send(client, 1).catch(() => undefined)
    await machine.console.waitFor('writing the disk failed')
    client.close()
    await sent
  })

  t.test(`${board}: what becomes of the server is told`, { skip }, async t => {
    const server = await blank(t).start()
    const { machine, client } = await mailroom(t, board, { path: server.uri, reconnectSeconds: limit(1000) / 1000 })
    const notices = notes(machine)
    const next = async () => (await notices.next()).value as unknown
    await server.kill()
    t.match(await next(), { disk: 0, link: 'lost', uri: server.uri, message: /^the disk nbd\+unix:\S+: .*(ended the connection|connection (failed|reset)|disconnect|Broken pipe)/i })
    t.match(await next(), { disk: 0, link: 'given-up', uri: server.uri, message: /sought for \d+ s.*fail until it is back\. .*No such file|refused/ })
    await server.start()
    t.match(await next(), { disk: 0, link: 'back', uri: server.uri })
    await send(client, 1)
    await server.kill()
    t.match(await next(), { link: 'lost' })
    const { image } = server
    truncateSync(image, size / 2)
    await server.start()
    t.match(await next(), { link: 'given-up', message: /another one of 4194304 bytes/ })
    await server.kill()
    truncateSync(image, size)
    await server.start()
    t.match(await next(), { link: 'back' })
    client.close()
    await machine.close()
    t.match(await notices.next(), { done: true }, 'a machine that ends loses no server')
  })

  t.test(`${board}: a server that never answers holds up neither pause, snapshot nor close`, { skip }, async t => {
    const server = await blank(t).start()
    const { machine, client } = await mailroom(t, board, { path: server.uri })
    await send(client, 1)
    await server.stop()
    const sent = send(client, 1).catch(() => undefined)
    await new Promise(resolve => setTimeout(resolve, 100))
    await machine.pause()
    const file = path.join(scratch(t), 'snapshot')
    await machine.snapshot(file)
    client.close()
    await sent
    await machine.close()
    t.pass('closed, after at most some seconds for the write that was under way')
    // The request that was in flight is submitted again, to another server.
    const other = await blank(t).start()
    server.goOn()
    writeFileSync(other.image, readFileSync(server.image))
    await using clone = await Machine.restore(file, { disks: [other.uri] })
    t.equal(clone.disks[0]?.path, other.uri)
    await clone.resume()
    const next = await connectMailroom(clone)
    await send(next, 3)
    next.close()
  })
}

t.test('what is read from a server is recorded, and replayed without it and what became of it', { skip }, async t => {
  const server = await blank(t).start()
  const folder = path.join(scratch(t), 'log')
  const machine = await guest(t, 'mailroom', '', { memory: '32MiB', disks: [{ path: server.uri }], nets: [{}] })
  const recording = await Recording.start(machine, folder)
  await machine.start()
  const client = await connectMailroom(machine)
  const notices = notes(machine)
  const lost = notices.next()
  await send(client, 5)
  await server.kill()
  t.match(await lost, { value: { link: 'lost' } })
  await server.start()
  t.match(await notices.next(), { value: { link: 'back' } })
  await send(client, 5)
  client.close()
  const { state } = await recording.stop()
  await machine.close()
  await server.kill()
  await using replay = await Replay.open(folder)
  const again = await replay.run()
  t.match(again, { stop: 'log-end', complete: true, divergence: undefined })
  t.strictSame(again.state, state)
})

t.test('a server that is there and silent is told of, and so is its first answer', { skip }, async t => {
  const server = await blank(t).start()
  const { machine, client } = await mailroom(t, 'deterministic', { path: server.uri })
  const notices = notes(machine)
  const silent = notices.next()
  await server.stop()
  const sent = send(client, 1)
  t.match(await silent, { value: { link: 'silent', message: /10 s/ } })
  server.goOn()
  t.match(await notices.next(), { value: { link: 'back', message: /answers again/ } })
  await sent
})

t.test('hypertwin run says on stderr why a guest waits', { skip }, async t => {
  const server = await blank(t).start()
  const command = new Talking(t, ['run', '--kernel', guestPath('mailroom'), '--memory', '32MiB', '--disk', server.uri, '--net', '-'])
  await command.until(() => command.out.includes('mailroom ready'))
  await server.kill()
  await command.until(() => command.said.includes('lost'))
  await server.start()
  await command.until(() => command.said.includes('back'))
  await command.interrupt()
  t.match(command.said, /disk 0, lost: the disk nbd\+unix:[^]*disk 0, back: the disk nbd\+unix:/)
})

t.test('what cannot be', { skip }, async t => {
  const server = await blank(t, ['-r']).start()
  const create = (disk: object) => Machine.create({ kernel: guestPath('hello'), memory: '16MiB', disks: [disk as DiskOptions] })
  await t.rejects(create({ path: server.uri }), { code: 'EROFS', message: /read-only/ })
  await t.rejects(create({ path: server.uri, readOnly: true, size: '1GiB' }), code('BAD_CONFIG'))
  await t.rejects(create({ path: `${server.uri}-not` }), code('ENOENT'))
  await t.rejects(create({ path: 'nbd://127.0.0.1:1/' }), code('ECONNREFUSED'))
  await t.rejects(create({ path: 'nbd+unix:///' }), code('EINVAL'))
  await t.rejects(create({ path: server.uri, readOnly: true, reconnectSeconds: -1 }), { code: 'EINVAL', message: /reconnectSeconds/ })
  const machine = await create({ path: server.uri, readOnly: true })
  t.strictSame({ ...machine.disks[0] }, { path: server.uri, size, readOnly: true })
  await machine.close()
})
