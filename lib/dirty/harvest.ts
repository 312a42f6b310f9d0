// What one harvest found. Plain data: it knows no tracker.
import type { NativeHarvest } from './addon.js'

/** Bytes of a page: what one bit stands for. */
const pageSize = 4096

/**
 * A stretch of guest physical memory.
 *
 * @since 0.1.0
 */
export interface DirtyRange {
  /** Guest physical, the first byte. */
  address: bigint
  /** Bytes: whole pages of 4096. */
  size: number
}

/**
 * The dirty pages of one memory slot.
 *
 * @since 0.1.0
 */
export interface DirtySlot {
  /** The slot's number. */
  slot: number
  /** Guest physical address of its first page. */
  guestAddress: bigint
  /** Pages of the slot. */
  pageCount: number
  /** Dirty ones. */
  pages: number
  /** One bit a page, the first page the lowest bit of the first word; bits beyond `pageCount` are 0. */
  bitmap: BigUint64Array
}

/** A run of set bits, in pages of the slot. */
interface PageRun {
  first: number
  count: number
}

/**
 * The runs of set bits in a bitmap.
 *
 * @internal
 */
export function* pageRuns(bitmap: BigUint64Array): Generator<PageRun, void, void> {
  // 32 bits at a time: numbers are far quicker than bigints. Both are little endian here.
  const words = new Uint32Array(bitmap.buffer, bitmap.byteOffset, bitmap.length * 2)
  let start = -1
  for (let index = 0; index < words.length; index++) {
    const word = words[index] as number
    if (start < 0 ? word === 0 : word === 0xffffffff) continue
    for (let bit = 0; bit < 32; ) {
      // What is left, with the looked-for bits as ones.
      const left = ((start < 0 ? word : ~word) >>> bit) >>> 0
      if (left === 0) break
      bit += 31 - Math.clz32(left & -left)
      if (start < 0) {
        start = index * 32 + bit
      } else {
        yield { first: start, count: index * 32 + bit - start }
        start = -1
      }
    }
  }
  if (start >= 0) yield { first: start, count: words.length * 32 - start }
}

/**
 * The pages that guest, devices and host wrote between two harvests.
 *
 * Read their bytes after the harvest, never before: a write that comes later is in the next one.
 *
 * @since 0.1.0
 */
export class DirtyHarvest {
  /** Dirty pages of all slots. */
  readonly pages: number
  /** 1 for the first of a tracker. */
  readonly sequence: number
  /** When the harvest before was complete, in ms of the host's monotonic clock (`performance.now()`'s rate). */
  readonly startedAt: number
  /** When this one was complete, in the same ms. */
  readonly endedAt: number
  /** By slot, in ascending order. */
  readonly slots: readonly DirtySlot[]

  /** @internal */
  constructor(native: NativeHarvest) {
    this.pages = native.pages
    this.sequence = native.sequence
    this.startedAt = Number(native.startedNs) / 1e6
    this.endedAt = Number(native.endedNs) / 1e6
    this.slots = native.slots.map(slot => ({ ...slot, bitmap: new BigUint64Array(slot.bitmap) }))
  }

  /** Bytes of the dirty pages. */
  get bytes(): number {
    return this.pages * pageSize
  }

  /** The dirty memory as maximal ranges, slot by slot, in ascending order. */
  *ranges(): Generator<DirtyRange, void, void> {
    for (const { guestAddress, bitmap } of this.slots)
      for (const { first, count } of pageRuns(bitmap))
        yield { address: guestAddress + BigInt(first) * BigInt(pageSize), size: count * pageSize }
  }

  /** Whether the page that holds this guest physical address is dirty; false for what is not tracked. */
  has(address: bigint | number): boolean {
    const at = BigInt(address)
    for (const { guestAddress, pageCount, bitmap } of this.slots) {
      const page = Number((at - guestAddress) >> 12n)
      if (at >= guestAddress && page < pageCount)
        return (((bitmap[Math.floor(page / 64)] ?? 0n) >> BigInt(page % 64)) & 1n) === 1n
    }
    return false
  }
}
