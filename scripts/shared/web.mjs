// A web server behind a slow link, for samples: files of a folder, with byte ranges.
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import { createServer } from 'node:http'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const piece = 16384

/**
 * Serves a folder at so many bytes a second, all answers together.
 *
 * @returns its `url`, and how to close it
 */
export async function slowServer(folder, bytesPerSecond) {
  let free = 0
  const server = createServer(async (request, response) => {
    let file
    try {
      file = await open(path.join(folder, path.basename(request.url)))
      const { size } = await file.stat()
      const [, from = 0, to = size - 1] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
      const end = Math.min(Number(to) + 1, size)
      response.writeHead(request.headers.range ? 206 : 200, {
        'content-length': end - from,
        'content-range': `bytes ${from}-${end - 1}/${size}`
      })
      for (let at = Number(from); at < end && !response.destroyed; at += piece) {
        const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.min(piece, end - at)), 0, Math.min(piece, end - at), at)
        free = Math.max(free, performance.now()) + (1000 * bytesRead) / bytesPerSecond
        await sleep(free - performance.now())
        response.write(buffer.subarray(0, bytesRead))
      }
      response.end()
    } catch {
      response.writeHead(404).end()
    } finally {
      await file?.close()
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close() {
      server.close()
      server.closeAllConnections()
    }
  }
}
