// The process in which doctor's probes run: arguments are the device and the probes' ids; tells its parent each finding.
import process from 'node:process'
import { probes, runProbe } from './doctor-probes.js'
import { Kvm } from './kvm.js'

const [device = '/dev/kvm', ...ids] = process.argv.slice(2)
const kvm = await Kvm.open(device)
for (const id of ids) {
  const probe = probes.find(candidate => candidate.id === id)
  if (!probe) continue
  const finding = await runProbe(kvm, probe)
  await new Promise(resolve => process.send?.({ id, ...finding }, undefined, undefined, resolve))
}
await kvm.close()
process.disconnect()
