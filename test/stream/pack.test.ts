// Packs: what is in them, in which order, and that a reader of hostile ones says so and nothing worse.
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import * as files from 'node:fs/promises'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import path from 'node:path'
import process from 'node:process'
import t from 'tap'
import { decodeChunk } from '../../lib/stream/codec.js'
import { Manifest, pack, Profile, StreamError } from '../../lib/stream/index.js'
import { tryLock } from '../../lib/stream/lock.js'
import { ZERO } from '../../lib/stream/manifest.js'
import type * as packing from '../../lib/stream/pack.js'
import { CHUNK, code, imageBytes, noise, packed, scratch, until } from './support.js'

t.test('every chunk can be had back from the pack', async t => {
  const { manifest, folder, bytes, zeroChunks, sharedChunks } = await packed(t, imageBytes(42))
  t.equal(manifest.chunks, 42)
  t.equal(manifest.imageSize, bytes.length)
  t.equal(manifest.imageDigest, createHash('sha256').update(bytes).digest('hex'))
  t.equal(zeroChunks, 10)
  t.equal(sharedChunks, 9, 'the chunk that is everywhere the same is stored once')
  t.equal(manifest.blobs, 42 - 10 - 9)
  const data = readFileSync(path.join(folder, manifest.dataName))
  t.equal(data.length, manifest.dataSize)
  for (let chunk = 0; chunk < manifest.chunks; chunk++) {
    const blob = manifest.blobOf[chunk] as number
    const at = manifest.offsets[blob] as number
    const contents =
      blob === ZERO
        ? Buffer.alloc(CHUNK)
        : await decodeChunk(data.subarray(at, at + manifest.lengthOf(blob)), CHUNK, manifest.digestOf(blob))
    if (!contents?.subarray(0, manifest.sizeOf(chunk)).equals(bytes.subarray(chunk * CHUNK, (chunk + 1) * CHUNK))) t.fail(`chunk ${chunk}`)
  }
  t.ok(manifest.dataSize < 13 * CHUNK, 'what can be compressed is')
  t.same(readdirSync(folder).sort(), [manifest.dataName, 'manifest'].sort(), 'nothing else is left')
})

t.test('a pack made again is the same; one of other chunks has another data file', async t => {
  const one = await packed(t, imageBytes(12))
  const two = await packed(t, imageBytes(12))
  t.equal(one.manifest.digest, two.manifest.digest)
  const other = await packed(t, imageBytes(12), { chunkSize: '128KiB' })
  t.equal(other.manifest.chunks, 6)
  t.not(other.manifest.dataName, one.manifest.dataName)
})

t.test('what a profile has lies first, in its order', async t => {
  const { manifest: plain, image, bytes } = await packed(t, imageBytes(24))
  const profile = Profile.fromOrder(plain, [20, 8, 9].map((chunk, i) => ({ chunk, atMs: i })), 1)
  const folder = scratch(t)
  const { manifest } = await pack(image, folder, { profile })
  t.same([20, 8, 9].map(chunk => manifest.blobOf[chunk]), [0, 1, 2])
  t.equal(manifest.imageDigest, plain.imageDigest)
  t.same((await Profile.load(path.join(folder, 'profile.json'))).entries, profile.entries)
  t.equal(manifest.imageSize, bytes.length)
})

t.test('so it does where the profile is of chunks of another size', async t => {
  const { manifest: plain, image } = await packed(t, noise(24 * CHUNK, 'sizes'))
  const profile = Profile.fromOrder(plain, [20, 8, 9].map((chunk, i) => ({ chunk, atMs: i })), 1)
  const { manifest: small } = await pack(image, scratch(t), { profile, chunkSize: CHUNK / 2 })
  t.same([40, 41, 16, 17, 18, 19, 0].map(chunk => small.blobOf[chunk]), [0, 1, 2, 3, 4, 5, 6])
  const { manifest: large } = await pack(image, scratch(t), { profile, chunkSize: 2 * CHUNK })
  t.same([10, 4, 0].map(chunk => large.blobOf[chunk]), [0, 1, 2])
})

t.test('a folder that is being served is never without a whole pack', async t => {
  const { folder, image, manifest } = await packed(t, imageBytes(8))
  writeFileSync(image, imageBytes(8, 'next'))
  const seen = new Set<string>()
  await pack(image, folder, { onProgress: () => void seen.add(new Manifest(readFileSync(path.join(folder, 'manifest'))).digest) })
  t.same([...seen], [manifest.digest], 'while the next one is made')
  t.not(new Manifest(readFileSync(path.join(folder, 'manifest'))).digest, manifest.digest)
  t.ok(existsSync(path.join(folder, manifest.dataName)), 'the old data stays for its readers')
})

