// A client of a server inside a daemon.
import { AdminClientApi } from './generated/admin_client.js'

/**
 * A client of a server inside a daemon.
 *
 * @since 0.1.0
 */
export class AdminClient extends AdminClientApi {}
