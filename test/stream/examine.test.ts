// Examinations: of file systems made here, whose files lie where debugfs says, so that the right chunks can be known.
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, cpSync, mkdirSync, openSync, readdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { ExtFileSystem } from '../../lib/stream/ext.js'
import { examine, pack, type Examination, type Manifest } from '../../lib/stream/index.js'
import { hardwareDatabase } from './hwdb.js'
import { CHUNK, code, noise, scratch } from './support.js'

process.env['PATH'] += ':/usr/sbin:/sbin'
const lacking = ['debugfs', 'mke2fs', 'sfdisk', 'readelf'].filter(name => spawnSync(name, ['-V']).error)
const skip = lacking.length > 0 ? `missing: ${lacking.join(', ')} (Debian: e2fsprogs, fdisk, binutils)` : false

/** A file system of these files; a text that begins with -> is a link, and an empty folder's name ends with a stroke. */
function fileSystem(t: Test, files: Record<string, string | Buffer>, size: string, ...options: string[]): string {
  const folder = scratch(t)
  const tree = path.join(folder, 'tree')
  mkdirSync(tree)
  for (const [name, contents] of Object.entries(files)) {
    if (name.endsWith('/')) {
      mkdirSync(path.join(tree, name), { recursive: true })
      continue
    }
    const file = path.join(tree, name)
    mkdirSync(path.dirname(file), { recursive: true })
    if (typeof contents === 'string' && contents.startsWith('-> ')) symlinkSync(contents.slice(3), file)
    else if (typeof contents === 'string' && contents.startsWith('copy ')) cpSync(contents.slice(5), file, { dereference: true })
    else writeFileSync(file, contents, { mode: typeof contents === 'string' && !contents.startsWith('#!') ? 0o644 : 0o755 })
  }
  const made = path.join(folder, 'image')
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', ...options, '-d', tree, made, size])
  return made
}

const passwd = { '/etc/passwd': 'root::0:0:root:/:/bin/sh\n' }

/** A root file system. */
const image = (t: Test, files: Record<string, string | Buffer>, { offset = 0 } = {}): string =>
  fileSystem(t, { ...passwd, ...files }, '60M', '-E', `offset=${offset}`)

/** A disk with a partition table that sfdisk makes, and what lies in each, 32 MiB at most. */
function disk(t: Test, label: 'dos' | 'gpt', parts: { contents: string; more?: string }[]): string {
  const made = path.join(scratch(t), 'disk')
  const mib = 1 << 20
  writeFileSync(made, '')
  truncateSync(made, (parts.length * 32 + 2) * mib)
  const lines = parts.map(({ more = '' }, i) => `start=${(i * 32 + 1) * 2048},size=65536${more}`)
  execFileSync('sfdisk', ['-q', made], { input: `label: ${label}\n${label === 'dos' ? 'label-id: 0x1234ABCD\n' : ''}${lines.join('\n')}\n` })
  parts.forEach(({ contents }, i) => {
    const file = openSync(made, 'r+')
    writeSync(file, readFileSync(contents), 0, undefined, (i * 32 + 1) * mib)
    closeSync(file)
  })
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
  const lists = execFileSync('ldd', ['/bin/bash'], { encoding: 'utf8', env: { ...process.env, LD_PRELOAD: '' } })
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
      [`${python}/bundle/__init__.py`]: 'from bundle.extern.inner import one\n',
      [`${python}/bundle/_vendor/inner.py`]: '',
      '/srv/app': '#!/usr/bin/env python3\nimport json, nosuch, bundle\n',
      '/usr/bin/env': noise(30_000, 'env')
    }),
    ['/srv/app']
  )
  for (const name of ['/srv/app', '/usr/bin/env', '/usr/bin/python3.11', `${python}/os.py`, `${python}/stat.py`, `${python}/json/decoder.py`, `${python}/json/scanner.py`, `${python}/bundle/_vendor/inner.py`, `${python}/__pycache__/re.cpython-311.pyc`])
    t.ok(names.includes(name), name)
  for (const name of [`${python}/turtle.py`, `${python}/re.py`]) t.notOk(names.includes(name), name)
})