t.test('what a manifest names is on the disk before it, as it itself is before its name', async t => {
  const { folder, image, manifest } = await packed(t, imageBytes(8))
  const profile = Profile.fromOrder(manifest, [{ chunk: 1, atMs: 0 }], 1)
  const order: string[] = []
  const named = (file: unknown): string => path.relative(folder, String(file)).replace(/^\.pack-\w+/, 'work') || '.'
  const { pack: watched } = await t.mockImport<typeof packing>('../../lib/stream/pack.js', {
    'node:fs/promises': {
      ...files,
      open: async (...given: Parameters<typeof files.open>) => {
        const handle = await files.open(...given)
        const sync = handle.sync.bind(handle)
        handle.sync = () => sync().then(() => void order.push(`sync ${named(given[0])}`))
        return handle
      },
      writeFile: async (...given: Parameters<typeof files.writeFile>) => {
        await files.writeFile(...given)
        if ((given[2] as { flush?: boolean } | undefined)?.flush) order.push(`sync ${named(given[0])}`)
      },
      rename: async (from: string, to: string) => {
        await files.rename(from, to)
        order.push(`${named(from)} becomes ${named(to)}`)
      }
    }
  })
  const { manifest: next } = await watched(image, folder, { profile })
  const inOrder = (...events: string[]): void => {
    let last = -1
    for (const event of events) t.ok((last = order.indexOf(event, last + 1)) >= 0, event, { order })
  }
  inOrder('sync work/chunks', `work/chunks becomes ${next.dataName}`, 'sync .', 'work/manifest becomes manifest', 'sync .')
  inOrder('sync work/manifest', 'work/manifest becomes manifest')
  inOrder('sync work/profile.json', 'work/profile.json becomes profile.json', 'sync .')
})

t.test('what a killed one has left is removed by the next one, and what one that goes on has is not', async t => {
  const { folder, image, manifest } = await packed(t, imageBytes(8))
  const works = (): string[] => readdirSync(folder).filter(name => name.startsWith('.pack-'))
  for (const name of ['.pack-killed', '.pack-goeson', '.pack-no-work']) {
    mkdirSync(path.join(folder, name))
    writeFileSync(path.join(folder, name, 'raw'), '')
  }
  const lock = openSync(path.join(folder, '.pack-goeson'), 'r')
  t.ok(tryLock(lock))
  let seen: string[] = []
  await pack(image, folder, {
    onProgress: () => {
      seen = works()
      const own = openSync(path.join(folder, seen.find(name => !/goeson|no-work/.test(name)) ?? ''), 'r')
      t.notOk(tryLock(own), 'nobody takes it for left')
      closeSync(own)
    }
  })
  t.equal(seen.length, 3)
  t.same(works().sort(), ['.pack-goeson', '.pack-no-work'])
  closeSync(lock)
  await pack(image, folder)
  t.same(readdirSync(folder).sort(), ['.pack-no-work', manifest.dataName, 'manifest'].sort())
})

t.test('an image that changes meanwhile is told of', async t => {
  const { image, folder, manifest } = await packed(t, noise(65 * CHUNK, 'changes'))
  const file = openSync(image, 'r+')
  t.teardown(() => closeSync(file))
  const changing = (at: number, profile?: Profile): [Promise<unknown>, number[]] => {
    const pieces: number[] = []
    const onProgress = ({ done }: { done: number }): void => void (pieces.push(done), writeSync(file, `${pieces.length}`, at))
    return [pack(image, folder, { onProgress, ...(profile && { profile }) }), pieces]
  }
  const [read, all] = changing(5)
  await t.rejects(read, { code: 'BAD_IMAGE', message: /changed/ }, 'what had been read')
  t.equal(all.length, 2)
  const [twice, some] = changing(64 * CHUNK + 5, Profile.fromOrder(manifest, [{ chunk: 64, atMs: 0 }], 1))
  await t.rejects(twice, { code: 'BAD_IMAGE', message: /changed/ })
  t.equal(some.length, 1, "what a profile has laid first is compared: a block device's file tells nothing")
  t.equal(new Manifest(readFileSync(path.join(folder, 'manifest'))).digest, manifest.digest)
})

t.test('stopped, it leaves nothing behind', async t => {
  const folder = scratch(t)
  const image = path.join(folder, 'image.raw')
  writeFileSync(image, noise(9 << 20, 'stop'))
  const controller = new AbortController()
  await t.rejects(
    pack(image, path.join(folder, 'pack'), { signal: controller.signal, onProgress: () => controller.abort(new Error('enough')) }),
    { message: 'enough' }
  )
  t.same(readdirSync(path.join(folder, 'pack')), [])
})

