// Machines whose disk is on an NBD server, migrated and protected: with one server for both sides, and with copies.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { connectMailroom } from '../../lib/cli/mailroom/boot.js'
import type { MailroomClient } from '../../lib/cli/mailroom/client.js'
import type { Machine } from '../../lib/machine/index.js'
import { protection, standby, TestArbiter } from '../ha/support.js'
import { failure, listener, move } from '../migrate/support.js'
import { migrate } from '../../lib/migrate/index.js'
import { NbdKit, noNbdkit } from '../nbdkit.js'
import { guest, noKvm, scratch, Talking } from './support.js'

const skip = noKvm || noNbdkit
const size = 8 << 20

async function blank(t: Test): Promise<NbdKit> {
  const image = path.join(scratch(t), 'image')
  writeFileSync(image, '')
  truncateSync(image, size)
  return new NbdKit(t, image).start()
}

async function mailroom(t: Test, disk: string): Promise<{ machine: Machine; client: MailroomClient }> {
  const machine = await guest(t, 'mailroom', '', { memory: '16MiB', disks: [{ path: disk }], nets: [{}] })
  await machine.start()
  return { machine, client: await connected(t, machine) }
}

async function connected(t: Test, machine: Machine): Promise<MailroomClient> {
  const client = await connectMailroom(machine)
  t.teardown(() => client.close())
  return client
}

async function send(client: MailroomClient, text: string): Promise<void> {
  const user = client.user(1)
  if (user.session === 0) await user.login()
  for (let i = 0; i < 20; i++) await user.send(2, Buffer.from(`${text} ${i}`))
}

t.test('migration with one server that both sides reach', { skip }, async t => {
  const server = await blank(t)
  const { machine, client } = await mailroom(t, server.uri)
  await send(client, 'before')
  const { digest } = await client.digest()
  client.close()
  const { received } = await move(t, machine, await listener(t, { disks: [server.uri] }))
  t.match(machine, { state: 'stopped', reason: 'migrated' })
  t.equal(received.machine.disks[0]?.path, server.uri)
  const there = await connected(t, received.machine)
  t.equal((await there.digest()).digest, digest)
  await send(there, 'after')
  // The server is lost and found there as here.
  await server.kill()
  const sent = send(there, 'again')
  await server.start()
  await sent
  const last = await there.digest()
  there.close()
  await received.machine.close()
  for (const text of ['before 19', 'after 19', 'again 19']) t.ok(readFileSync(server.image).includes(text), text)
  const next = await mailroom(t, server.uri)
  t.equal((await next.client.digest()).digest, last.digest, 'another machine finds all of it')
})

t.test('hypertwin receive says on stderr what becomes of the server', { skip }, async t => {
  const server = await blank(t)
  const { machine, client } = await mailroom(t, server.uri)
  await send(client, 'before')
  client.close()
  const command = new Talking(t, ['receive', '--listen', 'tcp://127.0.0.1:0', '--disk', server.uri])
  await command.until(() => /on tcp:\S+\n/.test(command.out))
  await migrate(machine, /on (tcp:\S+)\n/.exec(command.out)?.[1] ?? '').done
  await command.until(() => command.out.includes('A machine came'))
  await server.kill()
  await command.until(() => command.said.includes('lost'))
  await server.start()
  await command.until(() => command.said.includes('back'))
  t.match(command.said, /^hypertwin: disk 0, lost: the disk nbd\+unix:.*\nhypertwin: disk 0, back: the disk nbd\+unix:/m)
  await command.interrupt()
})

t.test('the destination does not reach the server: the source goes on', { skip }, async t => {
  const server = await blank(t)
  const { machine, client } = await mailroom(t, server.uri)
  const to = await listener(t, { disks: [`${server.uri}-not`] })
  const accepted = to.accept()
  const migration = migrate(machine, to.address)
  const incoming = failure((await accepted).done)
  t.match(await failure(migration.done), { code: 'REFUSED', message: /ENOENT/ })
  await incoming
  t.equal(machine.state, 'running')
  await send(client, 'here')
})

t.test('copies come from a server, and go to files alone', { skip }, async t => {
  const server = await blank(t)
  const { machine, client } = await mailroom(t, server.uri)
  await send(client, 'before')
  const wrong = await listener(t, { disks: [server.uri] })
  const accepted = wrong.accept()
  const migration = migrate(machine, wrong.address, { disks: 'copy' })
  const incoming = failure((await accepted).done)
  t.match(await failure(migration.done), { code: 'REFUSED', message: /BAD_CONFIG.*on a server.*file.*shared/ })
  await incoming
  t.equal(machine.state, 'running')
  await send(client, 'still')
  const { digest } = await client.digest()
  client.close()
  const file = path.join(scratch(t), 'copy')
  const { received } = await move(t, machine, await listener(t, { disks: [file] }), { disks: 'copy' })
  t.ok(readFileSync(file).equals(readFileSync(server.image)))
  const there = await connected(t, received.machine)
  t.equal((await there.digest()).digest, digest)
  await send(there, 'after')
  t.notOk(readFileSync(server.image).includes('after'))
})

t.test('protection: the primary’s disk may be on a server, the backup’s copy is a file', { skip }, async t => {
  const server = await blank(t)
  const arbiter = new TestArbiter()
  const { machine, client } = await mailroom(t, server.uri)
  await send(client, 'before')
  const wrong = await standby(t, { arbiter, disks: [server.uri], taps: [null] })
  const refused = await protection(t, machine, { backup: wrong.listen, arbiter, reprotect: false })
  await t.rejects(refused.ready)
  t.match(refused.message, /on a server.*file/)
  await refused.close()
  t.equal(machine.state, 'running')

  const copy = path.join(scratch(t), 'copy')
  const there = await standby(t, { arbiter, disks: [copy], taps: [null] })
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  await here.ready
  // Its writes are those of a guest that waits for nothing but its log.
  await server.kill()
  const sent = send(client, 'protected')
  await server.start()
  await sent
  const { digest } = await client.digest()
  client.close()
  await here.handOver()
  const survivor = await there.live
  t.teardown(() => survivor.close())
  const next = await connected(t, survivor)
  t.equal((await next.digest()).digest, digest)
  t.ok(readFileSync(copy).includes('protected 19'))
  t.ok(readFileSync(copy).equals(readFileSync(server.image)))
})
