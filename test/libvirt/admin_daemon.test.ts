// The administration of a real libvirtd, in a process that has no other connections: libvirt bears no more.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { AdminConnect, ClientTransport, type AdminClient, type AdminServer } from '../../lib/libvirt/index.js'
import { startHosts, type Host } from '../../scripts/hosts/index.mjs'
import { noHosts } from './hosts.js'
import { failure } from './support.js'

const index = new URL('../../lib/libvirt/index.ts', import.meta.url).href

/** A client of the daemon: a process that is connected until its input ends, and says when and why it is no more. */
async function client(uri: string): Promise<{ lost: Promise<string>; end: () => void }> {
  const child = spawn(
    process.execPath,
    [
      ...process.execArgv,
      '--input-type=module',
      '-e',
      `import { Connect } from ${JSON.stringify(index)}
       const connect = await Connect.open(${JSON.stringify(uri)})
       await connect.registerCloseCallback(() => { console.log('lost'); process.exit() })
       console.log('connected')
       process.stdin.on('end', () => process.exit()).resume()`
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] }
  )
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const { value } = (await lines.next()) as { value: string }
  if (value !== 'connected') throw new Error(`the client said ${value}`)
  const lost = lines.next().then(({ value }: { value?: string }) => value ?? 'nothing')
  return { lost, end: () => child.stdin.end() }
}

t.test('the administration of a daemon', { skip: noHosts, timeout: 120_000 }, async t => {
  await using hosts = await startHosts({ count: 1 })
  const [host] = hosts.hosts as [Host]
  const admin = await AdminConnect.open(host.adminUri)
  let lost = 0
  await admin.registerCloseCallback(() => lost++)
  t.equal(await admin.isAlive(), true)
  t.equal(await admin.getURI(), host.adminUri)
  t.ok((await admin.getLibVersion()) > 2_000_000)

  let server: AdminServer | undefined
  await t.test('its servers and their threads', async t => {
    const servers = await admin.listServers()
    const names = await Promise.all(servers.map(one => one.getName()))
    t.strictSame([...names].sort(), ['admin', 'libvirtd'])
    for (const one of servers) await one.close()
    server = await admin.lookupServer('libvirtd')
    const threads = await server.getThreadPoolParameters()
    t.ok(threads.minWorkers! > 0 && threads.maxWorkers! >= threads.minWorkers!, JSON.stringify(threads))
    await server.setThreadPoolParameters({ maxWorkers: threads.maxWorkers! + 3, prioWorkers: 2 })
    t.match(await server.getThreadPoolParameters(), { maxWorkers: threads.maxWorkers! + 3 })
    // It counts the threads that there are, and the ones that are too many end when they come round to it.
    while ((await server.getThreadPoolParameters()).prioWorkers !== 2) await sleep(10)
    t.ok((await failure(t, () => server!.setThreadPoolParameters({ minWorkers: 1000, maxWorkers: 2 }))).number)
    t.ok((await failure(t, () => server!.setThreadPoolParameters({ nWorkers: 4 }))).number, 'what can only be read')
    t.ok((await failure(t, () => admin.lookupServer('nobody'))).number)
  })

  await t.test('its clients', async t => {
    const limits = await server!.getClientLimits()
    t.equal(limits.nclients, 0)
    await server!.setClientLimits({ nclients_max: 77 })
    t.match(await server!.getClientLimits(), { nclients_max: 77 })
    const other = await client(host.uri)
    const clients = await server!.listClients()
    t.equal(clients.length, 1)
    const [one] = clients as [AdminClient]
    t.equal(await one.getTransport(), ClientTransport.UNIX)
    t.ok(Math.abs(Number(await one.getTimestamp()) - Date.now() / 1000) < 60)
    t.match(await one.getInfo(), { readonly: false, unix_user_id: 0 })
    await using same = await server!.lookupClient(await one.getID())
    t.equal(await same.getID(), await one.getID())
    await one.disconnect()
    t.equal(await other.lost, 'lost')
    other.end()
    t.strictSame(await server!.listClients(), [])
    t.ok((await failure(t, () => server!.lookupClient(1_000_000n))).number)
    await one.close()
  })

  await t.test('its log', async t => {
    await admin.setLoggingFilters('3:rpc 4:event')
    t.match(await admin.getLoggingFilters(), /3:\*?rpc/)
    const outputs = await admin.getLoggingOutputs()
    await admin.setLoggingOutputs(`1:file:${hosts.storage}/log`)
    t.match(await admin.getLoggingOutputs(), new RegExp(`1:file:${hosts.storage}/log`))
    await admin.setLoggingOutputs(outputs)
    t.ok((await failure(t, () => admin.setLoggingFilters('nonsense'))).number)
    t.ok((await failure(t, () => admin.setLoggingOutputs('9:nowhere'))).number)
  })

  await t.test('it dies', async t => {
    await server!.close()
    await host.kill('SIGKILL')
    while (lost === 0) await new Promise(resolve => setImmediate(resolve))
    t.equal(lost, 1)
    t.equal(await admin.isAlive(), false)
    t.ok((await failure(t, () => admin.listServers())).number)
    await admin.close()
    t.equal((await failure(t, () => admin.listServers())).code, 'CLOSED')
    await admin.close()
  })
})
