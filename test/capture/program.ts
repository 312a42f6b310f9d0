// A program as users write it, on one connection: what it gives is all that it has seen.
import { createHash } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { DomainState, StreamFlags, type Connect, type LibvirtError } from '../../lib/libvirt/index.js'

const volume = '<volume><name>v</name><capacity>1048576</capacity></volume>'

export const nobody = '00000000-0000-0000-0000-000000000001'

/** Calls, errors, events, 64-bit numbers, uuids, CPU maps, typed parameters, lists, objects in arguments and in events. */
export async function program(connect: Connect): Promise<unknown[]> {
  const seen: unknown[] = []
  const failed = (error: LibvirtError) => [error.name, error.code, error.message, error.api, error.number, error.int1]
  const events = connect.events(['domain.lifecycle', 'storagePool.refresh'])
  await events.ready
  const [domain] = await connect.listAllDomains()
  if (!domain) throw new Error('there is no domain')
  seen.push(...(await Promise.all([domain.getName(), domain.getInfo(), domain.getUUID(), domain.getMaxMemory()])))
  seen.push(await connect.domainLookupByUUID(nobody).catch(failed))
  seen.push(await domain.pinVcpu(70_000, [1]).catch(failed), await connect.nodeGetCPUMap())
  await domain.setSchedulerParameters({ weight: 17 })
  seen.push(await domain.getSchedulerParameters())
  await domain.suspend()
  const suspended = await events.next()
  if (!suspended.done && suspended.value.kind === 'domain.lifecycle')
    seen.push(suspended.value.args, suspended.value.sequence, await suspended.value.domain.getName())
  await domain.resume()
  for await (const event of events) {
    seen.push(event.kind)
    break
  }
  const stats = await connect.getAllDomainStats(0)
  for (const { dom, params } of stats) seen.push(params, (await dom.getState()).state === DomainState.RUNNING)
  const pool = await connect.storagePoolLookupByName('default-pool')
  const made = await pool.storageVolCreateXML(volume)
  seen.push(await made.getPath(), await made.getInfo())
  const stream = await connect.streamNew(StreamFlags.NONBLOCK)
  seen.push(await domain.openConsole(undefined, stream).catch(failed))
  const screen = await connect.streamNew(StreamFlags.NONBLOCK)
  seen.push(await domain.screenshot(screen, 0))
  const hash = createHash('sha256')
  await pipeline(screen.duplex({ direction: 'read', chunkSize: 1000 }), hash)
  seen.push(hash.digest('hex'))
  await made.delete()
  await connect.close()
  seen.push(connect.closed, domain.closed)
  return seen
}