t.test('of its package an application brings what it names, in whatever letters, and what that names', { skip }, async t => {
  const { names } = await examined(
    t,
    image(t, {
      '/usr/bin/app': Buffer.concat([readFileSync('/bin/true'), Buffer.from('\0first.data\0\0'), Buffer.from('second.data\0', 'utf16le'), Buffer.from('\0/usr/bin/app-tool\0')]),
      '/usr/bin/app-tool': noise(10_000, 'tool'),
      '/usr/share/app/first.data': 'see third.data\n',
      '/usr/share/app/second.data': noise(40_000, 'second'),
      '/usr/share/app/third.data': noise(40_000, 'third'),
      '/usr/share/app/fourth.data': noise(40_000, 'fourth'),
      '/usr/share/doc/app/manual': 'first.data\n',
      '/usr/share/other/first.data': noise(40_000, 'other'),
      '/etc/app/app.conf': 'include /etc/app.d/more.conf\n',
      '/etc/app.d/more.conf': 'x\n',
      '/var/lib/dpkg/info/app.list': `/.\n/usr\n/usr/bin/app\n/usr/bin/app-tool\n${['first', 'second', 'third', 'fourth'].map(name => `/usr/share/app/${name}.data\n`).join('')}/usr/share/doc/app/manual\n/usr/share/app/gone\n`,
      '/var/lib/dpkg/info/other.list': '/usr/share/other/first.data\n'
    }),
    ['/usr/bin/app']
  )
  t.same(names.filter(name => name.startsWith('/usr')).sort(), ['/usr/bin/app', ...['first', 'second', 'third'].map(name => `/usr/share/app/${name}.data`)].sort())
  for (const name of ['/etc/app/app.conf', '/etc/app.d/more.conf']) t.ok(names.includes(name), name)
})

t.test('tools of its package come where a service’s scripts run them', { skip }, async t => {
  const { names } = await examined(
    t,
    image(t, {
      ...systemd,
      '/bin/prepare': '#!/bin/sh\nrun_for_version app-control start\n',
      // No script, though it has the word.
      '/usr/sbin/webd': Buffer.concat([readFileSync('/bin/true'), Buffer.alloc(1 << 20), Buffer.from('\0app-other\0')]),
      '/usr/lib/app/bin/app': Buffer.concat([readFileSync('/bin/true'), Buffer.from('\0app-other\0')]),
      '/usr/lib/app/bin/app-control': noise(10_000, 'control'),
      '/usr/lib/app/bin/app-other': noise(10_000, 'other'),
      '/var/lib/dpkg/info/app.list': '/usr/lib/app/bin/app\n/usr/lib/app/bin/app-control\n/usr/lib/app/bin/app-other\n'
    }),
    ['/usr/lib/app/bin/app']
  )
  t.ok(names.includes('/usr/lib/app/bin/app-control'))
  t.notOk(names.includes('/usr/lib/app/bin/app-other'))
})

t.test('configuration brings the modules that it loads, where they are enabled', { skip }, async t => {
  const { names } = await examined(
    t,
    image(t, {
      ...systemd,
      '/usr/sbin/webd': Buffer.concat([readFileSync('/bin/true'), Buffer.from('\0/usr/lib/webd/modules\0')]),
      '/usr/lib/webd/modules/mod_in.so': noise(100_000, 'in'),
      '/usr/lib/webd/modules/mod_out.so': noise(100_000, 'out'),
      '/usr/lib/webd/modules/mod_path.so': noise(100_000, 'path'),
      '/etc/webd/mods-available/in.load': 'LoadModule in mod_in.so\n',
      '/etc/webd/mods-available/out.load': 'LoadModule out mod_out.so\n',
      '/etc/webd/mods-enabled/in.load': '-> ../mods-available/in.load',
      '/etc/webd/webd.conf': '# LoadModule out mod_out.so\nLoadModule path /usr/lib/webd/modules/mod_path.so\nroot /srv/www\nindex /srv/www/index.html\n',
      '/srv/www/index.html': 'page\n',
      '/etc/cron.d/web': '* * * * * root /usr/lib/webd/later\n',
      '/usr/lib/webd/later': noise(50_000, 'later')
    })
  )
  for (const name of ['/usr/lib/webd/modules/mod_in.so', '/usr/lib/webd/modules/mod_path.so', '/etc/webd/mods-available/in.load', '/srv/www/index.html']) t.ok(names.includes(name), name)
  for (const name of ['/usr/lib/webd/modules/mod_out.so', '/etc/webd/mods-available/out.load', '/usr/lib/webd/later']) t.notOk(names.includes(name), name)
})