t.test('what cannot be packed', async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  const to = at('pack')
  await t.rejects(pack(at('nosuch'), to), code('ENOENT'))
  writeFileSync(at('empty'), '')
  await t.rejects(pack(at('empty'), to), code('BAD_IMAGE'))
  await t.rejects(pack('/dev/null', to), code('BAD_IMAGE'))
  execFileSync('mkfifo', [at('fifo')])
  for (const format of ['raw', 'qcow2'] as const) await t.rejects(pack(at('fifo'), to, { format }), { code: 'BAD_IMAGE', message: /neither/ })
  writeFileSync(at('qcow2'), Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(70000)]))
  await t.rejects(pack(at('qcow2'), to), { code: 'BAD_IMAGE', message: /give the format/ }, 'nothing is guessed')
  await t.resolves(pack(at('qcow2'), to, { format: 'raw' }))
  for (const chunkSize of [1000, 2048, '2MiB', 'much', -1]) await t.rejects(pack(at('qcow2'), to, { chunkSize }), code('EINVAL'))
  await t.rejects(pack(at('qcow2'), to, { quality: 12 }), code('EINVAL'))
  await t.rejects(pack(at('qcow2'), to, { format: 'vmdk' as 'raw' }), code('EINVAL'))
  writeFileSync(at('huge'), '')
  truncateSync(at('huge'), 2 ** 35)
  await t.rejects(pack(at('huge'), to, { chunkSize: 4096 }), code('EINVAL'), 'too many chunks')
})

const noQemuImg = spawnSync('qemu-img', ['--version']).error ? 'qemu-img is missing (Debian: qemu-utils)' : false
t.test('qcow2 through qemu-img', { skip: noQemuImg }, async t => {
  const { image, manifest } = await packed(t, Buffer.concat([imageBytes(12), Buffer.alloc(5000)]))
  const folder = scratch(t)
  const qcow2 = path.join(folder, 'image.qcow2')
  t.equal(spawnSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', image, qcow2]).status, 0)
  const again = await pack(qcow2, path.join(folder, 'pack'), { format: 'qcow2' })
  t.equal(again.manifest.digest, manifest.digest)
  await t.rejects(pack(image, path.join(folder, 'pack'), { format: 'qcow2' }), { code: 'TOOL_FAILED', message: /qcow2/ })
  const before = process.cwd()
  process.chdir(folder)
  t.teardown(() => process.chdir(before))
  renameSync(qcow2, 'nosuch:12.qcow2')
  t.equal((await pack('nosuch:12.qcow2', 'pack', { format: 'qcow2' })).manifest.digest, manifest.digest, 'a colon is no protocol')
  for (const [named, ...how] of [
    ['backing file', '-b', image, '-F', 'raw'],
    ['backing file', '-o', 'compat=0.10', '-u', '-b', 'json:{"driver":"null-co"}', '-F', 'raw'],
    ['data file', '-o', `data_file=${path.join(folder, 'data')}`]
  ] as const) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...how, 'names', '1M'])
    await t.rejects(pack('names', 'refused', { format: 'qcow2' }), { code: 'BAD_IMAGE', message: new RegExp(`names a ${named}`) }, "another file's contents are not packed")
  }
  t.same(readdirSync('refused'), [])
})

t.test('what an NBD server exports', { skip: noQemuImg }, async t => {
  const { image, manifest } = await packed(t, imageBytes(12).subarray(0, 11 * CHUNK + 8192))
  const folder = scratch(t)
  const socket = path.join(folder, 'nbd')
  const server = spawn('qemu-nbd', ['-r', '-f', 'raw', '-k', socket, image], { stdio: 'inherit' })
  t.teardown(() => server.kill('SIGKILL'))
  await until(() => existsSync(socket) || server.exitCode !== null)
  const again = await pack(`nbd+unix:///?socket=${socket}`, path.join(folder, 'pack'))
  t.equal(again.manifest.digest, manifest.digest)
  t.same(readdirSync(again.folder).sort(), [manifest.dataName, 'manifest'].sort())
  await t.rejects(pack(`nbd+unix:///?socket=${socket}.not`, path.join(folder, 'pack')), code('TOOL_FAILED'))
})

t.test('a block device', async t => {
  const { image, manifest } = await packed(t, imageBytes(12).subarray(0, 11 * CHUNK + 8192))
  const { status, stdout, stderr } = spawnSync('losetup', ['--find', '--show', '--read-only', image], { encoding: 'utf8' })
  if (status !== 0) return void t.pass('it is packed', { skip: `there are no loop devices here: ${stderr}` })
  const device = stdout.trim()
  t.teardown(() => spawnSync('losetup', ['--detach', device]))
  t.equal((await pack(device, path.join(scratch(t), 'pack'))).manifest.digest, manifest.digest)
})

