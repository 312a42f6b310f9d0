// Files below a folder, with byte ranges, and nothing else: run at the far end of a link.
//   node web_server.mjs <folder> <port>
import { open } from 'node:fs/promises'
import { createServer } from 'node:http'
import path from 'node:path'
import process from 'node:process'

const [folder, port] = process.argv.slice(2)

async function answer(request, response) {
  const file = await open(path.join(folder, path.posix.normalize(decodeURIComponent(request.url))))
  const { size } = await file.stat()
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
  const from = Number(range?.[1] ?? 0)
  // What lies behind the end is left out, as by every web server: nbdkit's curl plugin asks for it.
  const to = Math.min(Number(range?.[2] ?? size), size - 1)
  response.writeHead(range ? 206 : 200, { 'accept-ranges': 'bytes', 'content-length': to - from + 1, ...(range && { 'content-range': `bytes ${from}-${to}/${size}` }) })
  if (request.method === 'HEAD') {
    response.end()
    return file.close()
  }
  const bytes = file.createReadStream({ start: from, end: to, highWaterMark: 262_144 })
  // Who asked may have gone.
  if (response.destroyed) bytes.destroy()
  else response.once('close', () => bytes.destroy())
  bytes.once('error', () => response.destroy()).pipe(response)
}

const server = createServer((request, response) => {
  answer(request, response).catch(() => response.writeHead(404).end())
})
server.keepAliveTimeout = 60_000
server.listen(Number(port), () => console.log('serving'))
// It ends with whoever started it.
process.stdin.resume().once('end', () => process.exit())
