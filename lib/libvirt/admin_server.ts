// A server inside a daemon.
import { AdminServerApi } from './generated/admin_server.js'

/**
 * A server inside a daemon.
 *
 * @since 0.1.0
 */
export class AdminServer extends AdminServerApi {}
