// Streams an image from an NBD server that has the image itself, at 4 MiB/s: a manifest says what each chunk of it must be, so the
// server need not be trusted. What is read is here before the rest, and in the end the copy is the image.
//   node scripts/stream-nbd.mjs     (after npm run build; Debian's nbdkit and libnbd0)
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { ImageStream, pack } from 'hypertwin/stream'

const folder = mkdtempSync(path.join(tmpdir(), 'stream-nbd-'))
const at = name => path.join(folder, name)

/** An NBD server of others, whose link carries so much. */
async function serve(image, socket, bytesPerSecond) {
  const words = ['--exit-with-parent', '--foreground', '--readonly', '--unix', socket, '--filter=rate', 'file', image, `rate=${8 * bytesPerSecond}`]
  const child = spawn('nbdkit', words, { stdio: ['ignore', 'ignore', 'inherit'] })
  await once(child, 'spawn')
  const ended = once(child, 'close')
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error('nbdkit has ended')
    await sleep(10)
  }
  return {
    async close() {
      child.kill()
      await ended
    }
  }
}

let server
let stream
try {
  // Of a pack its manifest is all that is needed here.
  const image = randomBytes(12 << 20)
  writeFileSync(at('image'), image)
  const { manifest } = await pack(at('image'), at('pack'), { quality: 0 })

  server = await serve(at('image'), at('socket'), 4 << 20)
  const options = { cache: at('copy'), manifest: at('pack/manifest'), digest: manifest.digest, gate: 'none' }
  stream = await ImageStream.open(`nbd+unix:///?socket=${at('socket')}`, options)
  const last = await stream.read(image.length - 4096, 4096)
  const right = last.equals(image.subarray(-4096))
  const { missingBytes, storedBytes } = stream.progress()
  console.log(`what was asked for is here, and ${right ? 'right' : 'WRONG'}; so is ${(100 * (1 - missingBytes / storedBytes)).toFixed(0)} % of the image`)
  await stream.complete
  const copy = createHash('sha256').update(readFileSync(at('copy/image'))).digest('hex')
  console.log(`the copy ${copy === manifest.imageDigest ? 'is' : 'is NOT'} the image`)
  if (!right || copy !== manifest.imageDigest) process.exitCode = 1
} finally {
  await stream?.close()
  await server?.close()
  rmSync(folder, { recursive: true, force: true })
}
