// Examinations: of file systems made here, whose files lie where debugfs says, so that the right chunks can be known.
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { examine, pack, type Examination, type Manifest } from '../../lib/stream/index.js'
import { CHUNK, code, noise, scratch } from './support.js'

process.env['PATH'] += ':/usr/sbin:/sbin'
const lacking = ['debugfs', 'mke2fs', 'sfdisk', 'readelf'].filter(name => spawnSync(name, ['-V']).error)
const skip = lacking.length > 0 ? `missing: ${lacking.join(', ')} (Debian: e2fsprogs, fdisk, binutils)` : false

/** A root file system of these files; a text that begins with -> is a link. */
function image(t: Test, files: Record<string, string | Buffer>, { offset = 0 } = {}): string {
  const folder = scratch(t)
  const tree = path.join(folder, 'tree')
  for (const [name, contents] of Object.entries({ '/etc/passwd': 'root::0:0:root:/:/bin/sh\n', ...files })) {
    const file = path.join(tree, name)
    mkdirSync(path.dirname(file), { recursive: true })
    if (typeof contents === 'string' && contents.startsWith('-> ')) symlinkSync(contents.slice(3), file)
    else if (typeof contents === 'string' && contents.startsWith('copy ')) cpSync(contents.slice(5), file, { dereference: true })
    else writeFileSync(file, contents, { mode: 0o755 })
  }
  const made = path.join(folder, 'image')
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', `offset=${offset}`, '-d', tree, made, '60M'])
  return made
}

/** The chunks in which a file lies. */
function chunksOf(image: string, name: string, offset = 0): number[] {
  const said = execFileSync('debugfs', ['-R', `blocks ${name}`, `${image}?offset=${offset}`], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return [...new Set((said.match(/\d+/g) ?? []).map(block => Math.floor((offset + Number(block) * 4096) / CHUNK)))]
}

interface Examined extends Examination {
  manifest: Manifest
  image: string
  names: string[]
}

async function examined(t: Test, made: string, applications: string[] = []): Promise<Examined> {
  const { manifest } = await pack(made, scratch(t))
  const result = await examine(made, manifest, { applications })
  return { ...result, manifest, image: made, names: result.files.map(({ path }) => path) }
}

const unit = (...lines: string[]): string => `[Unit]\n[Service]\n${lines.join('\n')}\n`

const systemd = {
  '/sbin/init': '-> ../lib/systemd/systemd',
  '/lib/systemd/systemd': `#!/bin/sh\n${'#'.repeat(100_000)}`,
  '/bin/sh': noise(70_000, 'sh'),
  '/etc/os-release': 'NAME=x\nPRETTY_NAME="Test 1 (one)"\n',
  '/lib/systemd/system/default.target': '-> graphical.target',
  '/lib/systemd/system/graphical.target': '[Unit]\nRequires=multi-user.target\n',
  '/lib/systemd/system/multi-user.target': '[Unit]\n',
  '/etc/systemd/system/multi-user.target.wants/web.service': '-> /lib/systemd/system/web.service',
  '/lib/systemd/system/web.service': unit('ExecStartPre=-/bin/prepare x', 'ExecStart=/usr/sbin/webd -f'),
  '/etc/systemd/system/web.service.d/more.conf': '[Service]\nEnvironmentFile=-/etc/web.environment\n',
  '/etc/web.environment': 'A=1\n',
  '/lib/systemd/system/other.service': unit('ExecStart=/usr/sbin/otherd'),
  '/usr/sbin/webd': noise(300_000, 'webd'),
  '/usr/sbin/otherd': noise(300_000, 'otherd'),
  '/bin/prepare': '#!/bin/sh\n. /etc/web/functions\n/usr/bin/tool --all\n',
  '/usr/bin/tool': noise(100_000, 'tool'),
  '/etc/web/functions': 'x\n',
  '/etc/webd/webd.conf': 'y\n',
  '/usr/share/doc/large': noise(500_000, 'doc')
}

t.test('what systemd starts is wanted, and what it does not is not', { skip }, async t => {
  const { names, system, init, services, profile, manifest, image: made, missed } = await examined(t, image(t, systemd))
  t.equal(system, 'Test 1 (one)')
  t.equal(init, '/lib/systemd/systemd')
  t.same(services, ['web.service'])
  t.same(missed, [])
  for (const name of ['/lib/systemd/systemd', '/bin/sh', '/usr/sbin/webd', '/bin/prepare', '/usr/bin/tool', '/etc/web/functions', '/etc/web.environment', '/etc/webd/webd.conf'])
    t.ok(names.includes(name), name)
  for (const name of ['/usr/sbin/otherd', '/usr/share/doc/large']) t.notOk(names.includes(name), name)
  const wanted = new Set(profile.entries.map(({ chunk }) => chunk))
  for (const name of ['/usr/sbin/webd', '/usr/bin/tool', '/lib/systemd/systemd']) t.ok(chunksOf(made, name).every(chunk => wanted.has(chunk)), `${name}'s chunks`)
  const inner = chunksOf(made, '/usr/share/doc/large').slice(1, -1)
  t.ok(inner.length > 2 && inner.every(chunk => !wanted.has(chunk)), 'and not those of the rest')
  const order = profile.entries.map(({ chunk }) => chunk)
  const at = (name: string): number => Math.min(...chunksOf(made, name).slice(1).map(chunk => order.indexOf(chunk)))
  t.ok(at('/bin/sh') < at('/usr/sbin/webd'), 'init comes before services')
  t.equal(order[0], 0)
  t.equal(profile.traces, 0)
  t.same(profile.match(manifest).stale, 0)
  t.ok(profile.entries.length < manifest.blobs)
})

t.test('an ELF program needs its libraries and its loader', { skip }, async t => {
  const lists = execFileSync('ldd', ['/bin/bash'], { encoding: 'utf8' })
  const libraries = [...lists.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, file = '']) => file)
  t.ok(libraries.length >= 2)
  const made = image(t, {
    '/opt/app/run': 'copy /bin/bash',
    ...Object.fromEntries(libraries.map(file => [file, `copy ${file}`])),
    '/usr/lib/libother.so': noise(100_000, 'other')
  })
  const { names, files, missed, init } = await examined(t, made, ['/opt/app/run', '/opt/nosuch'])
  t.equal(init, undefined)
  t.same(missed, ['/opt/nosuch'])
  for (const file of ['/opt/app/run', ...libraries]) t.ok(names.includes(file), file)
  t.notOk(names.includes('/usr/lib/libother.so'))
  t.ok(files.filter(({ path }) => path.startsWith('/opt')).every(({ why }) => why === 'application'))
})

