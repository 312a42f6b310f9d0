// A device of the host.
import { NodeDeviceApi } from './generated/node_device.js'

/**
 * A device of the host.
 *
 * @since 0.1.0
 */
export class NodeDevice extends NodeDeviceApi {}
