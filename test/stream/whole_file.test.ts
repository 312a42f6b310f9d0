// Files that are there whole or not at all.
import { execFileSync } from 'node:child_process'
import { chmodSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { writeWhole } from '../../lib/stream/whole_file.js'
import { code, noMount, scratch } from './support.js'

t.test('it takes the place of what was there, and nothing else is left', async t => {
  const folder = t.testdir({ there: 'before' })
  const at = (name: string): string => path.join(folder, name)
  chmodSync(at('there'), 0o640)
  const before = statSync(at('there')).ino
  symlinkSync('there', at('link'))
  await writeWhole(at('link'), 'after')
  t.ok(lstatSync(at('link')).isSymbolicLink())
  t.equal(readFileSync(at('there'), 'utf8'), 'after')
  t.equal(statSync(at('there')).mode & 0o777, 0o640)
  t.not(statSync(at('there')).ino, before, 'who has it open reads on in what was there')
  await writeWhole(at('new'), Buffer.from('new'), 0o600)
  t.equal(statSync(at('new')).mode & 0o777, 0o600)
  t.same(readdirSync(folder).sort(), ['link', 'new', 'there'])
})

t.test('what is no file is written to, and stays', async t => {
  await writeWhole('/dev/null', 'nothing')
  t.ok(statSync('/dev/null').isCharacterDevice())
})

t.test('one whose place another cannot take is written over', { skip: noMount }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  writeFileSync(at('its'), 'before, and longer')
  writeFileSync(at('mounted'), '')
  execFileSync('mount', ['--bind', at('its'), at('mounted')])
  t.teardown(() => execFileSync('umount', [at('mounted')]))
  await writeWhole(at('mounted'), 'after')
  t.equal(readFileSync(at('its'), 'utf8'), 'after')
  t.same(readdirSync(folder).sort(), ['its', 'mounted'])
})

t.test('one that cannot be written', async t => {
  const folder = t.testdir({ there: 'before' })
  await t.rejects(writeWhole(path.join(folder, 'no', 'file'), 'x'), code('ENOENT'))
  await t.rejects(writeWhole(path.join(folder, 'there'), {} as string), Error)
  t.equal(readFileSync(path.join(folder, 'there'), 'utf8'), 'before')
  t.same(readdirSync(folder), ['there'])
})