t.test('a script needs its interpreter, a Python one its modules', { skip }, async t => {
  const python = '/usr/lib/python3.11'
  const { names } = await examined(
    t,
    image(t, {
      '/usr/bin/python3': '-> python3.11',
      '/usr/bin/python3.11': noise(50_000, 'python'),
      [`${python}/os.py`]: 'import stat\n',
      [`${python}/stat.py`]: '',
      [`${python}/json/__init__.py`]: 'from .decoder import JSONDecoder\nfrom . import scanner\n',
      [`${python}/json/decoder.py`]: 'import re as again\n',
      [`${python}/json/scanner.py`]: '',
      [`${python}/re.py`]: '',
      [`${python}/__pycache__/re.cpython-311.pyc`]: 'compiled',
      [`${python}/turtle.py`]: '',
      '/srv/app': '#!/usr/bin/env python3\nimport json, nosuch\n',
      '/usr/bin/env': noise(30_000, 'env')
    }),
    ['/srv/app']
  )
  for (const name of ['/srv/app', '/usr/bin/env', '/usr/bin/python3.11', `${python}/os.py`, `${python}/stat.py`, `${python}/json/decoder.py`, `${python}/json/scanner.py`, `${python}/__pycache__/re.cpython-311.pyc`])
    t.ok(names.includes(name), name)
  for (const name of [`${python}/turtle.py`, `${python}/re.py`]) t.notOk(names.includes(name), name)
})

t.test('an application brings its package, but not what people read', { skip }, async t => {
  const { names } = await examined(
    t,
    image(t, {
      '/usr/bin/app': noise(10_000, 'app'),
      '/usr/share/app/data': noise(40_000, 'data'),
      '/usr/share/doc/app/manual': noise(40_000, 'manual'),
      '/usr/share/other/data': noise(40_000, 'other'),
      '/var/lib/dpkg/info/app.list': '/.\n/usr\n/usr/bin/app\n/usr/share/app/data\n/usr/share/doc/app/manual\n/usr/share/app/gone\n',
      '/var/lib/dpkg/info/other.list': '/usr/share/other/data\n'
    }),
    ['/usr/bin/app']
  )
  t.same(names.filter(name => !name.startsWith('/etc')), ['/usr/bin/app', '/usr/share/app/data'])
})

