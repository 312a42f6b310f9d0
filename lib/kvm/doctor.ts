// What this host's KVM offers, what hypertwin can do with it, and what to do about what is missing. Functions are
// probed by doing, each in a process that is killed when it wedges.
import { fork } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { Capability } from './constants.js'
import { probes, type Finding } from './doctor-probes.js'
import { KvmError } from './errors.js'
import { Kvm } from './kvm.js'

/**
 * What {@link doctor} is to look at.
 *
 * @since 0.1.0
 */
export interface DoctorOptions {
  /** The device; `'/dev/kvm'` unless given. */
  device?: string
  /**
   * Milliseconds that a probe may take before it counts as wedged, the first one with the start of its process. Unless
   * given 5,000, and 30,000 for the first one.
   */
  timeout?: number
  /** Ids of the probes to run; all unless given. */
  probes?: readonly string[]
  /** Called after each probe. */
  onProbe?: (result: ProbeResult) => void
}

/**
 * What one probe found.
 *
 * @since 0.1.0
 */
export interface ProbeResult {
  /** Stable: `'dirty-ring'`. */
  id: string
  /** For people. */
  title: string
  /** `'wedged'`: KVM_RUN did not come back. */
  status: 'works' | 'fails' | 'wedged' | 'crashed'
  /** More about it. */
  detail: string
}

/**
 * Something that hypertwin can do on this host, or not.
 *
 * @since 0.1.0
 */
export interface Ability {
  /** Stable: `'machine'`, `'dirty-ring'`. */
  id: string
  /** For people. */
  title: string
  /** Whether it can. */
  available: boolean
  /** Which way, or why not. */
  detail: string
  /** What the user can do about it. */
  mend?: string
}

/**
 * Doctor's report.
 *
 * @since 0.1.0
 */
export interface DoctorReport {
  /** Whether a machine can run. */
  ok: boolean
  /** The host. */
  host: {
    /** Kernel release. */ kernel: string
    /** Processor. */ cpu: string
    /** The processor's virtualisation, as the kernel shows it. */ virtualization: 'vmx' | 'svm' | null
    /** Whether it is itself a virtual machine. */ hypervisor: boolean
    /** kvm's modules that are loaded; empty where KVM is built in. */ modules: string[]
  }
  /** The device. */
  device: {
    /** Its path. */ path: string
    /** Whether it could be opened. */ usable: boolean
    /** KVM_GET_API_VERSION. */ apiVersion: number | null
    /** What is wrong. */ problem: string | null
    /** What to do about it. */ mend: string | null
  }
  /** KVM_CHECK_EXTENSION of every capability that is not 0, by name. */
  extensions: Record<string, number>
  /** What was tried. */
  probes: ProbeResult[]
  /** What follows from it. */
  abilities: Ability[]
}

function hostFacts(): DoctorReport['host'] {
  const read = (file: string): string => {
    try {
      return readFileSync(file, 'utf8')
    } catch {
      return ''
    }
  }
  const cpuinfo = read('/proc/cpuinfo')
  const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/) ?? [])
  const modules = read('/proc/modules')
    .split('\n')
    .map(line => line.split(' ')[0] ?? '')
    .filter(name => /^kvm/.test(name))
  return {
    kernel: os.release(),
    cpu: /^model name\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? os.arch(),
    virtualization: flags.has('vmx') ? 'vmx' : flags.has('svm') ? 'svm' : null,
    hypervisor: flags.has('hypervisor'),
    modules
  }
}

/** What to do when the device cannot be opened. @internal */
export function deviceMend(code: string, host: DoctorReport['host'], container: boolean): string {
  if (code === 'EACCES' || code === 'EPERM')
    return container
      ? 'give the container the device: start it with --device /dev/kvm'
      : 'sudo usermod -aG kvm $USER, then log in again'
  if (code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV') {
    if (container) return 'give the container the device: start it with --device /dev/kvm'
    if (host.virtualization === null)
      return host.hypervisor
        ? 'this is a virtual machine without nested virtualisation: enable it on its host (kvm_intel nested=1 or kvm_amd nested=1, and a CPU model that passes vmx or svm)'
        : 'enable virtualisation (VT-x or AMD-V) in the firmware'
    return `sudo modprobe ${host.virtualization === 'vmx' ? 'kvm_intel' : 'kvm_amd'}`
  }
  return 'this is no KVM device of a kernel that hypertwin knows'
}

