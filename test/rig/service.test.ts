// A real service on both boards, in a rig: Debian's nginx from a disk image, fetched from over the network. `npm run
// test:linux` (HYPERTWIN_THOROUGH=1) has each kernel on each board, and load on all while they are saved.
import { createHash } from 'node:crypto'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { guestImage, serviceImage } from '../../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'
import { deterministic, thorough } from './thorough.js'

const skip = await whyNoRigs()
const seconds = thorough ? 900 : 280

t.test('nginx', { skip, timeout: 4000 * seconds }, async t => {
  const { disk, page } = await serviceImage()
  const rigs = await rigsUp(1, { memory: 1536 })
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  const all = [
    { flavour: 'cloud', board: 'standard', vcpus: 2 },
    { flavour: 'generic', board: 'deterministic', vcpus: 1 },
    { flavour: 'generic', board: 'standard', vcpus: 1 },
    { flavour: 'cloud', board: 'deterministic', vcpus: 1 }
  ] as const
  const cases = all.slice(0, thorough ? 4 : 2)
  const big = Buffer.concat(Array.from({ length: 80 }, () => page))
  const digestOf = (data: Buffer) => `200 ${createHash('sha256').update(data).digest('hex')}`
  for (const { flavour, board, vcpus } of cases) {
    const commandLine = `${board === 'deterministic' ? deterministic : ''} root=/dev/vda`
    const brief = board === 'deterministic' && !thorough
    const name = `${flavour}, ${board}`
    const { elf, initrd } = await guestImage(flavour)
    const given = JSON.stringify({ board, vcpus, kernel: elf, initrd, commandLine, disk, brief, seconds })
    const script = path.resolve('test/rig/service_machine.mjs')
    const { stdout, stderr } = await rig.exec([process.execPath, script, given], { timeout: 1000 * (seconds + 20) })
    t.comment(`${name}: ${stdout}`)
    let seen: { digests?: string[]; received?: number; underWay?: number } = {}
    try {
      seen = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as typeof seen
    } catch {
      t.fail(`${name}: no result`, { stdout, stderr })
    }
    // Exactly this one: match() would let others follow it.
    t.strictSame(seen.digests, [digestOf(page)], `${name}: each page is right`)
    const blocks = { count: 8, bad: 0, went: true, whole: true }
    t.match(
      seen,
      brief
        ? { error: undefined, started: true, root: '1', pages: 4 }
        : {
            error: undefined,
            started: true,
            root: '1',
            pages: 20,
            vhost: board === 'standard',
            vhostPaused: false,
            cloneVhost: false,
            underLoad: 30,
            big: digestOf(big),
            blocks,
            cloneAddress: '52:54:00:99:00:02',
            cloneBlocks: blocks,
            both: [20, 20],
            apart: 'nobody',
            sameState: true,
            restoredBlocks: blocks,
            restored: 10
          },
      name
    )
    if (brief) continue
    const { received, underWay } = seen
    t.ok(received && received < big.length, `${name}: in the snapshot a download is under way: ${received} of ${big.length} bytes`)
    t.ok(underWay && underWay > 1, `${name}: and others: ${underWay}`)
  }
})
