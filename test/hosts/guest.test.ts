// A Linux guest on two hosts: it boots, moves while it serves, has its snapshots taken, and outlives what it should.
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { blankDisk, linuxGuest, servicePort, startHosts, whyNoHosts, type Host } from '../../scripts/hosts/index.mjs'

const why = await whyNoHosts()

/** Says lines to the guest's service and gives its answers. */
function conversation(stream: Duplex): (line: string) => Promise<string> {
  const answers = createInterface({ input: stream })[Symbol.asyncIterator]()
  return async line => {
    stream.write(`${line}\n`)
    const answer = await answers.next()
    return answer.done ? 'the connection has ended' : answer.value
  }
}

/** Asks again until an answer fits. */
async function until(ask: () => Promise<string>, fits: RegExp): Promise<string> {
  const deadline = Date.now() + 60_000
  for (;;) {
    const answer = await ask().catch((error: unknown) => (error as Error).message)
    if (fits.test(answer)) return answer
    if (Date.now() > deadline) throw new Error(`after a minute it is still: ${answer}`)
    await sleep(100)
  }
}

t.test('a guest on two hosts', { skip: why }, async t => {
  const hosts = await startHosts({ count: 2 })
  t.teardown(() => hosts.close())
  const [first, second] = hosts.hosts as [Host, Host]
  const disk = await blankDisk(path.join(hosts.storage, 'disk.qcow2'), '64M')
  const guest = await linuxGuest({ hosts, disks: [{ file: disk }], dirty: { mib: 4, rate: 4 } })
  const file = path.join(hosts.storage, 'guest.xml')
  writeFileSync(file, guest.xml)
  await first.virsh('define', file)
  await first.virsh('start', guest.name)
  await guest.waitFor('guest# ', { timeout: 120_000 })
  const stream = hosts.connect(guest.address!, servicePort)
  t.teardown(() => stream.destroy())
  const say = conversation(stream)
  t.equal(await say('hello'), '1 hello')
  const state = (host: Host) => host.virsh('domstate', '--reason', guest.name)

  t.test('the agent answers', async t => {
    const info = await until(
      () => first.virsh('qemu-agent-command', guest.name, '{"execute":"guest-get-host-name"}'),
      /return/
    )
    t.match(JSON.parse(info), { return: { 'host-name': guest.name } })
  })

  t.test('its dirty rate is measured', async t => {
    // It is an estimate from a few pages, which can miss those that are written to.
    const measure = async () => {
      await first.virsh('domdirtyrate-calc', guest.name, '--seconds', '1')
      return until(() => first.virsh('domstats', '--dirtyrate', guest.name), /calc_status=2/)
    }
    t.ok(await until(measure, /dirtyrate.megabytes_per_second=[1-9]/))
    // A guest that writes all the time may not outlive a migration under TCG: see docs/hosts.md.
    const stop = { execute: 'guest-exec', arguments: { path: 'killall', arg: ['dirty'] } }
    t.match(await first.virsh('qemu-agent-command', guest.name, JSON.stringify(stop)), /pid/)
  })

  t.test('it moves while it serves, to and fro', async t => {
    const options = ['--live', '--unsafe', '--persistent', '--undefinesource']
    await first.virsh('migrate', ...options, '--migrateuri', `tcp://${second.address}`, guest.name, second.uri)
    t.match(await state(second), /^running/)
    t.equal((await first.virsh('list', '--all', '--name')).trim(), '')
    t.equal(await say('moved'), '2 moved')
    await second.virsh('migrate', ...options, '--p2p', guest.name, first.peerUri)
    t.match(await state(first), /^running/)
    t.equal(await say('back'), '3 back')
  })

  t.test('snapshots, internal and external', async t => {
    await first.virsh('snapshot-create-as', guest.name, 'inside')
    t.match(await first.virsh('snapshot-list', guest.name), /inside\s.*running/)
    const overlay = path.join(hosts.storage, 'overlay.qcow2')
    await first.virsh(
      'snapshot-create-as', guest.name, 'outside', '--disk-only', '--diskspec', `vda,snapshot=external,file=${overlay}`
    )
    t.match(await first.virsh('domblklist', guest.name), /vda\s+\S*overlay\.qcow2/)
    const info = execFileSync('qemu-img', ['info', '--force-share', '--output=json', '--backing-chain', overlay])
    t.match(JSON.parse(info.toString()), [{ 'full-backing-filename': disk }, { snapshots: [{ name: 'inside' }] }])
    t.equal(await say('still here'), '4 still here')
  })

  t.test('libvirtd is killed and started again; the guest runs on', async t => {
    const before = first.qemuPid(guest.name)
    t.ok(before)
    await first.restart('SIGKILL')
    t.equal(first.qemuPid(guest.name), before)
    t.match(await state(first), /^running/)
    t.equal(await say('no restart'), '5 no restart')
  })

  t.test('the cable is pulled and put back', async t => {
    await first.stopNetwork()
    t.equal((await first.exec('cat', '/sys/class/net/uplink/carrier')).stdout.trim(), '0')
    let answered = false
    const answer = say('anyone?').finally(() => (answered = true))
    const tried = await second.exec('timeout', '2', 'virsh', '--connect', first.peerUri, 'hostname')
    t.not(tried.status, 0, 'the other host does not reach it')
    t.equal(answered, false)
    await first.startNetwork()
    t.equal(await answer, '6 anyone?')
  })

  t.test('QEMU is killed', async t => {
    process.kill(first.qemuPid(guest.name)!, 'SIGKILL')
    t.match(await until(() => state(first), /^shut off/), /crashed/)
    t.equal(first.qemuPid(guest.name), undefined)
  })
})