interface ChildMessage extends Finding {
  id: string
}

/** Runs probes in children, each until it is through, wedges or crashes; the next child does the rest. */
async function runProbes(options: DoctorOptions): Promise<ProbeResult[]> {
  const wanted = probes.filter(probe => options.probes?.includes(probe.id) ?? true)
  const results = new Map<string, ProbeResult>()
  const done = (id: string, status: ProbeResult['status'], detail: string): void => {
    const title = wanted.find(probe => probe.id === id)?.title ?? id
    const result = { id, title, status, detail }
    results.set(id, result)
    options.onProbe?.(result)
  }
  // Risky ones last: a wedge then costs no other probe its process.
  let rest = [...wanted.filter(probe => !probe.risky), ...wanted.filter(probe => probe.risky)].map(probe => probe.id)
  while (rest.length > 0) {
    await runChild(rest, options, done)
    rest = rest.filter(id => !results.has(id))
  }
  return wanted.flatMap(probe => results.get(probe.id) ?? [])
}

function runChild(
  ids: readonly string[],
  options: DoctorOptions,
  done: (id: string, status: ProbeResult['status'], detail: string) => void
): Promise<void> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const file = fileURLToPath(new URL(`./doctor-child.${extension}`, import.meta.url))
  const timeout = options.timeout ?? 5_000
  return new Promise((resolve, reject) => {
    const pending = [...ids]
    let wedged = false
    const child = fork(file, [options.device ?? '/dev/kvm', ...ids], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    let errors = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-2000)
    })
    const expire = (): void => {
      wedged = true
      child.kill('SIGKILL')
    }
    let timer = setTimeout(expire, options.timeout ?? 30_000)
    child.on('message', (message: ChildMessage) => {
      clearTimeout(timer)
      timer = setTimeout(expire, timeout)
      pending.splice(pending.indexOf(message.id), 1)
      done(message.id, message.works ? 'works' : 'fails', message.detail)
    })
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const [current] = pending
      if (current !== undefined) {
        if (wedged) done(current, 'wedged', 'no answer in time: KVM_RUN does not return')
        else done(current, 'crashed', (errors.trim().split('\n').pop() ?? '') || `ended with ${signal ?? code}`)
      }
      resolve()
    })
  })
}

function judge(results: readonly ProbeResult[], problem: string | null, mend: string | null): Ability[] {
  const found = (id: string): ProbeResult | undefined => results.find(result => result.id === id)
  const ok = (...ids: string[]): boolean => ids.every(id => found(id)?.status === 'works')
  const why = (...ids: string[]): string =>
    ids
      .filter(id => !ok(id))
      .map(id => `${found(id)?.title ?? id}: ${found(id)?.detail || (found(id)?.status ?? 'not probed')}`)
      .join('; ')
  const ability = (id: string, title: string, needs: string[], detail: string, otherwise?: string): Ability => {
    const available = problem === null && ok(...needs)
    const advice = available ? undefined : (mend ?? otherwise)
    return {
      id,
      title,
      available,
      detail: available ? detail : (problem ?? why(...needs)),
      ...(advice === undefined ? {} : { mend: advice })
    }
  }
  const otherMode = 'use another dirty mode: hypertwin chooses one that works'
  const newerKernel = 'use a newer kernel on the host'
  const bits: string[] = []
  if (!ok('rdtsc-trap')) bits.push('guests that execute RDTSC stray, and are told so')
  if (!ok('cpuid-mask')) bits.push('so do those that ask CPUID at CPL 3 for what differs between cores')
  if (!ok('irq-window')) bits.push('guests are interrupted at their own exits only')
  return [
    ability('machine', 'Run a machine', ['cpl0', 'mmio'], 'deterministic board'),
    ability('standard', 'In-kernel interrupts, several vCPUs', ['irqchip', 'eventfd'], 'irqchip, PIT, irqfd, ioeventfd', newerKernel),
    ability('dirty-bitmap', 'Track dirty pages: bitmap', ['dirty-bitmap'], found('dirty-bitmap')?.detail ?? '', otherMode),
    ability('dirty-manual', 'Track dirty pages: manual clear', ['dirty-manual'], found('dirty-manual')?.detail ?? '', otherMode),
    ability('dirty-ring', 'Track dirty pages: ring', ['dirty-ring', 'dirty-ring-cpl0'], found('dirty-ring-cpl0')?.detail ?? '', otherMode),
    ability(
      'eventlog',
      'Capture and replay the event log',
      ['cpl0', 'port-rip', 'mmio'],
      ['exact', ...bits].join('; ')
    ),
    ability(
      'userfaultfd',
      'Serve memory on demand',
      ['userfaultfd'],
      found('userfaultfd')?.detail ?? '',
      'sudo sysctl vm.unprivileged_userfaultfd=1, or run with CAP_SYS_PTRACE'
    ),
    ability('step', 'Single-step', ['step-cpl0', 'step-cpl3'], 'CPL 0 and 3'),
    ability('breakpoint', 'Hardware breakpoints', ['hw-breakpoint'], '')
  ]
}

