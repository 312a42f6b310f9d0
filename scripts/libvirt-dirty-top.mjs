// How fast all running domains write their memory, the busiest first.
// Usage: node scripts/libvirt-dirty-top.mjs [uri] [--mode page-sampling|dirty-bitmap|dirty-ring] [--seconds 1] [--count 5]
// Without a URI: three Linux guests on a host of its own that write at different rates (as root; see docs/hosts.md).
// (after npm run build; Ctrl-C ends it)
import process from 'node:process'
import { parseArgs } from 'node:util'
import { Connect } from 'hypertwin/libvirt'
import { bytes, interruption, Ui } from '../dist/cli/common.js'
import { dirtyRates, table } from '../dist/cli/host.js'
import { linuxGuest, startHosts } from './hosts/index.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    mode: { type: 'string', default: 'page-sampling' },
    seconds: { type: 'string', default: '1' },
    count: { type: 'string', default: 'Infinity' }
  }
})
const ui = new Ui(false)
const signal = interruption()
const hosts = positionals[0] === undefined ? await startHosts({ count: 1 }) : undefined
const connect = await Connect.open(positionals[0] ?? hosts.hosts[0].uri)
try {
  if (hosts) await bootThree()
  const peaks = new Map()
  for (let number = 0; number < Number(values.count); number++) {
    const rates = await dirtyRates(connect, [], values.mode, Number(values.seconds), signal)
    const rows = rates.map(({ name, rate }) => {
      peaks.set(name, Math.max(peaks.get(name) ?? 0, rate ?? 0))
      const peak = peaks.get(name)
      const bar = '█'.repeat(Math.round(((rate ?? 0) / Math.max(1, ...peaks.values())) * 30))
      return [name, rate === undefined ? '-' : `${bytes(rate)}/s`, `${bytes(peak)}/s`, bar]
    })
    ui.picture(table([['domain', 'written', 'peak', ''], ...rows]), number === 0)
  }
} catch (error) {
  if (!signal.aborted) throw error
  process.exitCode = 130
} finally {
  await connect.close()
  await hosts?.close()
}

async function bootThree() {
  ui.say('three guests boot …')
  const guests = []
  for (const [name, rate] of [['quiet'], ['busy', 8], ['busier', 32]])
    guests.push(await linuxGuest({ hosts, name, network: false, agent: false, ...(rate && { dirty: { mib: 32, rate } }) }))
  for (const { xml } of guests) await (await connect.createDomain(xml, { persistent: false, autoDestroy: true })).close()
  await Promise.all(guests.map(guest => guest.waitFor(undefined, { timeout: 120_000 })))
}
