// doctor: the report, its text, and what it advises; a wedged or crashed probe costs nothing but itself.
import { once } from 'node:events'
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { doctor, renderDoctor, type ProbeResult } from '../../lib/kvm/index.js'
import { deviceMend, type DoctorReport } from '../../lib/kvm/doctor.js'
import { probes } from '../../lib/kvm/doctor-probes.js'
import { limit } from '../patience.js'
import { descriptors, noKvm } from './guest.js'

t.test('without a device it says so, what to do, and that no machine can run', async t => {
  const report = await doctor({ device: '/nonexistent/kvm' })
  t.match(report, { ok: false, device: { usable: false, apiVersion: null }, probes: [] })
  t.match(report.device.problem, /ENOENT/)
  t.ok(report.device.mend)
  t.ok(report.abilities.length > 5)
  t.ok(report.abilities.every(ability => !ability.available && ability.mend === report.device.mend))
  t.match(renderDoctor(report), /No machine can run here/)
  t.match(await doctor({ device: '/dev/null' }), { ok: false, device: { mend: /no KVM device/ } })
})

t.test('the advice fits what is missing', async t => {
  const host = (virtualization: 'vmx' | 'svm' | null, hypervisor: boolean): DoctorReport['host'] => ({
    kernel: '',
    cpu: '',
    modules: [],
    virtualization,
    hypervisor
  })
  t.match(deviceMend('EACCES', host('vmx', false), false), 'usermod -aG kvm $USER')
  t.match(deviceMend('EACCES', host('vmx', false), true), '--device /dev/kvm')
  t.match(deviceMend('ENOENT', host('vmx', false), false), 'modprobe kvm_intel')
  t.match(deviceMend('ENOENT', host('svm', false), false), 'modprobe kvm_amd')
  t.match(deviceMend('ENOENT', host(null, false), false), 'firmware')
  t.match(deviceMend('ENOENT', host(null, true), false), 'nested')
  t.match(deviceMend('ENOENT', host(null, true), true), '--device /dev/kvm')
})

t.test('every probe answers, and a machine can run', { skip: noKvm }, async t => {
  const before = descriptors()
  const told: ProbeResult[] = []
  const report = await doctor({ timeout: limit(5_000), onProbe: result => told.push(result) })
  t.equal(report.ok, true)
  t.strictSame(new Set(told.map(result => result.id)), new Set(probes.map(probe => probe.id)))
  t.strictSame(
    report.probes.map(result => result.id),
    probes.map(probe => probe.id)
  )
  const crashed = report.probes.filter(result => result.status === 'crashed')
  t.strictSame(crashed, [])
  t.ok((report.extensions['USER_MEMORY'] ?? 0) > 0)
  t.strictSame(JSON.parse(JSON.stringify(report)), report, 'plain JSON')
  const text = renderDoctor(report)
  for (const { title } of [...report.probes, ...report.abilities]) t.ok(text.includes(title), title)
  t.match(text, /A machine can run here/)
  t.equal(descriptors(), before)
})

t.test('a probe that does not answer in time is wedged, the others still run', { skip: noKvm }, async t => {
  const report = await doctor({ probes: ['real-mode', 'mmio'], timeout: 1 })
  t.strictSame(
    report.probes.map(({ id, status }) => [id, status]),
    [
      ['real-mode', 'wedged'],
      ['mmio', 'wedged']
    ]
  )
  t.equal(report.ok, false)
})

t.test('the child ends by itself', { skip: noKvm }, async t => {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const file = fileURLToPath(new URL(`../../lib/kvm/doctor-child.${extension}`, import.meta.url))
  const child = fork(file, ['/dev/kvm', 'real-mode'], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  const [message] = (await once(child, 'message')) as [unknown]
  t.strictSame(message, { id: 'real-mode', works: true, detail: '' })
  t.strictSame(await once(child, 'close'), [0, null])
})
