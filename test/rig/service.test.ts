// A real service on both boards, in a rig: Debian's nginx from a disk image, fetched from over the network.
import { createHash } from 'node:crypto'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { guestImage, serviceImage } from '../../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'

const skip = await whyNoRigs()

t.test('nginx', { skip, timeout: 900_000 }, async t => {
  const { disk, page } = await serviceImage()
  const rigs = await rigsUp(1, { memory: 1536 })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const cases = [
    { flavour: 'cloud', board: 'standard', vcpus: 2, commandLine: 'root=/dev/vda' },
    { flavour: 'generic', board: 'deterministic', vcpus: 1, commandLine: 'acpi=off nolapic reboot=p lpj=4000000 root=/dev/vda' }
  ] as const
  for (const { flavour, board, vcpus, commandLine } of cases) {
    const { elf, initrd } = await guestImage(flavour)
    const given = JSON.stringify({ board, vcpus, kernel: elf, initrd, commandLine, disk })
    const script = path.resolve('test/rig/service_machine.mjs')
    const { stdout, stderr } = await rig.exec([process.execPath, script, given], { timeout: 300_000 })
    t.comment(`${board}: ${stdout}`)
    let seen: { digests?: string[] } = {}
    try {
      seen = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as typeof seen
    } catch {
      t.fail(`${board}: no result`, { stdout, stderr })
    }
    // Exactly this one: match() would let others follow it.
    t.strictSame(seen.digests, [`200 ${createHash('sha256').update(page).digest('hex')}`], `${board}: each page is right`)
    t.match(
      seen,
      {
        error: undefined,
        started: true,
        root: '1',
        pages: 20,
        vhost: board === 'standard',
        vhostPaused: false,
        cloneVhost: false,
        underLoad: 30,
        cloneAddress: '52:54:00:99:00:02',
        both: [20, 20],
        apart: 'nobody',
        sameState: true,
        restored: 10
      },
      board
    )
  }
})
