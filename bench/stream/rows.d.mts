import type { Access, Manifest, Profile } from '../../lib/stream/index.js'

/** What is asked of a manifest here. */
export type Stored = Pick<Manifest, 'blobOf' | 'lengthOf'>

export interface LocalRow {
  readySeconds: number
  firstReadSeconds: number
  neededBytes: number
  readBytes: number
}
export interface LinkSpeed {
  mbit: number
  roundTripMs: number
}

export function storedBytes(manifest: Stored, chunks: Iterable<number>): number
export function localRow(
  manifest: Stored,
  started: { guestMs: number; readyMs: number; firstReadMs: number; seen: { accesses: Access[] } }
): LocalRow
export function oracleSeconds(
  manifest: Stored,
  accesses: Access[],
  local: Pick<LocalRow, 'readySeconds' | 'firstReadSeconds'>,
  link: LinkSpeed
): number
export function oracleOf(
  manifest: Stored,
  locals: { row: Pick<LocalRow, 'readySeconds' | 'firstReadSeconds'>; trace: string }[],
  link: LinkSpeed
): Promise<number>
export type Whole = Stored & Pick<Manifest, 'bytes' | 'imageSize' | 'dataSize' | 'sizeOf'>

export function plainRow(manifest: Whole, started: object): Record<string, number | undefined>
export function fullRow(manifest: Whole, localSeconds: number, link: LinkSpeed): Record<string, number | boolean>
export function downloadRow(
  manifest: Whole,
  download: { ms: number; progress: { fetched: Record<string, number> } },
  link: LinkSpeed
): Record<string, number>
export function streamedRow(
  manifest: Whole,
  started: object,
  profile?: Pick<Profile, 'toString' | 'match'>
): Record<string, number | undefined>
