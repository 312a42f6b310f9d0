// The door of hypertwin/dirty: which pages were written, when, and a picture of it.
export {
  chooseDirtyMode,
  probeDirtyMode,
  type DirtyMode,
  type DirtyModeChoice,
  type DirtyModeVerdict
} from './choose.js'
export { DirtyError } from './errors.js'
export { type DirtyHarvest, type DirtyRange, type DirtySlot } from './harvest.js'
export { HeatMap, type HeatMapImage, type HeatMapOptions, type HeatMapTerminal } from './heat_map.js'
export { DirtyStats, type DirtySample } from './stats.js'
export { DirtyTracker, type DirtyTrackable, type DirtyTrackerOptions } from './tracker.js'
export type { DirtyRateSample, DirtyRateSource } from '../dirty_rate.js'
