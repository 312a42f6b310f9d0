// The benchmarks: sets up, builds native/bench into build/bench, runs all or those that are named.
//   npm run bench -- [exit] [dirty] [mailroom] [log] [snapshot] [standard] [migrate] [wire] [libvirt] [ha] [linux] [ready] [--quick] [--json]
// Prints a figure a line, as JSON with --json or where stdout is no terminal: {name, value, unit}, with {baseline,
// ratio, quartiles} where it is compared with something in the same run, and {goal, met} where there is a goal. Progress
// goes to stderr. Exit code 1 when a benchmark fails; a goal that is not met is a figure, not a failure.
import { spawn } from 'node:child_process'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { setup } from './setup.mjs'
import { ccache, must, root, whyNoKvm } from './support.mjs'

const benchmarks = {
  exit: { kvm: true, native: ['kvm_exit_bench', 'machine_exit_bench'], scripts: [] },
  dirty: { kvm: true, native: ['dirty_bench'], scripts: ['dirty.mjs'] },
  mailroom: { kvm: true, native: ['mailroom_bench'], scripts: ['mailroom.mjs'] },
  log: { kvm: false, native: ['log_bench'], scripts: [] },
  snapshot: { kvm: true, native: ['snapshot_bench'], scripts: [] },
  standard: { kvm: true, native: ['standard_bench', 'nbd_bench'], scripts: [] },
  migrate: { kvm: true, native: [], scripts: ['migrate.mjs'] },
  libvirt: { kvm: false, native: [], scripts: ['libvirt.mjs'] },
  wire: { kvm: false, native: ['wire_bench'], scripts: [] },
  // Both ends in one process, and the failover as users see it, among the campaign's hosts.
  ha: { kvm: true, native: ['ha_bench', ['hypertwin_campaign', 'bench']], scripts: [] },
  // In a rig, which brings a KVM of its own; the second only where there is none.
  linux: { kvm: false, native: [], scripts: ['linux.mjs'] },
  ready: { kvm: false, native: [], scripts: ['ready.mjs'] }
}

// Of the figures whose names match: what their ratio should be, or what they should be themselves.
const goals = [
  { name: /^ha\/(pause\/reset-|failover-pause\/reset\/)p99$/, of: 'value', most: 10 },
  { name: /^ha\/(pause\/silence-|failover-pause\/silent\/)p50$/, of: 'value', most: 20 },
  { name: /^ha\/(pause\/silence-|failover-pause\/silent\/)p99$/, of: 'value', most: 50 },
  { name: /^ha\/.*\/lag-p99$/, of: 'value', most: 5000 },
  // The replica would have a host of its own: what it takes from this one's processors counts on both sides.
  { name: /^ha\/saturated\/operations-vs-two-machines$/, least: 0.9 },
  { name: /^ha\/computing\/rounds-vs-two-machines$/, least: 0.97 },
  { name: /^ha\/one-user\/output-hold-vs-allowed$/, most: 1 },
  { name: /^exit\//, most: 1.05 },
  { name: /^dirty\/harvest\//, most: 1.05 },
  { name: /^capture\/.*\/operations$/, least: 0.97 },
  { name: /^replay\/idle/, most: 1 },
  { name: /^replay\/mailroom/, most: 1.11 },
  { name: /[/-]bytes-vs-allowed$/, most: 1 },
  { name: /^machine\/standard\/restore-to-first-exit$/, of: 'value', most: 3 },
  { name: /^linux\/(boot|memory)\//, most: 1 },
  { name: /^linux\/.*\/exits(-to-user-space)?$/, most: 1 },
  { name: /^linux\/(disk|net|net-vhost)\//, least: 1 },
  { name: /^linux\/restore\/vs-loadvm$/, most: 0.1 },
  { name: /^linux\/restore\//, most: 1 },
  { name: /^ready\/.*\/traced\/of-both$/, most: 0.01 },
  { name: /^libvirt\/.*serial\/vs-c-and-hop$/, most: 2 },
  { name: /^libvirt\/.*in-flight-64\/vs-python$/, least: 1 },
  { name: /^libvirt\/read-file\//, most: 1.2 }
]

const { values, positionals } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, json: { type: 'boolean', default: false } },
  allowPositionals: true
})
const chosen = positionals.length > 0 ? positionals : Object.keys(benchmarks)
for (const name of chosen)
  if (!Object.hasOwn(benchmarks, name)) {
    console.error(`bench: there is no benchmark ${name}, but ${Object.keys(benchmarks).join(', ')}`)
    process.exit(2)
  }
const json = values.json || !process.stdout.isTTY
const build = path.join(root, 'build/bench')
const tally = { met: 0, missed: [], skipped: 0, failed: 0 }

function show(figure) {
  const goal = goals.find(({ name, of = 'ratio' }) => figure[of] !== undefined && name.test(figure.name))
  if (goal) {
    const { of = 'ratio', most, least } = goal
    const unit = of === 'value' ? ` ${figure.unit}` : ''
    figure.goal = most === undefined ? `${of} >= ${least}${unit}` : `${of} <= ${most}${unit}`
    figure.met = most === undefined ? figure[of] >= least : figure[of] <= most
    if (figure.met) tally.met++
    else tally.missed.push(figure.name)
  }
  if (json) return console.log(JSON.stringify(figure))
  const number = value => (value === undefined ? '' : String(Number(value.toPrecision(4))))
  const ratio = figure.ratio === undefined ? '' : figure.ratio.toFixed(3)
  const verdict = goal ? `${figure.goal}: ${figure.met ? 'met' : 'NOT MET'}` : ''
  console.log(
    `${figure.name.padEnd(52)} ${number(figure.value).padStart(10)} ${figure.unit.padEnd(18)}` +
      ` ${number(figure.baseline).padStart(10)} ${ratio.padStart(8)}  ${verdict}`.trimEnd()
  )
}

/** Runs a program and shows the figures that it prints; false when it fails. */
async function measure(command, args) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise(resolve => {
    child.once('error', error => resolve(error.message))
    child.once('close', (code, signal) => resolve(code === 0 ? undefined : `it ended with ${signal ?? code}`))
  })
  for await (const line of createInterface({ input: child.stdout })) {
    try {
      show(JSON.parse(line))
    } catch {
      process.stderr.write(`${line}\n`)
    }
  }
  const problem = await ended
  if (problem === undefined) return
  console.error(`bench: FAILED: ${path.basename(args[0] ?? command)}: ${problem}`)
  tally.failed++
}

setup()
must('cmake', ['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_ADDON=OFF', '-DBUILD_BENCH=ON', '-DBUILD_CAMPAIGN=ON', ...ccache])
must('cmake', ['--build', build, '-j2'])

const noKvm = whyNoKvm()
const options = values.quick ? ['--quick'] : []
for (const name of chosen) {
  const { kvm, native, scripts } = benchmarks[name]
  if (kvm && noKvm !== undefined) {
    console.error(`bench: skipped: ${name}: ${noKvm}`)
    tally.skipped++
    continue
  }
  console.error(`bench: ${name}`)
  for (const [program, ...args] of native.map(entry => [entry].flat()))
    await measure(path.join(build, program), [...args, ...options])
  for (const script of scripts) await measure(process.execPath, [path.join(root, 'bench', script), ...options])
}
console.error(
  `bench: ${tally.met} goals met, ${tally.missed.length} not met` +
    `${tally.missed.length > 0 ? ` (${tally.missed.join(', ')})` : ''}, ${tally.skipped} skipped, ${tally.failed} failed`
)
if (tally.failed > 0) process.exitCode = 1
