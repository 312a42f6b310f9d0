// A checkpoint of a domain, from which on changed blocks are tracked.
import { DomainCheckpointApi } from './generated/domain_checkpoint.js'

/**
 * A checkpoint of a domain, from which on changed blocks are tracked.
 *
 * @since 0.1.0
 */
export class DomainCheckpoint extends DomainCheckpointApi {}
