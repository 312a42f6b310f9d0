// The arbiter in a folder: one winner, whoever is killed when, and silence where nobody knows.
import { fork, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { ArbiterError, EtcdArbiter, FileArbiter, openArbiter, type Claim } from '../../lib/arbiter/index.js'
import { code, scratch } from '../machine/support.js'

interface Answer {
  key: string
  claim: Claim
}
const claimer = (folder: string, who: string, keys: string[] = []): ChildProcess =>
  fork(fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './file-claimer.ts' : './file-claimer.js', import.meta.url)), [
    folder,
    who,
    keys.join(',')
  ])
/** A folder in memory, where there is one: an fsync takes its time elsewhere. */
function quick(t: Test): string {
  if (!existsSync('/dev/shm')) return scratch(t)
  const folder = mkdtempSync('/dev/shm/hypertwin-')
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
/** Until nothing but claims is there. */
async function tidied(folder: string): Promise<void> {
  while (readdirSync(folder).some(name => !name.endsWith('.claim'))) await new Promise(resolve => setImmediate(resolve))
}

t.test('one wins, for ever', async t => {
  const folder = scratch(t)
  const [source, destination] = [new FileArbiter(folder), new FileArbiter(folder)]
  t.equal(await source.prepare(), true)
  t.equal(await source.claim('abc', 'source'), 'won')
  t.equal(await destination.claim('abc', 'destination'), 'lost')
  t.equal(await source.claim('abc', 'source'), 'won', 'again')
  t.equal(await new FileArbiter(folder).claim('abc', 'source'), 'won', 'after a restart')
  t.equal(await destination.claim('def', 'destination'), 'won', 'another session')
  const { winner, at, host } = JSON.parse(readFileSync(path.join(folder, 'abc.claim'), 'utf8')) as Record<string, string>
  t.equal(winner, 'source')
  t.ok(Date.now() - Date.parse(at ?? '') < 60_000)
  t.ok(host)
  await tidied(folder)
})

t.test('two processes, 1000 keys: each has exactly one winner', async t => {
  const folder = quick(t)
  const two = [claimer(folder, 'source'), claimer(folder, 'destination')] as const
  t.teardown(() => two.forEach(child => child.kill()))
  await Promise.all(two.map(child => once(child, 'message')))
  const wins = [0, 0]
  let wrong = 0
  for (let i = 0; i < 1000; i++) {
    const answers = two.map(child => once(child, 'message') as Promise<[Answer]>)
    // Now the one, now the other is asked first.
    for (const child of i % 2 ? two : two.toReversed()) child.send(`key${i}`)
    const [first, second] = (await Promise.all(answers)).map(([answer]) => answer.claim)
    if (first === 'won') wins[0]!++
    if (second === 'won') wins[1]!++
    if (`${first} ${second}` !== 'won lost' && `${first} ${second}` !== 'lost won') wrong++
  }
  t.equal(wrong, 0)
  t.equal(wins[0]! + wins[1]!, 1000)
  t.ok(wins[0]! > 0 && wins[1]! > 0, `both won some: ${wins.join(' and ')}`)
  await tidied(folder)
})

t.test('a claimer killed at any moment leaves a claim or none', async t => {
  const folder = quick(t)
  const told = new Map<string, Claim>()
  let killed = 0
  for (let run = 0; run < 10; run++) {
    const keys = Array.from({ length: 500 }, (_, i) => `run${run}-${i}`)
    const child = claimer(folder, 'source', keys)
    const gone = once(child, 'exit') as Promise<[number | null, string | null]>
    let seen = 0
    child.on('message', ({ key, claim }: Answer) => {
      told.set(key, claim)
      // A number of answers, and then whatever it is at.
      if (++seen === 1 + 30 * run) child.kill('SIGKILL')
    })
    if ((await gone)[1] === 'SIGKILL') killed++
  }
  t.equal(killed, 10)
  const others = new FileArbiter(folder)
  let undecided = 0
  for (const name of new Set(readdirSync(folder).map(name => name.split('.')[0] ?? ''))) {
    const claim = await others.claim(name, 'destination')
    if (claim === 'unreachable' || (told.get(name) === 'won' && claim !== 'lost')) undecided++
    if (!told.has(name)) t.ok(['won', 'lost'].includes(claim), `${name}, which was at work: ${claim}`)
  }
  t.equal(undecided, 0)
  await tidied(folder)
})

t.test('a whole file that was not linked, and a link whose answer was lost', async t => {
  const folder = scratch(t)
  const whole = (winner: string): string => JSON.stringify({ key: 'abc', winner, at: new Date().toISOString() })
  writeFileSync(path.join(folder, 'abc.source.1.tmp'), whole('source'))
  t.equal(await new FileArbiter(folder).claim('abc', 'destination'), 'won')
  writeFileSync(path.join(folder, 'def.source.1.tmp'), whole('source'))
  linkSync(path.join(folder, 'def.source.1.tmp'), path.join(folder, 'def.claim'))
  t.equal(await new FileArbiter(folder).claim('def', 'destination'), 'lost')
  t.equal(await new FileArbiter(folder).claim('def', 'source'), 'won')
  await tidied(folder)
})

t.test('what cannot be known is unreachable, and says why', async t => {
  const folder = scratch(t)
  const arbiter = new FileArbiter(folder)
  for (const [name, text] of [
    ['empty', ''],
    ['torn', '{"winner":"sou'],
    ['other', '{"who":"source"}'],
    ['list', '[]'],
    ['nothing', 'null'],
    ['big', 'x'.repeat(5000)]
  ] as const) {
    writeFileSync(path.join(folder, `${name}.claim`), text)
    t.equal(await arbiter.claim(name, 'source'), 'unreachable', name)
    t.match(arbiter.lastError, { code: 'EBADMSG' }, name)
  }
  mkdirSync(path.join(folder, 'folder.claim'))
  t.equal(await arbiter.claim('folder', 'source'), 'unreachable')
  const gone = new FileArbiter(path.join(folder, 'nowhere'))
  t.equal(await gone.claim('abc', 'source'), 'unreachable')
  t.match(gone.lastError, { code: 'ENOENT' })
  t.equal(await gone.prepare(), false)
  mkdirSync(gone.folder)
  t.equal(await gone.claim('abc', 'source'), 'won', 'when it is back')
  t.equal(gone.lastError, undefined)
  rmSync(gone.folder, { recursive: true })
})

t.test('a full or read-only folder', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const folder = scratch(t)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', folder], { encoding: 'utf8' })
  if (mounted.status !== 0) {
    t.pass(`cannot mount: ${mounted.stderr}`, { skip: true })
    return
  }
  t.teardown(() => spawnSync('umount', [folder]))
  const arbiter = new FileArbiter(folder)
  t.equal(await arbiter.claim('before', 'source'), 'won')
  try {
    for (let i = 0; ; i++) writeFileSync(path.join(folder, `fill${i}`), 'x'.repeat(4096))
  } catch (error) {
    t.match(error, { code: 'ENOSPC' })
  }
  t.equal(await arbiter.claim('full', 'source'), 'unreachable')
  t.match(arbiter.lastError, { code: 'ENOSPC' })
  t.equal(await arbiter.claim('before', 'destination'), 'lost', 'what is decided is known')
  for (const name of readdirSync(folder)) if (name.startsWith('fill')) rmSync(path.join(folder, name))
  t.equal(await arbiter.claim('full', 'destination'), 'won')
})

