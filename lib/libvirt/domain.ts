// A virtual machine, running or not.
import { DomainApi } from './generated/domain.js'

/**
 * A virtual machine, running or not.
 *
 * @since 0.1.0
 */
export class Domain extends DomainApi {}
