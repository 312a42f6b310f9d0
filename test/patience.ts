// How long tests wait before they take something for hung.
import process from 'node:process'

const factor = Number(process.env['HYPERTWIN_SLOW'] ?? 1)

/** A time limit in milliseconds: HYPERTWIN_SLOW times as long where that is set, as on an emulated machine. */
export function limit(milliseconds: number): number {
  return milliseconds * factor
}
