// A network filter on a port.
import { NWFilterBindingApi } from './generated/nw_filter_binding.js'

/**
 * A network filter on a port.
 *
 * @since 0.1.0
 */
export class NWFilterBinding extends NWFilterBindingApi {}