t.test("System V's scripts", { skip }, async t => {
  const { services, names } = await examined(
    t,
    image(t, {
      '/sbin/init': noise(10_000, 'init'),
      '/etc/inittab': '::sysinit:/etc/init.d/rcS\nttyS0::respawn:/sbin/getty 115200\n',
      '/etc/init.d/rcS': '#!/bin/sh\nfor i in /etc/init.d/S*; do $i start; done\n',
      '/etc/init.d/S50web': '#!/bin/sh\nstart-stop-daemon -x /usr/sbin/web\n',
      '/etc/init.d/K10off': '#!/bin/sh\n/usr/sbin/off\n',
      '/sbin/getty': noise(10_000, 'getty'),
      '/bin/sh': noise(10_000, 'sh'),
      '/usr/sbin/web': noise(10_000, 'web'),
      '/usr/sbin/off': noise(10_000, 'off')
    })
  )
  t.ok(services.includes('S50web'))
  for (const name of ['/sbin/init', '/sbin/getty', '/bin/sh', '/usr/sbin/web']) t.ok(names.includes(name), name)
  t.notOk(names.includes('/usr/sbin/off'))
})

t.test('in a partition, with the kernel that its boot loader reads', { skip }, async t => {
  const offset = 1 << 20
  const made = image(t, { ...systemd, '/boot/vmlinuz-6.1.0-9': noise(200_000, 'old'), '/boot/vmlinuz-6.1.0-10': noise(200_000, 'new'), '/boot/initrd.img-6.1.0-10': noise(200_000, 'initrd') }, { offset })
  execFileSync('sfdisk', ['-q', made], { input: 'label: dos\n2048,,L,*\n' })
  const { names, files, profile, services } = await examined(t, made)
  t.same(files.filter(({ why }) => why === 'boot').map(({ path }) => path), ['/boot/vmlinuz-6.1.0-10', '/boot/initrd.img-6.1.0-10'])
  t.same(services, ['web.service'])
  t.notOk(names.includes('/boot/vmlinuz-6.1.0-9'))
  const wanted = new Set(profile.entries.map(({ chunk }) => chunk))
  t.ok(chunksOf(made, '/boot/vmlinuz-6.1.0-10', offset).every(chunk => wanted.has(chunk)), 'where they lie in the whole image')
})

t.test('hostile: names, links and contents do nothing but mislead', { skip }, async t => {
  const mischief = path.join(scratch(t), 'mischief')
  const { names } = await examined(
    t,
    image(t, {
      '/sbin/init': '-> /sbin/loop',
      '/sbin/loop': '-> /sbin/init',
      ['/etc/a\ndebugfs: ls -p <2>\n']: 'x',
      [`/etc/b" ; touch ${mischief.replaceAll('/', ' ')}`]: 'x',
      '/opt/up': '-> ../../../../../../etc/hostname',
      '/opt/elf': Buffer.concat([Buffer.from('\x7fELF', 'latin1'), noise(5000, 'elf')]),
      '/opt/script': '#!',
      '/opt/python': `#!/usr/bin/python3\n${'import x, '.repeat(5000)}\n`
    }),
    ['/opt/up', '/opt/elf', '/opt/script', '/opt/python', '/sbin/init', '/']
  )
  t.ok(names.includes('/opt/elf'))
  t.throws(() => readFileSync(mischief))
})

t.test('what cannot be examined', { skip }, async t => {
  const folder = scratch(t)
  const file = path.join(folder, 'noise')
  writeFileSync(file, noise(4 << 20, 'no file system'))
  const { manifest } = await pack(file, path.join(folder, 'pack'))
  await t.rejects(examine(file, manifest), { code: 'BAD_IMAGE', message: /ext4/ })
  await t.rejects(examine(path.join(folder, 'nosuch'), manifest), { message: /nosuch/ })
  await t.rejects(examine(file, manifest, { applications: ['bin/x'] }), code('EINVAL'))
})
