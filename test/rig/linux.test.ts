// Unmodified Debian kernels on both boards, in a rig: to a prompt, with disks, network and console, through a snapshot, to
// their end. `npm run test:linux` does more (HYPERTWIN_THOROUGH=1): balloon, discards, clones' random numbers, a third vCPU,
// each way in which Linux ends.
import path from 'node:path'
import { execFileSync } from 'node:child_process'
import process from 'node:process'
import t from 'tap'
import { guestImage } from '../../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'
import { deterministic, thorough } from './thorough.js'

const skip = await whyNoRigs()
const seconds = thorough ? 900 : 230

interface Seen {
  givenUp?: Record<'size' | 'reported' | 'inflated', number>
  memory?: Record<'total' | 'free' | 'its', number>
  clones?: { kernel: string; device: string }[]
  endExits?: number[]
}

t.test('Debian kernels', { skip, timeout: 5000 * seconds }, async t => {
  // With as many vCPUs as it has processors.
  const rigs = await rigsUp(1, { memory: 1536, ...(thorough && { cpus: 3 }) })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const script = path.resolve('test/rig/linux_machine.mjs')

  const vsock = path.join(t.testdir(), 'vsock')
  execFileSync('cc', ['-static', '-O1', '-o', vsock, 'test/rig/vsock.c'])
  const triple = 'echo triple > /sys/kernel/reboot/type; reboot -f'
  const cases = [
    {
      flavour: 'cloud', format: 'kernel', board: 'standard', vcpus: thorough ? 3 : 2, commandLine: 'console=hvc0', console: 'virtio',
      ends: { button: 'stopped, power-off', 'reboot -f': 'stopped, reset' }
    },
    // By lines that cards share, too.
    {
      flavour: 'generic', format: 'elf', board: 'standard', vcpus: 1, commandLine: 'pci=nomsi', console: 'serial',
      ends: { 'poweroff -f': 'stopped, power-off', 'reboot -f': 'stopped, reset' }
    },
    {
      flavour: 'cloud', format: 'elf', board: 'deterministic', vcpus: 1, commandLine: deterministic, console: 'serial',
      ends: { 'poweroff -f': 'stopped, halted', 'reboot -f': 'stopped, reset' }
    },
    {
      flavour: 'generic', format: 'kernel', board: 'deterministic', vcpus: 1, commandLine: deterministic, console: 'serial',
      ends: { 'poweroff -f': 'stopped, halted', 'reboot -f': 'stopped, reset', [triple]: 'failed, triple-fault' }
    }
  ] as const
  for (const { flavour, format, board, vcpus, commandLine, console: terminal, ends } of cases) {
    const image = await guestImage(flavour)
    const name = `${flavour}, ${format === 'elf' ? 'by PVH' : 'a bzImage'}, on the ${board} board`
    const given = {
      board,
      vcpus,
      kernel: image[format],
      initrd: image.initrd,
      commandLine,
      console: terminal,
      vsock,
      ends: Object.keys(ends).slice(0, thorough ? undefined : 1),
      seeded: format === 'kernel',
      thorough,
      seconds,
      generation: board === 'standard' && flavour === 'generic'
    }
    const { stdout, stderr } = await rig.exec([process.execPath, script, JSON.stringify(given)], { timeout: 1000 * (seconds + 20) })
    const line = stdout.trim().split('\n').at(-1) ?? ''
    let seen: Seen = {}
    try {
      seen = JSON.parse(line) as Seen
    } catch {
      t.fail(`${name}: no result`, { stdout, stderr })
    }
    t.comment(`${name}: ${line}`)
    t.match(
      seen,
      {
        error: undefined,
        version: flavour === 'cloud' ? /^\d.*-cloud-amd64$/ : /^\d.*\d-amd64$/,
        cpus: vcpus,
        ranOn: Array.from({ length: vcpus }, (_, i) => String(i)),
        diskRead: true,
        diskWritten: true,
        service: ['1 one', '2 two'],
        sameState: true,
        restored: 'kept',
        mac: '52:54:00:99:00:01',
        serviceRestored: ['1 three'],
        ends: given.ends.map(how => `${how}: ${(ends as Record<string, string>)[how]}`),
        ...(given.seeded && { random: '16' }),
        ...(board === 'standard' && {
          echo: true,
          called: true,
          echoRestored: true,
          console: terminal === 'virtio' ? '/dev/hvc0' : '/dev/ttyS0',
          generation: flavour === 'generic' ? '1' : '0',
          interrupts: flavour === 'generic' ? '0' : /^[1-9]/,
          entropy: '64',
          readOnly: [/^1, dd: .*not permitted/, true],
          discarded: [[4 << 20, true], [4 << 20, true]],
          clock: 'kvm-clock'
        })
      },
      name
    )
    if (board !== 'standard') continue
    const { total = 0, free = 0, its = 0 } = seen.memory ?? {}
    t.ok(total === its && its > 128 << 20 && free < total && free > 0, `${name}: the guest's own account of its memory`)
    // By the register that the FADT names: else Linux asks a keyboard controller first, 65,536 times.
    for (const exits of seen.endExits ?? []) t.ok(exits < 1000, `${name}: it ends after ${exits} exits`)
    if (!thorough) continue
    const { size = 0, reported = 0, inflated = 0 } = seen.givenUp ?? {}
    t.ok(size > 64 << 20 && reported > size * 0.75 && inflated > size * 0.75, `${name}: what the guest gives up is the host's`)
    const [one, other] = seen.clones ?? []
    t.not(one?.device, other?.device, `${name}: each clone has entropy of its own`)
    if (given.generation) t.not(one?.kernel, other?.kernel, `${name}: and random numbers`)
  }

  const image = await guestImage()
  const given = { board: 'deterministic', vcpus: 1, kernel: image.elf, initrd: image.initrd, commandLine: deterministic }
  const recorder = [process.execPath, path.resolve('test/rig/recorded_machine.mjs'), JSON.stringify(given)]
  const recorded = await rig.exec(recorder, { timeout: 200_000 })
  t.comment(`recorded: ${recorded.stdout}`)
  const seen = JSON.parse(recorded.stdout) as {
    counters: Record<'boundaries' | 'interrupts' | 'packetsIn' | 'diskRequests', number>
    kinds: Record<string, number>
  }
  t.match(seen, { error: undefined, service: '1 one\n', whole: true, last: seen.counters.boundaries })
  t.equal(seen.kinds['packet'], seen.counters.packetsIn, 'each packet is in the log')
  t.equal(seen.kinds['block-completion'], seen.counters.diskRequests, 'and each request of the disk')
  t.equal(seen.kinds['interrupt'], seen.counters.interrupts, 'and each interrupt')

  const sample = [process.execPath, path.resolve('scripts/linux-hello.mjs'), image.kernel, image.initrd]
  const { status, stdout, stderr } = await rig.exec(sample, { timeout: 120_000 })
  t.equal(status, 0, stderr)
  t.match(stdout, /a prompt after [^]*restored, and it answers, [^]*it ended by power-off\n/, 'the sample')
})
