// A virtual network.
import { NetworkApi } from './generated/network.js'

/**
 * A virtual network.
 *
 * @since 0.1.0
 */
export class Network extends NetworkApi {}
