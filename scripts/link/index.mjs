// Slow links on this machine, for tests and benchmarks: a network namespace that is reached at a given rate and round
// trip. Needs root and a C compiler.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, statSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { inNetwork, whyNoNamespaces } from '../shared/namespace.mjs'
import { must } from '../shared/process.mjs'
import { has, root } from '../support.mjs'

const source = fileURLToPath(new URL('link.c', import.meta.url))
const program = path.join(root, '.cache/link/link')
let number = 0

/** Why there can be none here, or false. */
export async function whyNoLinks() {
  return (await whyNoNamespaces('slow links')) || (!has('cc') && 'slow links need a C compiler (Debian: gcc)')
}

async function compiled() {
  const made = statSync(program, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (made < statSync(source).mtimeMs) {
    mkdirSync(path.dirname(program), { recursive: true })
    await must(['cc', '-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source])
  }
  return program
}

/** Two addresses of a network that this machine is not in, by another link's process for example. */
function freePair() {
  const taken = new Set(Object.values(networkInterfaces()).flatMap(list => list.map(({ address }) => address)))
  for (let at = process.pid; ; at++) {
    const subnet = `10.${80 + (at % 100)}.${Math.floor(at / 100) % 250}`
    if (!taken.has(`${subnet}.1`)) return [`${subnet}.1`, `${subnet}.2`]
  }
}

/**
 * Makes a link.
 * @param mbit - in each direction, in megabits a second
 * @param roundTripMs - on the idle link
 * @param queueMs - how much waits for the link before packets are lost
 * @returns `near` and `far`: its ends' addresses; `command(...words)`: a command as it runs at the far end; `close()`
 */
export async function slowLink({ mbit, roundTripMs, queueMs = 200 }) {
  const name = `slow${process.pid % 10000}-${number++}`
  const [near, far] = freePair()
  const bits = Math.round(mbit * 1e6)
  const queue = Math.round((bits / 8000) * queueMs)
  const child = spawn(await compiled(), [name, bits, Math.round(roundTripMs * 500), queue].map(String), {
    stdio: ['pipe', 'pipe', 'inherit']
  })
  const ended = once(child, 'close')
  const [said] = await Promise.race([once(child.stdout, 'data'), ended])
  if (String(said).trim() !== 'up') throw new Error(`the link ${name} could not be made`)
  await must(['ip', '-batch', '-'], { input: `address add ${near}/24 dev ${name}\nlink set ${name} up txqueuelen 10000\n` })
  await must(inNetwork(child.pid, 'ip', '-batch', '-'), {
    input: `address add ${far}/24 dev far\nlink set far up txqueuelen 10000\nlink set lo up\n`
  })
  return {
    near,
    far,
    command: (...words) => inNetwork(child.pid, ...words),
    close: async () => {
      child.stdin.end()
      await ended
    }
  }
}