t.test('instances of templates come, what timers start later does not, and a unit’s folder does', { skip }, async t => {
  const { names, services } = await examined(
    t,
    image(t, {
      ...systemd,
      '/lib/systemd/system/web@.service': unit('ExecStart=/usr/bin/instance %i'),
      '/usr/bin/instance': noise(50_000, 'instance'),
      '/etc/systemd/system/timers.target.wants/daily.timer': '-> /lib/systemd/system/daily.timer',
      '/lib/systemd/system/multi-user.target': '[Unit]\nWants=timers.target\n',
      '/lib/systemd/system/timers.target': '[Unit]\n',
      '/lib/systemd/system/daily.timer': '[Timer]\nUnit=daily.service\n',
      '/lib/systemd/system/daily.service': unit('ExecStart=/usr/bin/daily'),
      '/usr/bin/daily': noise(50_000, 'daily'),
      '/lib/systemd/system/web.service': unit('WorkingDirectory=/srv/app', 'ExecStart=/usr/sbin/webd --data /srv/data', 'ExecStop=/usr/bin/stopper'),
      '/usr/bin/stopper': noise(50_000, 'stopper'),
      '/srv/app/templates/front.html': 'front\n'
    })
  )
  t.ok(services.includes('web.service'))
  for (const name of ['/usr/bin/instance', '/srv/app/templates/front.html']) t.ok(names.includes(name), name)
  for (const name of ['/usr/bin/daily', '/usr/bin/stopper']) t.notOk(names.includes(name), name)
})

t.test('of the database of hardware comes what a search reads', { skip }, async t => {
  // The page of each device's node lies apart from the others'.
  const { file, nodes } = hardwareDatabase({ children: { a: { prefix: 'cpi:PNP0A03:' }, q: { prefix: 'uantum:' } } }, 1 << 19)
  const { names, profile, image: made } = await examined(t, image(t, { ...systemd, '/usr/lib/udev/hwdb.bin': file }))
  t.ok(names.includes('/usr/lib/udev/hwdb.bin'))
  const wanted = new Set(profile.entries.map(({ chunk }) => chunk))
  const chunks = execFileSync('debugfs', ['-R', 'blocks /usr/lib/udev/hwdb.bin', made], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).match(/\d+/g) ?? []
  const chunkAt = (byte = 0): number => Math.floor((Number(chunks[Math.floor(byte / 4096)]) * 4096) / CHUNK)
  const [known = 0, unknown = 0] = [...nodes.values()]
  t.ok(wanted.has(chunkAt(known)))
  t.notOk(wanted.has(chunkAt(unknown)))
})

t.test('who has fontconfig looks at all fonts', { skip }, async t => {
  const files = { '/usr/share/fonts/one/a.ttf': noise(50_000, 'a'), '/etc/fonts/fonts.conf': 'x\n', '/usr/lib/libfontconfig.so.1': noise(10_000, 'library') }
  const program = (needs: string): string => `#!/bin/sh\n${needs}\n`
  const paths = (all: string[]): string[] => all.filter(name => name.includes('/fonts'))
  t.same(paths((await examined(t, image(t, { ...files, '/opt/app': program('/usr/lib/libfontconfig.so.1') }), ['/opt/app'])).names), ['/etc/fonts/fonts.conf', '/usr/share/fonts/one/a.ttf'])
  t.same(paths((await examined(t, image(t, { ...files, '/opt/app': program('') }), ['/opt/app'])).names), [])
})

