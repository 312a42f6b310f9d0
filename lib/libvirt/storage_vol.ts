// A volume of a storage pool.
import { StorageVolApi } from './generated/storage_vol.js'

/**
 * A volume of a storage pool.
 *
 * @since 0.1.0
 */
export class StorageVol extends StorageVolApi {}
