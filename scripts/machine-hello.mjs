// The smallest machine: boots one of our guests, shows its console, waits for its power-off.
// Usage: node scripts/machine-hello.mjs (after npm run build)
import process from 'node:process'
import { guestPath } from 'hypertwin'
import { Machine } from 'hypertwin/machine'

const machine = await Machine.create({ memory: '16MiB', kernel: guestPath('hello'), commandLine: 'ticks=10' })
const events = machine.events()
await machine.start()
for await (const event of events) {
  if (event.type === 'console') process.stdout.write(event.bytes)
  else if (event.type === 'state') console.log(`[${event.state}: ${event.reason}, boundary ${event.boundary}]`)
}
console.log(machine.counters())
await machine.close()
