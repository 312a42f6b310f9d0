// Hosts start, several sets at once; nothing of them is left when they are closed, or when who started them is killed.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { HostsError, startHosts, whyNoHosts, type Host, type Hosts } from '../../scripts/hosts/index.mjs'

const why = await whyNoHosts()

/** The namespaces in which processes are, as mnt:[…] and so on. */
function namespaces(pid: string | number): string[] {
  try {
    return ['mnt', 'net', 'pid', 'uts'].map(kind => readlinkSync(`/proc/${pid}/ns/${kind}`))
  } catch {
    return []
  }
}

/** Those namespaces of hosts that are not the machine's. */
function own(pids: number[]): Set<string> {
  const machine = new Set(namespaces('self'))
  return new Set(pids.flatMap(namespaces).filter(name => !machine.has(name)))
}

/** The processes of this machine that are in one of the namespaces. */
function inside(names: Set<string>): string[] {
  const numbers = readdirSync('/proc').filter(name => /^\d+$/.test(name))
  return numbers.filter(pid => namespaces(pid).some(name => names.has(name)))
}

/** What can be seen of hosts outside of their namespaces. */
function traces(): string[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const links = readdirSync('/sys/class/net')
  return [
    ...mounts.filter(line => /hypertwin-hosts|\/libvirt/.test(line)),
    ...links.filter(name => /^(wire|uplink|br0|host\d+|vnet\d+)$/.test(name))
  ]
}

const folderOf = (hosts: Hosts): string => `/var/lib/hypertwin-hosts/${hosts.id}`

t.test('hosts are there, know each other, and nothing is left of them', { skip: why }, async t => {
  const before = traces()
  const hosts = await startHosts({ count: 2 })
  t.teardown(() => hosts.close())
  const [first, second] = hosts.hosts as [Host, Host]
  t.equal((await first.virsh('hostname')).trim(), 'host1')
  t.equal((await second.virsh('hostname')).trim(), 'host2')
  const asked = await first.exec('virsh', '--quiet', '--connect', second.peerUri, 'hostname')
  t.match(asked, { status: 0, stdout: /^host2\n/ }, 'one reaches the other over their network')
  const uuid = async (host: Host) => /<uuid>(.*?)<\/uuid>/.exec(await host.virsh('capabilities'))?.[1]
  t.not(await uuid(first), await uuid(second), 'for libvirt they are two hosts')
  t.ok(existsSync(folderOf(hosts)))
  const names = own([first, second].flatMap(host => host.processes.map(({ pid }) => pid)))
  t.equal(names.size, 8, 'each has four namespaces of its own')
  t.strictSame(traces(), before, 'nothing of them is to be seen outside')

  await hosts.close()
  t.notOk(existsSync(folderOf(hosts)))
  t.strictSame(inside(names), [])
  t.strictSame(traces(), before)
  await hosts.close()
})

t.test('libvirtd is killed and started again; a host crashes and the other does not care', { skip: why }, async t => {
  await using hosts = await startHosts({ count: 2 })
  const [first, second] = hosts.hosts as [Host, Host]
  const { pid } = first
  t.ok(pid)
  await first.kill('SIGKILL')
  t.equal(first.pid, undefined)
  await t.rejects(first.virsh('hostname'), HostsError)
  await first.start()
  t.not(first.pid, pid)
  await first.restart()
  t.equal((await first.virsh('hostname')).trim(), 'host1')

  await first.crash()
  t.equal(first.alive, false)
  t.strictSame(first.processes, [])
  t.throws(() => first.command('true'), { message: /host1 has crashed/ })
  t.equal((await second.virsh('hostname')).trim(), 'host2')
})

t.test('two sets at once do not meet', { skip: why }, async t => {
  const sets = await Promise.all([startHosts({ count: 1 }), startHosts({ count: 1 })])
  t.teardown(() => Promise.all(sets.map(set => set.close())))
  const [one, other] = sets
  t.not(one.storage, other.storage)
  t.equal(one.hosts[0]?.address, other.hosts[0]?.address)
  for (const [host] of sets) t.equal((await host!.virsh('hostname')).trim(), 'host1')
  await one.close()
  t.equal((await other.hosts[0]!.virsh('hostname')).trim(), 'host1')
})

t.test('hosts end with who started them, and the next start removes their files', { skip: why }, async t => {
  const script = `
    const { startHosts } = await import('./scripts/hosts/index.mjs')
    const hosts = await startHosts({ count: 1 })
    console.log(JSON.stringify({ id: hosts.id, pids: hosts.hosts[0].processes.map(({ pid }) => pid) }))
    setInterval(() => {}, 1e6)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let line = ''
  for await (line of createInterface({ input: child.stdout })) break
  const { id, pids } = JSON.parse(line) as { id: string; pids: number[] }
  const names = own(pids)
  t.ok(names.size >= 4)
  const closed = new Promise(resolve => child.once('close', resolve))
  child.kill('SIGKILL')
  await closed
  while (inside(names).length > 0) await sleep(10)
  t.ok(existsSync(`/var/lib/hypertwin-hosts/${id}`))
  await (await startHosts({ count: 1 })).close()
  t.notOk(existsSync(`/var/lib/hypertwin-hosts/${id}`))
})

t.test('the command starts, shows, uses and ends hosts', { skip: why }, async t => {
  const env = { ...process.env, HYPERTWIN_HOSTS: `test-${process.pid}` }
  const command = (...words: string[]) =>
    spawnSync(process.execPath, ['scripts/hosts/main.mjs', ...words], { encoding: 'utf8', env })
  t.teardown(() => command('down'))
  t.match(command('up', '1'), { status: 0, stdout: /host1 {2}up {2}10\.0\.0\.1 {2}qemu\+unix:/ })
  t.match(command('up'), { status: 0, stdout: /host1 {2}up/ }, 'what is up stays')
  t.match(command('up', '2'), { status: 1, stderr: /1 hosts are up/ })
  const [{ pid }] = (JSON.parse(command('status', '--json').stdout) as { hosts: [{ pid: number }] }).hosts
  const names = own([pid])
  t.equal(names.size, 4)
  t.match(JSON.parse(command('status', '--json').stdout), { hosts: [{ name: 'host1', state: 'up' }] })
  t.match(command('exec', 'host1', '--', 'sh', '-c', 'cat /proc/sys/kernel/hostname; exit 3'), {
    status: 3,
    stdout: 'host1\n'
  })
  t.match(command('exec', 'host9', '--', 'true'), { status: 1, stderr: /There is no host9/ })
  t.match(command('exec', 'host1', 'true'), { status: 1, stderr: /npm run hosts/ })
  t.match(command('up', 'many'), { status: 1, stderr: /npm run hosts/ })
  // Process 1 of the host: the end of all of it.
  const [init] = inside(names).filter(found => readFileSync(`/proc/${found}/comm`, 'utf8') === 'tini\n')
  process.kill(Number(init), 'SIGKILL')
  while (inside(names).length > 0) await sleep(10)
  t.match(command('status'), { stdout: /host1 {2}crashed/ })
  t.match(command('up', '1'), { status: 0, stdout: /host1 {2}up/ }, 'a crashed host is replaced')
  t.match(command('down'), { status: 0, stdout: '', stderr: '' })
  t.strictSame(inside(names), [])
  t.match(command('status'), { stdout: /No hosts are up/ })
})

t.test('too many hosts, or none', async t => {
  await t.rejects(startHosts({ count: 0 }), { message: /1 to 100/ })
  await t.rejects(startHosts({ count: 1.5 }), { message: /1 to 100/ })
})
