// A secret, for example the password of an encrypted volume.
import { SecretApi } from './generated/secret.js'

/**
 * A secret, for example the password of an encrypted volume.
 *
 * @since 0.1.0
 */
export class Secret extends SecretApi {}