t.test('a unit runs nothing where its conditions do not hold', { skip }, async t => {
  const conditions: Record<string, string[]> = {
    runs1: ['ConditionPathExists=/etc/there', 'ConditionPathExists=!/etc/missing', 'ConditionFirstBoot=no'],
    runs2: ['ConditionPathExists=|/etc/missing', 'ConditionDirectoryNotEmpty=|/etc/full.d'],
    runs3: ['ConditionPathExists=/etc/missing', 'ConditionPathExists='],
    // The image does not tell of these.
    runs5: ['ConditionPathExists=/run/made', 'ConditionPathExists=!/run/left', 'ConditionDirectoryNotEmpty=/sys/class/net', 'ConditionVirtualization=!container', 'ConditionSecurity=x'],
    runs6: ['ConditionPathExists=/etc/web/%i', 'ConditionPathExists=/var/lib/made', 'ConditionPathExists=/etc/dangling', 'ConditionPathExists=/srv/data', 'Conditionconstructor=x'],
    // A later file takes back, and of two of a name the first counts.
    runs7: ['ConditionPathExists=/etc/missing'],
    runs4: ['ConditionFileNotEmpty=/etc/there', 'ConditionFileIsExecutable=/usr/bin/runs4', 'ConditionPathIsDirectory=/etc/full.d'],
    not1: ['ConditionPathExists=/etc/missing'],
    not2: ['ConditionDirectoryNotEmpty=|/etc/empty.d', 'ConditionDirectoryNotEmpty=|/run/missing.d'],
    not3: ['ConditionFirstBoot=yes'],
    not4: ['ConditionPathExists=!/etc/there', 'ConditionSecurity=selinux'],
    not5: ['ConditionFileIsExecutable=/etc/there'],
    not6: ['ConditionPathExists=/etc/there'],
    not7: []
  }
  const names = Object.keys(conditions)
  const { names: found, services } = await examined(
    t,
    image(t, {
      ...systemd,
      '/etc/machine-id': '6d1a3a5c1bd44b0d8e9dd0d5a6a1c0de\n',
      '/etc/there': 'x\n',
      '/etc/full.d/one': 'x\n',
      '/etc/empty.d/.placeholder': '',
      '/run/left': 'x\n',
      '/etc/dangling': '-> /nowhere/at/all',
      '/etc/fstab': '/dev/vdb1 /srv ext4 defaults 0 2\n',
      '/etc/systemd/system/runs7.service.d/zz.conf': '[Unit]\nConditionPathExists=\n',
      '/lib/systemd/system/runs7.service.d/aa.conf': '[Unit]\nConditionPathExists=/etc/missing\n',
      '/lib/systemd/system/runs7.service.d/zz.conf': '[Unit]\nConditionPathExists=/etc/missing\n',
      '/lib/systemd/system/not6.service.d/more.conf': '[Unit]\nConditionPathExists=/etc/missing\n',
      '/lib/systemd/system/runs1.service.d/more.conf.old': '[Unit]\nConditionPathExists=/etc/missing\n',
      '/etc/systemd/system/not7.service': '-> /dev/null',
      '/lib/systemd/system/multi-user.target': `[Unit]\nWants=${names.map(name => `${name}.service`).join(' ')}\n`,
      ...Object.fromEntries(names.map(name => [`/lib/systemd/system/${name}.service`, `[Unit]\n${conditions[name]?.join('\n')}\n[Service]\nExecStart=/usr/bin/${name}\n`])),
      ...Object.fromEntries(names.map(name => [`/usr/bin/${name}`, noise(20_000, name)]))
    })
  )
  for (const name of names) {
    const runs = name.startsWith('runs')
    t.equal(found.includes(`/usr/bin/${name}`), runs, name)
    t.equal(services.includes(`${name}.service`), runs, `${name}.service`)
  }
})

t.test('whether a start is the first', { skip }, async t => {
  for (const [id, first] of [[undefined, true], ['uninitialized\n', true], ['', false], ['6d1a3a5c1bd44b0d8e9dd0d5a6a1c0de\n', false]] as const) {
    const on = (name: string, value: string): Record<string, string> => ({ [`/lib/systemd/system/${name}.service`]: `[Unit]\nConditionFirstBoot=${value}\n[Service]\nExecStart=/bin/sh\n` })
    const files = { ...systemd, ...(id !== undefined && { '/etc/machine-id': id }), ...on('first', 'yes'), ...on('later', 'no'), '/lib/systemd/system/multi-user.target': '[Unit]\nWants=first.service later.service\n' }
    const { services } = await examined(t, image(t, files))
    t.same(services.filter(name => name !== 'web.service'), [first ? 'first.service' : 'later.service'], String(id))
  }
})

