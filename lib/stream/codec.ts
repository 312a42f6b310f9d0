// How a chunk is stored: as it is, or by Brotli where that is shorter; and how it is turned back and verified.
import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import zlib from 'node:zlib'

const compress = promisify<Uint8Array, zlib.BrotliOptions, Buffer>(zlib.brotliCompress)
const decompress = promisify<Uint8Array, zlib.BrotliOptions, Buffer>(zlib.brotliDecompress)

/** The digest that names a chunk. */
export function digestOf(contents: Uint8Array): Buffer {
  return createHash('sha256').update(contents).digest()
}

/** What is stored for a chunk; its length alone tells whether it is compressed. */
export async function encodeChunk(contents: Uint8Array, quality: number): Promise<Uint8Array> {
  const { BROTLI_PARAM_QUALITY, BROTLI_PARAM_SIZE_HINT, BROTLI_PARAM_LGWIN } = zlib.constants
  const compressed = await compress(contents, {
    params: {
      [BROTLI_PARAM_QUALITY]: quality,
      [BROTLI_PARAM_SIZE_HINT]: contents.length,
      // No window need be larger than the chunk, and the reader's memory follows from it.
      [BROTLI_PARAM_LGWIN]: Math.max(16, Math.ceil(Math.log2(contents.length + 16)))
    }
  })
  return compressed.length < contents.length ? compressed : contents
}

/** A chunk's contents; undefined when they are not what the digest says. Bytes from outside give at worst that. */
export async function decodeChunk(stored: Uint8Array, chunkSize: number, digest: Uint8Array): Promise<Buffer | undefined> {
  let contents: Buffer
  if (stored.length === chunkSize) contents = Buffer.from(stored.buffer, stored.byteOffset, stored.length)
  else
    try {
      contents = await decompress(stored, { maxOutputLength: chunkSize })
    } catch {
      return undefined
    }
  return contents.length === chunkSize && digestOf(contents).equals(digest) ? contents : undefined
}