t.test('a manifest that is none', async t => {
  const { manifest } = await packed(t, imageBytes(16))
  const good = manifest.bytes
  t.equal(new Manifest(Buffer.from(good)).digest, manifest.digest)
  const bad = (change: (bytes: Buffer) => Buffer | void, message: RegExp): void => {
    const bytes = Buffer.from(good)
    t.throws(() => new Manifest(change(bytes) ?? bytes), { code: 'BAD_MANIFEST', message })
  }
  bad(() => Buffer.alloc(0), /it has 0 bytes/)
  bad(() => Buffer.from('<html>not found</html>'.repeat(9)), /does not begin/)
  bad(bytes => bytes.subarray(0, bytes.length - 1), /bytes and not/)
  bad(bytes => Buffer.concat([bytes, Buffer.alloc(1)]), /bytes and not/)
  bad(bytes => void bytes.writeUInt32LE(2, 8), /version is 2/)
  bad(bytes => void bytes.writeUInt32LE(65535, 12), /no size of chunks/)
  bad(bytes => void bytes.writeUInt32LE(0, 12), /no size of chunks/)
  bad(bytes => void bytes.writeBigUInt64LE(2n ** 63n, 16), /no size of an image/)
  bad(bytes => void bytes.writeBigUInt64LE(0n, 16), /no size of an image/)
  bad(bytes => void bytes.writeUInt32LE(0xffffffff, 24), /more stored chunks/)
  bad(bytes => void bytes.writeUInt32LE(0xffffffff, 28), /runs/)
  bad(bytes => void bytes.writeUInt32LE(0, 28), /runs/)
  bad(bytes => void bytes.writeBigUInt64LE(1n, 32), /do not add up/)
  bad(bytes => void bytes.writeUInt32LE(1, 40), /must be zero/)
  bad(bytes => void bytes.writeUInt32LE(0xffffffff, 80), /beyond the end/)
  bad(bytes => void bytes.writeUInt32LE(0, 80), /beyond the end/)
  bad(bytes => void bytes.writeUInt32LE(manifest.blobs, 84), /not stored/)
  bad(bytes => void bytes.writeUInt32LE(1, 84), /no place of the image|not stored/)
  const lengths = good.length - 36 * manifest.blobs
  bad(bytes => void bytes.writeUInt32LE(0, lengths), /stored chunk has 0 bytes/)
  bad(bytes => void bytes.writeUInt32LE(CHUNK + 1, lengths), /stored chunk has/)
})

t.test('any damage to a manifest is refused or gives a manifest that holds together', async t => {
  const { manifest } = await packed(t, imageBytes(16))
  let seed = 1
  const random = (below: number): number => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % below
  let refused = 0
  for (let round = 0; round < 3000; round++) {
    let bytes = Buffer.from(manifest.bytes)
    for (let i = random(3); i >= 0; i--) bytes[random(bytes.length)] = random(3) === 0 ? 255 : random(256)
    if (random(4) === 0) bytes = bytes.subarray(0, random(bytes.length + 1))
    try {
      const read = new Manifest(bytes)
      let places = 0
      for (let blob = 0; blob < read.blobs; blob++)
        for (const chunk of read.chunksOf(blob)) {
          places++
          if (read.blobOf[chunk] !== blob) t.fail(`round ${round}: chunk ${chunk}`)
        }
      const stored = read.blobOf.filter(blob => blob !== ZERO)
      if (stored.some(blob => blob >= read.blobs) || stored.length !== places) t.fail(`round ${round}`)
    } catch (error) {
      if (!(error instanceof StreamError) || error.code !== 'BAD_MANIFEST') throw error
      refused++
    }
  }
  t.ok(refused > 1000, `${refused} of 3000 were refused`)
})

t.test('stored chunks that are none are told from good ones', async t => {
  const { manifest, folder } = await packed(t, imageBytes(4))
  const data = readFileSync(path.join(folder, manifest.dataName))
  const stored = data.subarray(manifest.offsets[1], manifest.offsets[2])
  const digest = manifest.digestOf(1)
  t.ok(await decodeChunk(stored, CHUNK, digest))
  for (let at = 0; at < stored.length; at++) {
    const damaged = Buffer.from(stored)
    damaged[at] = (damaged[at] as number) ^ 0x41
    const contents = await decodeChunk(damaged, CHUNK, digest)
    // Brotli has bits that mean nothing; what they leave is the chunk.
    if (contents && !contents.equals((await decodeChunk(stored, CHUNK, digest)) as Buffer)) t.fail(`byte ${at}`)
  }
  for (let length = 0; length < stored.length; length++)
    if (await decodeChunk(stored.subarray(0, length), CHUNK, digest)) t.fail(`cut at ${length}`)
  // 40 MB of zeros in a few bytes: no more than a chunk is ever made of it.
  const { brotliCompressSync } = await import('node:zlib')
  t.equal(await decodeChunk(brotliCompressSync(Buffer.alloc(40 << 20)), CHUNK, digest), undefined)
  t.ok(statSync(path.join(folder, 'manifest')).size < 1000)
})