t.test('Perl’s, Node’s and Java’s modules; commands of shell scripts', { skip }, async t => {
  const { names } = await examined(
    t,
    image(t, {
      '/usr/bin/perl': noise(10_000, 'perl'),
      '/srv/report': '#!/usr/bin/perl -w\nuse strict;\nuse Mine::Own qw(x);\n',
      '/usr/share/perl/5.36/strict.pm': '1;\n',
      '/usr/share/perl5/Mine/Own.pm': 'package Mine::Own;\nrequire List::Fast;\n1;\n__END__\nuse Not::This;\n',
      '/usr/share/perl5/Not/This.pm': '1;\n',
      '/usr/lib/x86_64-linux-gnu/perl-base/List/Fast.pm': '1;\n',
      '/usr/lib/x86_64-linux-gnu/perl-base/auto/List/Fast/Fast.so': noise(10_000, 'fast'),
      '/usr/bin/node': noise(10_000, 'node'),
      '/srv/serve': "#!/usr/bin/env node\nconst web = require('web')\nrequire('./own')\n",
      '/srv/own.js': "import x from './deep/index.js'\n",
      '/srv/deep/index.js': '',
      '/usr/share/nodejs/web/package.json': '{ "main": "lib/main" }',
      '/usr/share/nodejs/web/lib/main.js': "const part = require('../part')\n",
      '/usr/share/nodejs/web/part/index.js': '',
      '/usr/share/nodejs/web/test.js': '',
      '/opt/jvm/bin/java': Buffer.concat([readFileSync('/bin/true')]),
      '/opt/jvm/lib/server/libjvm.so': noise(50_000, 'jvm'),
      '/opt/jvm/lib/modules': noise(6 << 20, 'modules'),
      '/opt/start': '#!/bin/sh\nif true; then helper -x; fi\nexec other\n',
      '/bin/sh': noise(10_000, 'sh'),
      '/usr/bin/helper': noise(10_000, 'helper'),
      '/usr/sbin/other': noise(10_000, 'other'),
      '/usr/bin/fi': noise(10_000, 'fi'),
      '/usr/bin/env': noise(10_000, 'env')
    }),
    ['/srv/report', '/srv/serve', '/opt/jvm/bin/java', '/opt/start']
  )
  for (const name of [
    '/usr/bin/perl', '/usr/share/perl/5.36/strict.pm', '/usr/share/perl5/Mine/Own.pm', '/usr/lib/x86_64-linux-gnu/perl-base/auto/List/Fast/Fast.so',
    '/usr/bin/node', '/srv/own.js', '/srv/deep/index.js', '/usr/share/nodejs/web/package.json', '/usr/share/nodejs/web/lib/main.js', '/usr/share/nodejs/web/part/index.js',
    '/opt/jvm/lib/server/libjvm.so', '/opt/jvm/lib/modules', '/usr/bin/helper', '/usr/sbin/other'
  ])
    t.ok(names.includes(name), name)
  for (const name of ['/usr/share/perl5/Not/This.pm', '/usr/share/nodejs/web/test.js', '/usr/bin/fi']) t.notOk(names.includes(name), name)
})

