// Network filters on a real host: bound to a guest's interface by hand and with it, and packets that are dropped.
import { spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { servicePort } from '../../scripts/hosts/index.mjs'
import { bootGuest, noHosts, oneHost } from './hosts.js'
import { failure } from './support.js'

const filter = `<filter name='silence' chain='root'>
  <rule action='drop' direction='inout' priority='500'><ip protocol='tcp'/></rule>
</filter>`

function noFilters(): string | false {
  const { status, stderr } = spawnSync('unshare', ['-n', 'ebtables', '-t', 'nat', '-L'], { encoding: 'utf8' })
  return status !== 0 && `network filters need ebtables, and a kernel with its tables: ${stderr.trim()}`
}

t.test('network filters', { skip: noHosts || noFilters(), timeout: 120_000 }, async t => {
  const set = await oneHost(t)
  const { here, host, hosts } = set
  const { guest, domain } = await bootGuest(set, { agent: false }, { persistent: false })
  const [device] = (await domain.describe()).interfaces
  const port = device!.target!
  const stream = hosts.connect(guest.address!, servicePort)
  t.teardown(() => stream.destroy())
  const lines = createInterface({ input: stream })[Symbol.asyncIterator]()
  const ask = async (text: string): Promise<string> => {
    stream.write(`${text}\n`)
    return String((await lines.next()).value)
  }
  /** How many packets the host has dropped. */
  const dropped = async (): Promise<number> => {
    const { stdout } = await host.exec('ebtables', '-t', 'nat', '-L', '--Lc')
    return [...stdout.matchAll(/DROP\b.*pcnt = (\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0)
  }
  t.equal(await ask('hello'), '1 hello')
  await using silence = await here.nwFilterDefineXML(filter)

  await t.test('bound by hand', async t => {
    const xml = `<filterbinding>
  <owner><name>${guest.name}</name><uuid>${await domain.getUUIDString()}</uuid></owner>
  <portdev name='${port}'/><mac address='${guest.mac}'/><filterref filter='silence'/>
</filterbinding>`
    await using binding = await here.nwFilterBindingCreateXML(xml)
    t.strictSame([await binding.getPortDev(), await binding.getFilterName()], [port, 'silence'])
    t.match(await binding.getXMLDesc(), `<mac address='${guest.mac}'/>`)
    await using found = await here.nwFilterBindingLookupByPortDev(port)
    t.equal(await found.getFilterName(), 'silence')
    t.equal((await here.listAllNWFilterBindings()).length, 1)
    const twice = await failure(t, () => here.nwFilterBindingCreateXML(xml))
    t.ok(twice.number, twice.message)
    const used = await failure(t, () => silence.undefine())
    t.ok(used.number, used.message)
    const answer = ask('are you there?')
    while ((await dropped()) === 0) await sleep(20)
    t.pass('packets are dropped')
    await binding.delete()
    t.equal(await answer, '2 are you there?', 'what was dropped is sent again, and answered')
    t.equal((await here.listAllNWFilterBindings()).length, 0)
    const gone = await failure(t, () => here.nwFilterBindingLookupByPortDev(port))
    t.equal(gone.code, 'VIR_ERR_NO_NWFILTER_BINDING')
  })

  await t.test('of an interface that comes and goes', async t => {
    const mac = '52:54:00:00:77:01'
    await domain.attach(`<interface type='bridge'>
  <mac address='${mac}'/><source bridge='${host.bridge}'/><model type='virtio'/><filterref filter='silence'/>
</interface>`)
    const [binding] = await here.listAllNWFilterBindings()
    const added = (await domain.describe()).interfaces.find(one => one.mac === mac)
    t.equal(await binding?.getPortDev(), added?.target)
    await domain.detach(mac)
    t.equal((await here.listAllNWFilterBindings()).length, 0, 'with the interface goes its binding')
    await silence.undefine()
  })
  await domain.destroy()
})
