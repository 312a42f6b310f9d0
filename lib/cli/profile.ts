// What is said of profiles.
import type { StreamProgress } from '../stream/index.js'
import { count } from './common.js'

/** What is to be said of a profile that was not made of just this image. */
export function misfitOf({ unchanged, moved, stale, placed }: StreamProgress['profile']): string | undefined {
  if (placed > 0)
    return `The profile is of chunks of another size: what lies in the places of its ${count(placed)} chunks comes first, which is right as far as the image is the same`
  if (moved + stale === 0) return undefined
  return (
    `The profile is of another image, or an earlier version: of its ${count(unchanged + moved + stale)} chunks ${count(unchanged)} are as they were, ` +
    `${count(moved)} lie elsewhere now, and ${count(stale)} are there no more`
  )
}
