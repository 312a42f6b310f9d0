// Tells the addon which class an object of libvirt is to be. Its order is that of the C++ enum `Class`.
import { addon } from './addon.js'
import { AdminClient } from './admin_client.js'
import { AdminConnect } from './admin_connect.js'
import { AdminServer } from './admin_server.js'
import { handleClasses } from './backend.js'
import { Connect } from './connect.js'
import { Domain } from './domain.js'
import { DomainCheckpoint } from './domain_checkpoint.js'
import { DomainSnapshot } from './domain_snapshot.js'
import { Interface } from './interface.js'
import { Network } from './network.js'
import { NetworkPort } from './network_port.js'
import { NodeDevice } from './node_device.js'
import { NWFilter } from './nw_filter.js'
import { NWFilterBinding } from './nw_filter_binding.js'
import { Secret } from './secret.js'
import { StoragePool } from './storage_pool.js'
import { StorageVol } from './storage_vol.js'
import { Stream } from './stream.js'

const classes = {
  Connect,
  Domain,
  Network,
  NetworkPort,
  StoragePool,
  StorageVol,
  NodeDevice,
  Interface,
  Secret,
  NWFilter,
  NWFilterBinding,
  DomainSnapshot,
  DomainCheckpoint,
  Stream,
  AdminConnect,
  AdminServer,
  AdminClient
}

addon.libvirtClasses([undefined, ...Object.values(classes)])
for (const [name, made] of Object.entries(classes)) handleClasses.set(name, made)

export {
  AdminClient,
  AdminConnect,
  AdminServer,
  Connect,
  Domain,
  DomainCheckpoint,
  DomainSnapshot,
  Interface,
  Network,
  NetworkPort,
  NodeDevice,
  NWFilter,
  NWFilterBinding,
  Secret,
  StoragePool,
  StorageVol,
  Stream
}