/**
 * Looks at this host: device, permission, module, every extension, and by trying what works and what does not.
 * Takes some seconds; more where a probe wedges. Never rejects for what the host lacks: that is in the report.
 *
 * @since 0.1.0
 */
export async function doctor(options: DoctorOptions = {}): Promise<DoctorReport> {
  const host = hostFacts()
  const device: DoctorReport['device'] = {
    path: options.device ?? '/dev/kvm',
    usable: false,
    apiVersion: null,
    problem: null,
    mend: null
  }
  const extensions: Record<string, number> = {}
  try {
    await using kvm = await Kvm.open(device.path)
    device.apiVersion = await kvm.apiVersion()
    device.usable = true
    for (const [name, number] of Object.entries(Capability)) {
      const value = await kvm.checkExtension(number).catch(() => 0)
      if (value !== 0) extensions[name] = value
    }
  } catch (error) {
    if (!(error instanceof KvmError)) throw error
    const container = existsSync('/.dockerenv') || existsSync('/run/.containerenv')
    device.problem = error.message
    device.mend = deviceMend(error.code, host, container)
  }
  const results = device.usable ? await runProbes(options) : []
  const abilities = judge(results, device.problem, device.mend)
  const ok = abilities.some(ability => ability.id === 'machine' && ability.available)
  return { ok, host, device, extensions, probes: results, abilities }
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0))) ?? []
  return rows.map(row => `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')}`.trimEnd())
}

/**
 * A report as text for a terminal.
 *
 * @since 0.1.0
 */
export function renderDoctor(report: DoctorReport): string {
  const { host, device } = report
  const lines = [
    `Host: Linux ${host.kernel}, ${host.cpu}`,
    `  virtualisation ${host.virtualization ?? 'not shown by the processor'}${host.hypervisor ? ', in a virtual machine' : ''}; modules ${host.modules.join(', ') || 'none loaded (or built in)'}`,
    device.usable
      ? `Device: ${device.path}, API version ${device.apiVersion}, ${Object.keys(report.extensions).length} extensions claimed`
      : `Device: ${device.problem}`
  ]
  if (device.mend !== null) lines.push(`  To do: ${device.mend}`)
  if (report.probes.length > 0)
    lines.push('', 'Tried:', ...table(report.probes.map(probe => [probe.title, probe.status, probe.detail])))
  // Without the device all abilities have its reason, which is said above.
  if (device.usable)
    lines.push(
      '',
      'What hypertwin can do here:',
      ...table(report.abilities.map(ability => [ability.available ? 'yes' : 'no', ability.title, ability.detail]))
    )
  else
    lines.push(
      '',
      'Without it hypertwin cannot do any of these here:',
      ...report.abilities.map(({ title }) => `  ${title}`),
      '',
      'Without it these work: hosts of libvirt (hypertwin host), streams to emulated guests (hypertwin stream), logs (hypertwin log);',
      "and in hypertwin's sources an emulated host that has KVM: npm run rig (docs/rig.md)."
    )
  const mends = new Map(
    report.abilities.flatMap(ability =>
      ability.mend === undefined || ability.mend === device.mend ? [] : [[ability.title, ability.mend] as const]
    )
  )
  if (mends.size > 0) lines.push('', 'To do:', ...table([...mends]))
  lines.push('', report.ok ? 'A machine can run here.' : 'No machine can run here.')
  return lines.join('\n')
}