t.test('of a large library that many share comes what the loader reads; of what is free the tables', { skip }, async t => {
  const folder = scratch(t)
  writeFileSync(path.join(folder, 'data'), noise(10 << 20, 'rodata'))
  writeFileSync(path.join(folder, 'large.s'), `.section .rodata\n.incbin "${path.join(folder, 'data')}"\n.data\n.globl large\nlarge: .long 1\n.section .note.GNU-stack,"",@progbits\n`)
  writeFileSync(path.join(folder, 'main.c'), 'extern int large; int main(void) { return large; }\n')
  const library = path.join(folder, 'liblarge.so')
  execFileSync('cc', ['-shared', '-nostdlib', '-Wl,-soname,liblarge.so', '-o', library, path.join(folder, 'large.s')])
  execFileSync('cc', ['-o', path.join(folder, 'main'), path.join(folder, 'main.c'), library])
  const made = image(t, {
    '/usr/bin/main': `copy ${path.join(folder, 'main')}`,
    '/usr/lib/x86_64-linux-gnu/liblarge.so': `copy ${library}`
  })
  const { names, profile } = await examined(t, made, ['/usr/bin/main'])
  t.ok(names.includes('/usr/lib/x86_64-linux-gnu/liblarge.so'))
  const wanted = new Set(profile.entries.map(({ chunk }) => chunk))
  const chunks = chunksOf(made, '/usr/lib/x86_64-linux-gnu/liblarge.so')
  const has = chunks.filter(chunk => wanted.has(chunk)).length
  t.ok(chunks.length > 150 && has >= 2 && has < 20, `${has} of ${chunks.length} chunks`)
  const groups = execFileSync('debugfs', ['-R', 'show_super_stats', made], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const [, ...blocks] = /Group +0: block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)/.exec(groups) ?? []
  t.equal(blocks.length, 3)
  for (const block of blocks) t.ok(wanted.has(Math.floor((Number(block) * 4096) / CHUNK)), `block ${block}`)
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

/** A manifest for images of which it does not matter where files lie. */
async function anyManifest(t: Test): Promise<Manifest> {
  const file = path.join(scratch(t), 'any')
  writeFileSync(file, noise(CHUNK, 'any'))
  return (await pack(file, scratch(t))).manifest
}

t.test('beyond 4 GiB, with a temporary folder that has a space in its name', { skip }, async t => {
  const made = image(t, systemd, { offset: 5 * 2 ** 30 })
  execFileSync('sfdisk', ['-q', made], { input: `label: gpt\n${5 * 2 ** 21},,L\n` })
  const before = process.env['TMPDIR']
  process.env['TMPDIR'] = path.join(scratch(t), 'a b')
  t.teardown(() => (before === undefined ? delete process.env['TMPDIR'] : (process.env['TMPDIR'] = before)))
  mkdirSync(process.env['TMPDIR'])
  const { files, services } = await examine(made, await anyManifest(t))
  t.same(services, ['web.service'])
  const names = files.map(({ path }) => path)
  for (const name of ['/lib/systemd/systemd', '/bin/sh', '/usr/sbin/webd', '/bin/prepare', '/usr/bin/tool', '/etc/web/functions', '/etc/web.environment', '/etc/webd/webd.conf', '/etc/os-release', '/etc/passwd'])
    t.ok(names.includes(name), name)
  t.same(readdirSync(process.env['TMPDIR']).filter(name => name.includes('examine')), [])
})

t.test('a bare file system behind a boot loader; of a large folder the smaller files; not all of a large system', { skip }, async t => {
  const large = path.join(scratch(t), 'large')
  writeFileSync(large, '')
  truncateSync(large, 40 << 20)
  const made = image(t, { '/opt/app/one': `copy ${large}`, '/opt/app/two': `copy ${large}`, '/opt/app/in/run.py': 'x\n', '/opt/app/in/data': 'y\n' })
  const file = openSync(made, 'r+')
  writeSync(file, Buffer.from([0x55, 0xaa]), 0, 2, 510)
  closeSync(file)
  const { files, missed } = await examine(made, await anyManifest(t), { applications: ['/opt/app', '/'] })
  t.same(files.filter(({ why }) => why === 'application').map(({ path }) => path).sort(), ['/opt/app/in/data', '/opt/app/in/run.py', '/opt/app/one'])
  t.same(missed, ['the larger files of /opt/app, which has more than 64 MiB', '/'])
  const over = new AbortController()
  await using whole = await ExtFileSystem.open(made, 0, { index: 0, signal: over.signal })
  await using part = await ExtFileSystem.open(made, 0, { index: 0, limit: 3 })
  t.notOk(whole?.cut)
  t.ok(part?.cut)
  // What leads through memory alone ends too.
  over.abort()
  await t.rejects(async () => {
    for (let i = 0; i < 10_000; i++) await whole?.find('/etc/passwd')
  }, over.signal.reason as Error)
})

t.test('file systems of other partitions, where /etc/fstab mounts them', { skip }, async t => {
  const uuid = '01234567-89ab-cdef-0123-456789abcdef'
  const { '/usr/sbin/webd': webd, '/usr/bin/tool': tool, '/usr/sbin/otherd': otherd, '/usr/share/doc/large': large, ...rest } = systemd
  const usr = { '/sbin/webd': webd, '/bin/tool': tool, '/sbin/otherd': otherd, '/share/doc/large': large, '/local/': '' }
  const root = (...fstab: string[]): string =>
    fileSystem(
      t,
      { ...passwd, ...rest, '/boot/': '', '/usr/': '', '/srv/': '', '/etc/fstab': ['# <what> <where>', ...fstab, 'tmpfs /tmp tmpfs', '/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0', ''].join('\n') },
      '24M'
    )
  const local = (): string => fileSystem(t, { '/bin/prepare2': noise(90_000, 'local') }, '16M', '-L', 'of its own')
  const boot = (): string => fileSystem(t, { '/vmlinuz-6.1': noise(200_000, 'kernel'), '/unused': noise(200_000, 'unused') }, '16M', '-U', uuid)
  const other = (): string => fileSystem(t, { '/data': noise(200_000, 'data') }, '16M')
  const unit = { '/etc/systemd/system/web.service.d/more.conf': '[Service]\nExecStartPre=/usr/local/bin/prepare2\n' }
  Object.assign(rest, unit)
  const partuuid = 'aaaaaaaa-89ab-cdef-0123-456789abcdef'
  for (const [made, missed] of [
    [disk(t, 'dos', [{ contents: boot() }, { contents: root(`UUID=${uuid.toUpperCase()} /boot ext4 defaults 0 2`, 'LABEL=of\\040its\\040own /usr/local ext4', '/dev/vda4 /usr ext4 ro', '/dev/sdb1 /srv ext4') }, { contents: local() }, { contents: fileSystem(t, usr, '16M') }]), ['/srv (/dev/sdb1)']],
    [disk(t, 'gpt', [{ contents: root('/dev/disk/by-uuid/' + uuid + ' /boot/ auto', 'PARTLABEL=mine /usr/local ext4', `PARTUUID=${partuuid} /usr ext4`, '/dev/mapper/x-y /var ext4') }, { contents: boot() }, { contents: local(), more: ',name=mine' }, { contents: fileSystem(t, usr, '16M'), more: `,uuid=${partuuid}` }, { contents: other() }]), ['/var (/dev/mapper/x-y)', '5']],
    [disk(t, 'dos', [{ contents: root('PARTUUID=1234abcd-03 /boot ext4', '/dev/nvme0n1p2 /usr ext4', '/dev/sda4 /usr/local ext4') }, { contents: fileSystem(t, usr, '16M') }, { contents: boot() }, { contents: local() }]), []]
  ] as const) {
    const { names, missed: left, profile, files } = await examined(t, made)
    t.same(left.map(name => name.replace(made, '')), missed)
    for (const name of ['/usr/sbin/webd', '/usr/bin/tool', '/bin/prepare', '/usr/local/bin/prepare2', '/boot/vmlinuz-6.1']) t.ok(names.includes(name), name)
    for (const name of ['/usr/sbin/otherd', '/boot/unused']) t.notOk(names.includes(name), name)
    t.equal(files[0]?.path, '/boot/vmlinuz-6.1', 'the boot loader reads it first')
    const wanted = new Set(profile.entries.map(({ chunk }) => chunk))
    const contents = readFileSync(made)
    const has = (what: Buffer): boolean => Array.from({ length: Math.floor(what.length / 4096) }, (_, i) => contents.indexOf(what.subarray(i * 4096, i * 4096 + 32))).every(at => at > 0 && wanted.has(Math.floor(at / CHUNK)))
    for (const what of [noise(300_000, 'webd'), noise(90_000, 'local'), noise(200_000, 'kernel')]) t.ok(has(what), 'where it lies in the whole image')
    t.notOk(has(noise(200_000, 'unused')))
  }
  // Without a mount they are only told of.
  const { missed, names } = await examined(t, disk(t, 'dos', [{ contents: root() }, { contents: fileSystem(t, usr, '16M') }]))
  t.match(missed, [/disk2$/])
  t.notOk(names.includes('/usr/sbin/webd'))
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

t.test('hostile: what sizes are said to be fills no disk', { skip }, async t => {
  // A name that looks to debugfs's reader as if there were another file; and one that is said to be large, and a long link.
  const [name, lie] = ['/opt/z__100755_0_0_lie_10_', (inode: number): string => `z\n/${inode}/100755/0/0/lie/10/\n`]
  const made = fileSystem(t, { ...passwd, '/opt/true': 'copy /bin/true', '/opt/large': 'copy /bin/true', '/opt/link': `${'a/'.repeat(1 << 20)}`, '/opt/fat': noise(1 << 20, 'fat'), [`${name}${'_'.repeat(9)}`]: '' }, '24M', '-O', '^metadata_csum')
  const change = (...commands: string[]): string => commands.map(command => execFileSync('debugfs', ['-w', '-R', command, made], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })).join('')
  change(`sif /opt/large size ${1 << 30}`, 'sif /opt/link mode 0120777', 'sif /opt/fat mode 0100755')
  const tools = scratch(t)
  const log = path.join(tools, 'log')
  writeFileSync(path.join(tools, 'readelf'), `#!/bin/sh\nfor file; do :; done\nstat -c %s "$file" >> ${log}\nPATH=\${PATH#*:} exec readelf "$@"\n`, { mode: 0o755 })
  const before = process.env['PATH'] ?? ''
  process.env['PATH'] = `${tools}:${before}`
  t.teardown(() => (process.env['PATH'] = before))
  const manifest = await anyManifest(t)
  const { files } = await examine(made, manifest, { applications: ['/opt/large', '/opt/link', '/opt/link/x', '/opt/true'] })
  t.same(files.map(({ path }) => path).filter(path => path.startsWith('/opt')), ['/opt/large', '/opt/true'])
  const sizes = readFileSync(log, 'latin1').trim().split('\n').map(Number)
  t.ok(sizes.length > 0 && sizes.every(size => size < 1 << 20), sizes.join(' '))
  const inode = Number(/Inode: (\d+)/.exec(change('stat /opt/fat'))?.[1])
  const bytes = readFileSync(made)
  const at = bytes.indexOf(name.slice(5))
  t.ok(at > 0)
  bytes.write(lie(inode).padEnd(name.length - 5 + 9, '_'), at, 'latin1')
  writeFileSync(made, bytes)
  await t.rejects(examine(made, manifest, { applications: ['/opt/lie'] }), { code: 'BAD_IMAGE', message: /more than the 10 bytes/ })
})

t.test('what cannot be examined', { skip }, async t => {
  const folder = scratch(t)
  const file = path.join(folder, 'noise')
  writeFileSync(file, noise(4 << 20, 'no file system'))
  const { manifest } = await pack(file, path.join(folder, 'pack'))
  await t.rejects(examine(file, manifest), { code: 'BAD_IMAGE', message: /ext4/ })
  await t.rejects(examine(path.join(folder, 'nosuch'), manifest), { code: 'ENOENT', message: /nosuch/ })
  await t.rejects(examine(folder, manifest), code('EISDIR'))
  const fifo = path.join(folder, 'fifo')
  execFileSync('mkfifo', [fifo])
  for (const other of [fifo, '/dev/null']) await t.rejects(examine(other, manifest), { code: 'EINVAL', message: /neither a file nor a block device/ })
  for (const [image, of] of [[undefined, manifest], [file, undefined]]) await t.rejects(examine(image as string, of as typeof manifest), code('EINVAL'))
  const bare = path.join(folder, 'bare')
  execFileSync('mke2fs', ['-q', '-t', 'ext4', bare, '8M'])
  await t.rejects(examine(bare, manifest), { code: 'BAD_IMAGE', message: /no system in its ext file systems/ })
  await t.rejects(examine(file, manifest, { applications: ['bin/x'] }), code('EINVAL'))
})
