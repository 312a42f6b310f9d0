// All of libvirt is bound or has a reason, and what is generated is what would be generated now.
import t from 'tap'
import { apiInstalled, installedAgainstNewest, newest } from '../../scripts/libvirt/api.mjs'
import { coverage, strayAnnotations } from '../../scripts/libvirt/coverage.mjs'
import { stale } from '../../scripts/libvirt/generate.mjs'

const installed = apiInstalled() ? installedAgainstNewest() : undefined
const skip =
  installed === undefined
    ? "libvirt's API descriptions are not installed (libvirt-dev)"
    : installed < 0 && `libvirt's API descriptions here are older than ${newest}`

t.test('every public function is bound or listed with a reason', { skip }, async t => {
  const found = coverage()
  t.strictSame(Object.keys(found), ['libvirt', 'libvirt-qemu', 'libvirt-lxc', 'libvirt-admin'])
  for (const [library, { total, bound, internal, missing }] of Object.entries(found)) {
    t.strictSame(missing, [], `${library}: nothing is missing`)
    t.equal(bound.size + internal.size, total, `${library}: each counts once`)
    for (const [name, reason] of internal) t.ok(reason.length > 20, `${name} has a reason`)
  }
  t.ok((found['libvirt']?.total ?? 0) >= 516, 'the description has what libvirt 9.0 had')
})

t.test('no annotation speaks of what does not exist, or twice of the same', { skip }, async t => {
  t.strictSame(strayAnnotations(), [])
})

// A later description may word what is generated from its prose differently.
const later = installed === 1 && `libvirt's API descriptions here are later than ${newest}`

t.test('the generated files are current', { skip: skip || later }, async t => {
  t.strictSame(await stale(), [], 'run `npm run libvirt:generate`')
})
