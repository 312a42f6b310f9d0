// A web server behind a slow link: serves the files of a folder, whole or by ranges, so many bytes a second altogether.
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const piece = 16384

/** Resolves with its URL, and how to end it. */
export async function slowWeb(folder, rate) {
  // When the link has sent all that is given to it.
  let free = 0
  const server = createServer(async (request, response) => {
    const file = path.join(folder, path.basename(request.url))
    if (!existsSync(file)) return response.writeHead(404).end()
    const bytes = readFileSync(file)
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [undefined, 0, bytes.length - 1]
    const part = bytes.subarray(Number(from), Number(to) + 1)
    response.writeHead(request.headers.range ? 206 : 200, { 'content-length': part.length, 'content-range': `bytes ${from}-${to}/${bytes.length}` })
    for (let at = 0; at < part.length && !response.destroyed; at += piece) {
      free = Math.max(free, performance.now()) + (piece * 1000) / rate
      await sleep(free - performance.now())
      response.write(part.subarray(at, at + piece))
    }
    response.end()
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
