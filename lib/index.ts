// The package's door: what belongs to no single layer.
import { native } from './native.js'

export { HypertwinError, type HypertwinErrorDetails } from './errors.js'
export { guestPath } from './native.js'

/**
 * The version of this package, as its native addon has it.
 *
 * @since 0.1.0
 */
export const version: string = (native as { version: string }).version
