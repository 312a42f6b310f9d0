// A storage pool: where volumes are.
import { StoragePoolApi } from './generated/storage_pool.js'

/**
 * A storage pool: where volumes are.
 *
 * @since 0.1.0
 */
export class StoragePool extends StoragePoolApi {}
