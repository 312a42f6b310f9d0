// `hypertwin run` on a terminal of its own: keys, commands, a snapshot from there, and a machine that goes on from it.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { noKvm } from '../no_kvm.js'
import { limit } from '../patience.js'

const command = path.resolve('dist/cli/main.js')
const skip = noKvm || (spawnSync('script', ['--version']).error ? 'the program script (util-linux, bsdutils) is missing' : false)

interface Terminal {
  /** Types, and waits for what answers. */
  answers: (typed: string, text: string) => Promise<void>
  /** Waits for what comes behind that which was waited for before. */
  sees: (text: string) => Promise<void>
  /** Ends the machine. @returns the exit status */
  end: () => Promise<number | null>
}

/** The command on a pseudo terminal, which script(1) makes. */
function terminal(t: Test, ...args: string[]): Terminal {
  const words = [process.execPath, command, 'run', ...args].map(word => `'${word}'`).join(' ')
  const child = spawn('script', ['-qec', words, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let [shown, from] = ['', 0]
  let wake = (): void => {}
  child.stdout.setEncoding('latin1').on('data', (text: string) => {
    shown += text
    wake()
  })
  const ended = once(child, 'close').then(([status]) => {
    wake()
    return status as number | null
  })
  const sees = async (text: string): Promise<void> => {
    for (;;) {
      const at = shown.indexOf(text, from)
      if (at >= 0) {
        from = at + text.length
        return
      }
      if (child.exitCode !== null) throw new Error(`it ended before it showed ${text}: ${shown.slice(from)}`)
      await new Promise<void>(resolve => (wake = resolve))
    }
  }
  return {
    answers(typed, text) {
      child.stdin.write(typed)
      return sees(text)
    },
    sees,
    // Ctrl-A x.
    async end() {
      child.stdin.write('\x01x')
      return ended
    }
  }
}

t.test('a machine on a terminal, and on another one from its snapshot', { skip, timeout: limit(60_000) }, async t => {
  const file = path.join(t.testdir({}), 'state.htsnap')
  {
    const screen = terminal(t, '--kernel', 'dirtier', '--append', 'base=4M pages=64 count=64 rounds=1 stay=1', '--snapshot', file)
    await screen.sees('dirtier done 1')
    await screen.answers('\x01h', 'Ctrl-A x  end the machine')
    // Ctrl-C is the guest's.
    await screen.answers('\x03\npattern=hotset count=8 rounds=1\n', 'dirtier done 2')
    await screen.answers('\x01p', 'does not listen to a power button')
    await screen.answers('\x01s', `Written: ${file}`)
    await screen.answers('\x01?', 'Ctrl-A h  this help')
    t.equal(await screen.end(), 0)
  }
  t.ok(existsSync(file))
  // What it says tells that keys are its own from now on.
  const screen = terminal(t, '--restore', file, '--gdb', `${file}.gdb`)
  await screen.sees('gdb: target remote')
  await screen.answers('\x01s', 'Where to?')
  await screen.answers('pattern=hotset count=8 rounds=1\n', 'dirtier done')
  t.equal(await screen.end(), 0)
})
