// Hints: what texts and programs name. Nothing that they contain makes that slow.
import t from 'tap'
import { limit } from '../patience.js'
import { mountsIn } from '../../lib/stream/fstab.js'
import { addWords, commandsIn, conditionsIn, linksIn, nodeRequires, objectsIn, pathsIn, perlUses, pythonImports } from '../../lib/stream/hints.js'

t.test('paths', async t => {
  t.same(pathsIn('a /usr/lib/x.so, "/etc/a/b.conf" x=/srv/www/ --data=/var/lib/x. /tmp/no relative/etc/no\0/opt/y\0'), [
    '/usr/lib/x.so', '/etc/a/b.conf', '/srv/www', '/var/lib/x', '/opt/y'
  ])
})

t.test('commands of a shell script', async t => {
  const script = '#!/bin/sh\n# not this\nset -e\nif first -x; then second; fi\nx=$(third | fourth) && fifth || exec sixth "$@"\necho seventh\n'
  t.same(commandsIn(script).sort(), ['fifth', 'first', 'fourth', 'second', 'sixth', 'third'])
})

t.test('conditions of a unit', async t => {
  const unit = '[Unit]\nConditionPathExists=/gone\nConditionPathExists=\nConditionPathExists=|!/etc/a\n  ConditionDirectoryNotEmpty = | /etc/b.d \nConditionPathExists=|\n#ConditionPathExists=/c\nConditionFirstBoot=yes\n'
  t.same(conditionsIn(unit), [
    { kind: 'PathExists', trigger: true, not: true, value: '/etc/a' },
    { kind: 'DirectoryNotEmpty', trigger: true, not: false, value: '/etc/b.d' },
    { kind: 'FirstBoot', trigger: false, not: false, value: 'yes' }
  ])
})

t.test('shared objects', async t => {
  t.same(objectsIn('auth required pam_unix.so nullok\n# auth pam_no.so\nextension=curl.so\nLoadModule x modules/mod_x.so\nlibx.so.1\n'), ['pam_unix.so', 'curl.so', 'mod_x.so'])
})

t.test('what Python imports at once', async t => {
  const source = `import os.path, json as j
from .near import (
    one,  # a comment
    two)
from ..up import three
try:
    import ssl
except ImportError:
    pass
if TYPE_CHECKING:
    import typing_only
def later():
    import late
class Loader:
    worker = "package.workers.sync.Worker"
`
  const found = pythonImports(source, 'package.sub.module')
  for (const name of ['os', 'os.path', 'json', 'package.sub.near', 'package.sub.near.one', 'package.sub.near.two', 'package.up.three', 'ssl', 'package.workers.sync']) t.ok(found.includes(name), name)
  for (const name of ['late', 'typing_only']) t.notOk(found.includes(name), name)
  t.ok(pythonImports('from . import x', 'package.__init__').includes('package.x'))
  t.ok(pythonImports('from ...a.b import x', 'one.two.three.four').includes('one.a.b.x'))
})

t.test('what Perl and JavaScript use', async t => {
  t.same(perlUses("use strict;\nuse 5.010;\nuse parent 'Base::One';\n  require Two;\n=pod\nuse Three;\n=cut\nuse Four::Five 1.2;\n__END__\nuse Six;\n"), ['strict', 'Base::One', 'Two', 'Four::Five'])
  t.same(nodeRequires("const a = require('a')\nimport b from \"./b.js\"\nexport { c } from 'c'\nawait import('d')\n// require('no')\n"), ['a', './b.js', 'c', 'd'])
})

t.test('what readelf says a program is linked to', async t => {
  const said = `
      [Requesting program interpreter: /lib64/ld.so.2]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [../no.so]
 0x000000000000001d (RUNPATH)            Library runpath: [$ORIGIN/lib:/opt/lib]
 0x00000001 (NEEDED)                     Shared library: [libm.so.6]
`
  t.same(linksIn(said), { loader: '/lib64/ld.so.2', libraries: ['libc.so.6', 'libm.so.6'], places: ['$ORIGIN/lib', '/opt/lib'] })
  t.same(linksIn('no ELF'), { loader: undefined, libraries: [], places: [''] })
})

t.test('hostile texts are read in little time', async t => {
  const texts = ['('.repeat(200_000), 'from x import (' + 'a,\n'.repeat(100_000), '/usr/'.repeat(100_000), '=a\n'.repeat(30_000), '$('.repeat(100_000), 'import '.repeat(50_000), '"a.b'.repeat(50_000), 'use '.repeat(100_000), '\n'.repeat(1 << 20), ' '.repeat(1 << 20), 'from x import (\n'.repeat(70_000), '=a\n'.repeat(350_000), `import${' '.repeat(1 << 20)}`, 'a'.repeat(1 << 20), `ConditionA=a${' '.repeat(1 << 20)}b`, 'ConditionA=a\n'.repeat(80_000), 'a\0'.repeat(1 << 19)]
  const long = 1 << 20
  texts.push(`/usr/${'.'.repeat(long)}x`, `from ${'.'.repeat(long)} x`, `import ${'a.'.repeat(long / 2)}`, `from ${'a.'.repeat(long / 4)}a import ${'b,'.repeat(long / 4)}`, `from ${'a.'.repeat(1000)}a import ${'b,'.repeat(1000)}\n`.repeat(250))
  texts.push(`/dev/vda1 /${'/'.repeat(long)}x ext4`, ` 0x1 (NEEDED) ${'['.repeat(long)}/`, ` 0x1 (RUNPATH) ${'['.repeat(long)}`, 'Requesting program interpreter: /'.repeat(30_000))
  for (const text of texts) {
    const begun = performance.now()
    for (const look of [pathsIn, mountsIn, linksIn, commandsIn, conditionsIn, (text: string) => addWords(new Set(), text), objectsIn, pythonImports, perlUses, nodeRequires]) look(text)
    t.ok(performance.now() - begun < limit(5_000), `${text.slice(0, 20)}: ${Math.round(performance.now() - begun)} ms`)
  }
})