t.test('storage that hangs is unreachable in time', async t => {
  const folder = scratch(t)
  const fifo = path.join(folder, 'abc.claim')
  // Nothing hangs as storage does; a claim that takes longer than a millisecond stands for it.
  const arbiter = new FileArbiter(folder, { timeoutMs: 1 })
  const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => arbiter.claim(`slow${i}`, 'source')))
  t.ok(answers.includes('unreachable'))
  t.match(arbiter.lastError, { code: 'ETIMEDOUT' })
  const patient = new FileArbiter(folder)
  let won = 0
  for (let i = 0; i < 200; i++) if ((await patient.claim(`slow${i}`, 'source')) === 'won') won++
  t.equal(won, 200, 'asked again')
  t.equal(spawnSync('mkfifo', [fifo]).status, 0)
  t.equal(await patient.claim('abc', 'source'), 'unreachable', 'no file: not even opened')
})

t.test('arguments', async t => {
  const folder = scratch(t)
  chmodSync(folder, 0o755)
  const arbiter = new FileArbiter(folder)
  for (const key of ['', '../abc', 'a/b', 'a.b', 'x'.repeat(101), '-a', undefined, 7])
    await t.rejects(arbiter.claim(key as string, 'source'), code('EINVAL'), String(key))
  await t.rejects(arbiter.claim('abc', 'the source'), code('EINVAL'))
  for (const bad of ['', 'a\0b', 7]) t.throws(() => new FileArbiter(bad as string), code('EINVAL'))
  t.throws(() => new FileArbiter(folder, { timeoutMs: 0 }), ArbiterError)
  t.equal((openArbiter(`file:${folder}`) as FileArbiter).folder, folder)
  t.equal((openArbiter(`file://${folder}`) as FileArbiter).folder, folder)
  t.ok(openArbiter('etcd:http://127.0.0.1:1,http://127.0.0.1:2') instanceof EtcdArbiter)
  for (const bad of ['', 'file:', 'etcd:', 'etcd:127.0.0.1:1', 'redis:x']) t.throws(() => openArbiter(bad), code('EINVAL'), bad)
})
