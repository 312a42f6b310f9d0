// The storage that the demo's hosts share: a folder in memory, for they share this machine too, and it outlasts any of
// them. What a killed demo left is removed by the next one.
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'

const PREFIX = 'hypertwin-demo-'

/** Makes the folder; `remove` ends it. */
export function sharedStorage(base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()): {
  folder: string
  remove: () => void
} {
  for (const name of readdirSync(base)) {
    const pid = /^\d+$/.exec(name.startsWith(PREFIX) ? name.slice(PREFIX.length) : '')?.[0]
    if (pid !== undefined && (pid === String(process.pid) || !existsSync(`/proc/${pid}`)))
      rmSync(path.join(base, name), { recursive: true, force: true })
  }
  const folder = path.join(base, `${PREFIX}${process.pid}`)
  mkdirSync(folder, { mode: 0o700 })
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) }
}
