// A port of a virtual network.
import { NetworkPortApi } from './generated/network_port.js'

/**
 * A port of a virtual network.
 *
 * @since 0.1.0
 */
export class NetworkPort extends NetworkPortApi {}
