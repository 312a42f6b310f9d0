// A network interface of the host.
import { InterfaceApi } from './generated/interface.js'

/**
 * A network interface of the host.
 *
 * @since 0.1.0
 */
export class Interface extends InterfaceApi {}
