// When a start may be made: so early that it ends as soon as it can, and so late that what it needs is there in time.

/**
 * When {@link ImageStream.ready} is settled.
 * - `'forecast'`: when all that the profile has would come before it is needed, at what the link carries for long; but
 *   for what few of its traces have, or has changed since
 * - `'profile'`: when all that the profile has is there
 * - `'all'`: when the local copy is whole
 * - `'none'`: at once
 *
 * @since 0.1.0
 */
export type Gate = 'forecast' | 'profile' | 'all' | 'none'

/** @internal */
export const gates: readonly Gate[] = ['forecast', 'profile', 'all', 'none']

/** Of what the link has carried so far the forecast counts on so much. */
const TRUST = 0.95

/**
 * How long to wait, in milliseconds, so that each of the wanted chunks comes before it is needed.
 *
 * @param wanted - in the order in which they are fetched: stored bytes, and when each is needed after the start
 * @param isHere - whether the one at an index is there
 * @param bytesPerSecond - what the link carries for long
 * @internal
 */
export function forecast(
  wanted: { bytes: Float64Array; atMs: Float64Array },
  isHere: (index: number) => boolean,
  bytesPerSecond: number
): number {
  const { bytes, atMs } = wanted
  let ahead = 0
  let wait = 0
  // What comes behind others that are needed later was put back, as few starts need it: none waits for it.
  let latest = 0
  for (let i = 0; i < bytes.length; i++) {
    latest = Math.max(latest, atMs[i] as number)
    if (isHere(i)) continue
    ahead += bytes[i] as number
    wait = Math.max(wait, (1000 * ahead) / (TRUST * bytesPerSecond) - latest)
  }
  return wait
}
