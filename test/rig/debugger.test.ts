// Breakpoints and gdb itself, where int3 comes out of the guest: in a rig.
import { existsSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { guestPath } from '../../lib/index.js'
import { rigsUp, whyNoRigs, type Rig } from '../../scripts/rig/index.mjs'

const skip = existsSync('/usr/bin/gdb') ? await whyNoRigs() : 'gdb is not installed'

t.test('gdb', { skip, timeout: 300_000 }, async t => {
  const rigs = await rigsUp(1)
  t.teardown(() => rigs.down())
  const [rig] = rigs.rigs as [Rig]
  for (const board of ['standard', 'deterministic']) {
    const socket = `/tmp/gdb-${board}`
    const run = await rig.spawn(
      [process.execPath, path.resolve('dist/cli/main.js'), 'run', '--kernel', 'hello', '--board', board]
        .concat('--gdb', socket, '--paused', '--json')
    )
    run.stdin.end()
    let result = ''
    run.stdout.on('data', (data: Buffer) => (result += data.toString()))
    const commands = [
      'set pagination off',
      `target remote ${socket}`,
      'break guest_main',
      'continue',
      'printf "came to %d\\n", $pc == (unsigned long)&guest_main',
      'stepi',
      'printf "stepped %d\\n", $pc - (unsigned long)&guest_main',
      'x/1i $pc',
      'delete',
      'continue'
    ]
    const gdb = ['/usr/bin/gdb', '-batch', '-nx', ...commands.flatMap(command => ['-ex', command]), guestPath('hello')]
    // As soon as it listens.
    const { stdout, stderr } = await rig.exec(
      ['sh', '-c', 'while ! [ -S "$0" ]; do sleep 0.1; done; exec "$@"', socket, ...gdb],
      { timeout: 120_000 }
    )
    t.match(stdout, /came to 1\n/, `${board}: ${stderr}`)
    t.match(stdout, /stepped [1-9]\d?\n/)
    t.match(stdout, /exited normally/)
    t.match(await run.ended, { status: 0 })
    t.match(JSON.parse(result), { state: 'stopped', reason: 'power-off' })
  }
})
