// Runs a command in a rig as if it ran here: input, output, signals and exit status are this process's.
import { constants } from 'node:os'
import process from 'node:process'
import { finished } from 'node:stream/promises'

const passedOn = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']

/**
 * Resolves with the exit status as a shell gives it: 128 and the signal's number when a signal has ended the command.
 * @param timeout - milliseconds after which it is killed
 */
export async function runInRig(rig, words, { cwd, env, timeout, input = process.stdin } = {}) {
  const command = await rig.spawn(words, { cwd, env })
  const pass = signal => command.kill(signal)
  for (const signal of passedOn) process.on(signal, pass)
  const timer =
    timeout &&
    setTimeout(() => {
      console.error(`${words[0]} has been killed: it ran for more than ${timeout / 1000} s.`)
      command.kill('SIGKILL')
    }, timeout)
  if (input) {
    input.on('error', () => command.stdin.end())
    input.pipe(command.stdin)
  } else command.stdin.end()
  const written = ['stdout', 'stderr'].map(name => {
    command[name].pipe(process[name], { end: false })
    // Where nobody reads any more, the command is told as it would be here.
    process[name].once('error', () => {
      command.kill('SIGPIPE')
      command[name].resume()
    })
    return finished(command[name])
  })
  try {
    const { status, signal } = await command.ended
    await Promise.all(written)
    return status ?? 128 + (constants.signals[signal] ?? 0)
  } finally {
    clearTimeout(timer)
    for (const signal of passedOn) process.off(signal, pass)
    input?.unpipe(command.stdin)
  }
}
