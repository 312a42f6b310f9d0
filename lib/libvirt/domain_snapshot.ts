// A snapshot of a domain.
import { DomainSnapshotApi } from './generated/domain_snapshot.js'

/**
 * A snapshot of a domain.
 *
 * @since 0.1.0
 */
export class DomainSnapshot extends DomainSnapshotApi {}
