// What a start becomes in the results: a row of shares, times, stalls and waste; and the oracle, from starts on a whole
// local copy.
import { readTrace } from 'hypertwin/stream'

const ZERO = 0xffffffff

/** Bytes as they are stored, of chunks; equal ones count once. */
export function storedBytes(manifest, chunks) {
  const blobs = new Set()
  for (const chunk of chunks) if (manifest.blobOf[chunk] !== ZERO) blobs.add(manifest.blobOf[chunk])
  let bytes = 0
  for (const blob of blobs) bytes += manifest.lengthOf(blob)
  return bytes
}

/** Bytes of the chunks that are not all zeros. */
function allocatedBytes(manifest) {
  return manifest.blobOf.reduce((bytes, blob, chunk) => bytes + (blob === ZERO ? 0 : manifest.sizeOf(chunk)), 0)
}

/** What of an image came, by its size, by what of it is allocated, and by what its pack has. */
function shares(manifest, bytes) {
  const sizes = { imageBytes: manifest.imageSize, allocatedBytes: allocatedBytes(manifest), storedBytes: manifest.dataSize }
  return { ...sizes, shareOfImage: bytes / sizes.imageBytes, shareOfAllocated: bytes / sizes.allocatedBytes, shareOfStored: bytes / sizes.storedBytes }
}

/** What all starts over a link have. */
function timesAndStalls({ gateMs, guestMs, readyMs, seen, seenAtReady, seenInMinute, answers, watched }) {
  return {
    gateSeconds: gateMs / 1000,
    guestSeconds: guestMs / 1000,
    readySeconds: readyMs / 1000,
    waitedReads: seenAtReady.waited.reads,
    waitedSeconds: seenAtReady.waited.ms / 1000,
    longestMs: seen.waited.longestMs,
    // What the link cost at most, of reads that waited side by side each: of this the guest's own speed is no part.
    lostSeconds: (gateMs + seenAtReady.waited.ms) / 1000,
    stallsBeforeReady: seenAtReady.stalls,
    // While the application was asked once a second, if it was.
    stallsAfterReady: watched ? seen.stalls - seenAtReady.stalls : undefined,
    stallsInMinute: seenInMinute?.stalls,
    stallsAtEnd: seen.stalls,
    answersAfterReady: answers
  }
}

/** Of a start on nbdkit alone. */
export function plainRow(manifest, started) {
  const { bytes } = started.atReady
  return {
    ...timesAndStalls(started),
    ...shares(manifest, bytes),
    demandBytes: bytes,
    fetchedBytesAtEnd: started.atEnd.bytes
  }
}

/** Of a start after a whole download at the link's full rate: computed. */
export function fullRow(manifest, localSeconds, { mbit }) {
  return { computed: true, readySeconds: (manifest.dataSize * 8) / (mbit * 1e6) + localSeconds, ...shares(manifest, manifest.dataSize) }
}

/** Of a whole download: how long it took, and what share of the link's rate that is. */
export function downloadRow(manifest, { ms, progress }, { mbit }) {
  const bytes = total(progress.fetched) + manifest.bytes.length
  return { downloadSeconds: ms / 1000, fetchedBytesAtEnd: bytes, shareOfLink: (bytes * 8) / (mbit * 1e3) / ms }
}

/** Of a start on a whole local copy. Times are from QEMU's start on. */
export function localRow(manifest, { guestMs, readyMs, firstReadMs, seen }) {
  const localMs = readyMs - guestMs
  const reads = seen.accesses.map(({ chunk, atMs }) => ({ chunk, atMs: atMs + firstReadMs - guestMs }))
  return {
    readySeconds: localMs / 1000,
    firstReadSeconds: (firstReadMs - guestMs) / 1000,
    neededBytes: storedBytes(manifest, reads.filter(({ atMs }) => atMs <= localMs).map(({ chunk }) => chunk)),
    readBytes: storedBytes(manifest, reads.map(({ chunk }) => chunk))
  }
}

/**
 * The least time in which a start could be ready over a link: as long as on a local copy, and longer by what it is late most
 * when exactly the chunks that are read come in the order in which they are needed, one behind the other at the link's full
 * rate; and a round trip.
 *   oracle = round trip + local + max(0, max over i of (bytes of the first i reads / rate - time of read i))
 */
export function oracleSeconds(manifest, accesses, local, { mbit, roundTripMs }) {
  const seen = new Set()
  let bytes = 0
  let late = 0
  for (const { chunk, atMs } of accesses) {
    const seconds = local.firstReadSeconds + atMs / 1000
    if (seconds > local.readySeconds) break
    const blob = manifest.blobOf[chunk]
    if (blob === ZERO || seen.has(blob)) continue
    seen.add(blob)
    bytes += manifest.lengthOf(blob)
    late = Math.max(late, (bytes * 8) / (mbit * 1e6) - seconds)
  }
  return roundTripMs / 1000 + local.readySeconds + late
}

/** The oracle of several local starts: their mean. */
export async function oracleOf(manifest, locals, link) {
  let sum = 0
  for (const { row, trace } of locals) sum += oracleSeconds(manifest, (await readTrace(trace)).accesses, row, link)
  return sum / locals.length
}

const total = fetched => Object.values(fetched).reduce((a, b) => a + b)

/**
 * Of a streamed start.
 * @param profile - that was fetched with it; undefined without
 */
export function streamedRow(manifest, started, profile) {
  const { readyMs, atReady, atEnd, seen, here } = started
  const head = manifest.bytes.length + (profile ? Buffer.byteLength(profile.toString()) : 0)
  const { demand, gate, profile: ahead, ahead: behind, fill } = atReady.fetched
  const urgent = demand + gate + ahead
  const read = new Set(seen.accesses.map(({ chunk }) => manifest.blobOf[chunk]))
  const wanted = (profile?.match(manifest).wanted ?? []).map(({ chunk }) => chunk).filter(chunk => here[chunk] !== 0)
  const came = storedBytes(manifest, wanted)
  const vain = storedBytes(manifest, wanted.filter(chunk => !read.has(manifest.blobOf[chunk])))
  const readyAt = seen.accesses.filter(({ atMs }) => atMs + started.firstReadMs <= readyMs).map(({ chunk }) => chunk)
  return {
    ...timesAndStalls(started),
    ...shares(manifest, head + urgent),
    // At the first right answer, as they came over the link: the manifest and the profile; what was waited for, and what
    // the profile had; what lay behind reads, and blind fill.
    headBytes: head,
    demandBytes: demand,
    profileBytes: gate + ahead,
    behindBytes: behind,
    fillBytes: fill,
    neededBytes: storedBytes(manifest, readyAt),
    // All that had come, what the link had room for besides among it.
    shareOfImageWithFill: (head + urgent + behind + fill) / manifest.imageSize,
    shareOfStoredWithFill: (head + urgent + behind + fill) / manifest.dataSize,
    vainBytes: profile && vain,
    vainShare: profile && (came === 0 ? 0 : vain / came),
    fetchedBytesAtEnd: total(atEnd.fetched) + head,
    bytesPerSecond: atEnd.bytesPerSecond
  }
}
