// Lists the domains of a libvirt host with what they use, and says what happens to them; a lost connection is opened again.
// Usage: node scripts/libvirt-watch.mjs [uri] [--interval 2] [--count 5]   (after npm run build; Ctrl-C ends it)
// For a host to try: npm run hosts -- up
import process from 'node:process'
import { parseArgs } from 'node:util'
import { Connect, DomainEventType, watchEvents } from 'hypertwin/libvirt'
import { bytes, interruption } from '../dist/cli/common.js'
import { stateName, table } from '../dist/cli/host.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { interval: { type: 'string', default: '2' }, count: { type: 'string' } }
})
const interval = Number(values.interval) * 1000
const signal = interruption()
const enough = new AbortController()
const ends = AbortSignal.any([signal, enough.signal])
const open = () => Connect.open(positionals[0], { readOnly: true, keepalive: positionals[0]?.startsWith('test:') ? undefined : { interval: 5 } })
const rate = value => (value === undefined ? '' : `${bytes(value)}/s`)

async function showStats(connect) {
  let left = Number(values.count ?? Infinity)
  for await (const { domains } of connect.watchStats({ intervalMs: interval, signal: ends })) {
    const rows = domains.map(({ name, state, cpu, memory, diskRead, diskWritten, received, sent }) => [
      name, stateName(state ?? 0), cpu === undefined ? '' : `${(cpu * 100).toFixed(0)} %`, memory === undefined ? '' : bytes(memory),
      rate(diskRead), rate(diskWritten), rate(received), rate(sent)
    ])
    console.log(`\n${table([['domain', 'state', 'cpu', 'memory', 'read', 'written', 'received', 'sent'], ...rows])}`)
    if (--left <= 0) enough.abort()
  }
}

try {
  for await (const event of watchEvents(open, ['domain.lifecycle', 'domain.reboot'], { signal: ends })) {
    if (event.kind === 'open' || event.kind === 'gap') {
      if (event.kind === 'gap') console.log(`the connection was lost for ${event.until - event.since} ms`)
      // Ends with the connection; the next one has its own.
      showStats(event.connect).catch(error => ends.aborted || console.log(`no statistics: ${error.message}`))
    } else if (event.kind === 'dropped') console.log(`${event.count} events were missed`)
    else {
      const what = event.kind === 'domain.reboot' ? 'reboots' : Object.keys(DomainEventType)[event.args.event]?.toLowerCase()
      console.log(`${await event.domain.getName()}: ${what}`)
    }
  }
} catch (error) {
  if (!ends.aborted) throw error
  process.exitCode = signal.aborted ? 130 : 0
}
