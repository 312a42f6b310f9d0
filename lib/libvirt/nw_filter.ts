// A network filter: rules for the traffic of guests.
import { NWFilterApi } from './generated/nw_filter.js'

/**
 * A network filter: rules for the traffic of guests.
 *
 * @since 0.1.0
 */
export class NWFilter extends NWFilterApi {}
