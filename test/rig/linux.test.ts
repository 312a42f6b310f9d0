// Unmodified Debian kernels on both boards, in a rig: to a prompt, with disk, network and console, through a snapshot,
// to their power-off.
import path from 'node:path'
import { execFileSync } from 'node:child_process'
import process from 'node:process'
import t from 'tap'
import { guestImage } from '../../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'

const skip = await whyNoRigs()

// What docs/machine.md says that Linux needs on the deterministic board.
const deterministic = 'acpi=off nolapic reboot=p lpj=4000000'

t.test('Debian kernels', { skip, timeout: 900_000 }, async t => {
  const rigs = await rigsUp(1, { memory: 1536 })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const script = path.resolve('test/rig/linux_machine.mjs')

  const vsock = path.join(t.testdir(), 'vsock')
  execFileSync('cc', ['-static', '-O1', '-o', vsock, 'test/rig/vsock.c'])
  const cases = [
    { flavour: 'cloud', format: 'kernel', board: 'standard', vcpus: 2, commandLine: 'console=hvc0', console: 'virtio' },
    // By lines that cards share, too.
    { flavour: 'generic', format: 'elf', board: 'standard', vcpus: 1, commandLine: 'pci=nomsi', console: 'serial' },
    { flavour: 'cloud', format: 'elf', board: 'deterministic', vcpus: 1, commandLine: deterministic, console: 'serial' },
    { flavour: 'generic', format: 'kernel', board: 'deterministic', vcpus: 1, commandLine: deterministic, console: 'serial' }
  ] as const
  for (const { flavour, format, board, vcpus, commandLine, console: terminal } of cases) {
    const image = await guestImage(flavour)
    const name = `${flavour}, ${format === 'elf' ? 'by PVH' : 'a bzImage'}, on the ${board} board`
    const given = { board, vcpus, kernel: image[format], initrd: image.initrd, commandLine, console: terminal, vsock }
    const { stdout, stderr } = await rig.exec([process.execPath, script, JSON.stringify(given)], { timeout: 250_000 })
    const line = stdout.trim().split('\n').at(-1) ?? ''
    let seen: Record<string, unknown> = {}
    try {
      seen = JSON.parse(line) as Record<string, unknown>
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
        diskRead: true,
        diskWritten: true,
        service: ['1 one', '2 two'],
        sameState: true,
        restored: 'kept',
        mac: '52:54:00:99:00:01',
        serviceRestored: ['1 three'],
        ...(board === 'standard'
          ? {
              echo: true,
              called: true,
              echoRestored: true,
              console: terminal === 'virtio' ? '/dev/hvc0' : '/dev/ttyS0',
              generation: flavour === 'generic' ? '1' : '0', interrupts: flavour === 'generic' ? '0' : /^[1-9]/, entropy: '64', total: Number, clock: 'kvm-clock', button: true, reason: 'power-off' }
          : { reason: 'halted' })
      },
      name
    )
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
