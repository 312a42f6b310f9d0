// Functions of a connection and its host.

const slow = { lane: 'slow' }

export const connect = {
  virConnectBaselineCPU: ['Computes the richest CPU model that all the given hosts can offer.'],
  virConnectBaselineHypervisorCPU: [
    'Computes the richest CPU model that the given CPUs and the hypervisor can all offer.',
    { nullable: ['emulator', 'arch', 'machine', 'virttype'] }
  ],
  virConnectCompareCPU: [
    'Compares a CPU description with the CPU of the host.',
    { returns: 'value scalar=i enumeration=virCPUCompareResult failure=minus_one' }
  ],
  virConnectCompareHypervisorCPU: [
    'Compares a CPU description with what the hypervisor can give to a guest.',
    {
      nullable: ['emulator', 'arch', 'machine', 'virttype'],
      returns: 'value scalar=i enumeration=virCPUCompareResult failure=minus_one'
    }
  ],
  virConnectDomainXMLFromNative: ["Turns a hypervisor's own configuration into domain XML."],
  virConnectDomainXMLToNative: ["Turns domain XML into the hypervisor's own configuration."],
  virConnectFindStoragePoolSources: [
    'Looks for storage that pools of a type could be made from.',
    { ...slow, nullable: ['srcSpec'] }
  ],
  virConnectGetAllDomainStats: [
    'Statistics of all domains in one call.',
    { enums: { stats: 'virDomainStatsTypes' } }
  ],
  virConnectGetCPUModelNames: ['The CPU models that are known for an architecture.'],
  virConnectGetCapabilities: ['What the host and its hypervisor can do, as XML.'],
  virConnectGetDomainCapabilities: [
    'What a guest of the given kind can be given, as XML.',
    { nullable: ['emulatorbin', 'arch', 'machine', 'virttype'] }
  ],
  virConnectGetHostname: ['The host name of the system that the hypervisor runs on.'],
  virConnectGetLibVersion: [
    "The version of the daemon's libvirt: major * 1,000,000 + minor * 1,000 + release.",
    { params: { libVer: 'out_value scalar=ul ts=number' } }
  ],
  virConnectGetMaxVcpus: ['The largest number of virtual CPUs for a domain of a type.', { nullable: ['type'] }],
  virConnectGetStoragePoolCapabilities: ['Which storage pool types there are and what they can do, as XML.'],
  virConnectGetSysinfo: ["The host's SMBIOS data, as XML."],
  virConnectGetType: ['The name of the hypervisor driver, for example `QEMU`.'],
  virConnectGetURI: ['The URI of this connection, as libvirt has understood it.'],
  virConnectGetVersion: [
    'The version of the hypervisor: major * 1,000,000 + minor * 1,000 + release.',
    { params: { hvVer: 'out_value scalar=ul ts=number' } }
  ],
  virConnectIsAlive: ['True while the connection works.'],
  virConnectIsEncrypted: ['True when the connection is encrypted.'],
  virConnectIsSecure: ['True when nobody can listen in: encrypted, or local.'],
  virConnectListAllDomains: ['All domains, running or not, that the flags let through.'],
  virConnectListAllInterfaces: ['All host interfaces that the flags let through.'],
  virConnectListAllNWFilterBindings: ['All bindings of network filters.'],
  virConnectListAllNWFilters: ['All network filters.'],
  virConnectListAllNetworks: ['All virtual networks that the flags let through.'],
  virConnectListAllNodeDevices: ['All host devices that the flags let through.'],
  virConnectListAllSecrets: ['All secrets that the flags let through.'],
  virConnectListAllStoragePools: ['All storage pools that the flags let through.'],
  virConnectListDefinedDomains: ['Names of the domains that are defined but not running.', { count: ['virConnectNumOfDefinedDomains', 'conn'] }],
  virConnectListDefinedInterfaces: ['Names of the host interfaces that are down.', { count: ['virConnectNumOfDefinedInterfaces', 'conn'] }],
  virConnectListDefinedNetworks: ['Names of the virtual networks that are defined but not running.', { count: ['virConnectNumOfDefinedNetworks', 'conn'] }],
  virConnectListDefinedStoragePools: ['Names of the storage pools that are defined but not running.', { count: ['virConnectNumOfDefinedStoragePools', 'conn'] }],
  virConnectListDomains: [
    'Ids of the running domains.',
    { params: { ids: 'out_values scalar=i length=maxids filled=return', maxids: 'capacity scalar=i query=virConnectNumOfDomains:conn' } }
  ],
  virConnectListInterfaces: ['Names of the host interfaces that are up.', { count: ['virConnectNumOfInterfaces', 'conn'] }],
  virConnectListNWFilters: ['Names of the network filters.', { count: ['virConnectNumOfNWFilters', 'conn'] }],
  virConnectListNetworks: ['Names of the running virtual networks.', { count: ['virConnectNumOfNetworks', 'conn'] }],
  virConnectListSecrets: ['UUIDs of the secrets.', { count: ['virConnectNumOfSecrets', 'conn'] }],
  virConnectListStoragePools: ['Names of the running storage pools.', { count: ['virConnectNumOfStoragePools', 'conn'] }],
  virConnectNumOfDefinedDomains: ['How many domains are defined but not running.'],
  virConnectNumOfDefinedInterfaces: ['How many host interfaces are down.'],
  virConnectNumOfDefinedNetworks: ['How many virtual networks are defined but not running.'],
  virConnectNumOfDefinedStoragePools: ['How many storage pools are defined but not running.'],
  virConnectNumOfDomains: ['How many domains are running.'],
  virConnectNumOfInterfaces: ['How many host interfaces are up.'],
  virConnectNumOfNWFilters: ['How many network filters there are.'],
  virConnectNumOfNetworks: ['How many virtual networks are running.'],
  virConnectNumOfSecrets: ['How many secrets there are.'],
  virConnectNumOfStoragePools: ['How many storage pools are running.'],
  virConnectOpen: ['Opens a connection with full access; `Connect.open()` is the usual way.', slow],
  virConnectOpenReadOnly: ['Opens a connection that cannot change anything; `Connect.open()` is the usual way.', slow],
  virConnectSetIdentity: ['Makes the calls of this connection in the name of somebody else.', { typed: 'ConnectIdentity' }],
  virConnectSetKeepAlive: [
    'Sends a sign of life at each interval and closes a connection whose other side does not answer. Returns 1 when the connection needs none.',
    { returns: 'value scalar=i' }
  ],
  virGetVersion: [
    'The version of the loaded libvirt: major * 1,000,000 + minor * 1,000 + release.',
    { params: { libVer: 'out_value scalar=ul ts=number', type: 'null', typeVer: 'null' } }
  ],
  virInterfaceChangeBegin: ['Begins a change of host interfaces that can be rolled back.'],
  virInterfaceChangeCommit: ['Keeps what was changed since `interfaceChangeBegin()`.'],
  virInterfaceChangeRollback: ['Takes back what was changed since `interfaceChangeBegin()`.'],
  virInterfaceDefineXML: ['Defines a host interface, or changes its definition.'],
  virInterfaceLookupByMACString: ['Finds a host interface by its MAC address.', { required: ['macstr'] }],
  virInterfaceLookupByName: ['Finds a host interface by its name.'],
  virNWFilterBindingCreateXML: ['Binds a network filter to a port device.', slow],
  virNWFilterBindingLookupByPortDev: ['Finds the binding of a network filter by its port device.'],
  virNWFilterDefineXML: ['Defines a network filter, or changes its definition.'],
  virNWFilterDefineXMLFlags: ['Defines a network filter, or changes its definition, with flags.'],
  virNWFilterLookupByName: ['Finds a network filter by its name.'],
  virNWFilterLookupByUUID: ['Finds a network filter by its UUID, given in binary to libvirt.'],
  virNWFilterLookupByUUIDString: ['Finds a network filter by its UUID, given as text to libvirt.'],
  virNetworkCreateXML: ['Starts a virtual network that is gone when it stops.', slow],
  virNetworkCreateXMLFlags: ['Starts a virtual network that is gone when it stops, with flags.', slow],
  virNetworkDefineXML: ['Defines a virtual network, or changes its definition.'],
  virNetworkDefineXMLFlags: ['Defines a virtual network, or changes its definition, with flags.'],
  virNetworkLookupByName: ['Finds a virtual network by its name.'],
  virNetworkLookupByUUID: ['Finds a virtual network by its UUID, given in binary to libvirt.'],
  virNetworkLookupByUUIDString: ['Finds a virtual network by its UUID, given as text to libvirt.'],
  virNodeAllocPages: [
    'Reserves or releases huge pages in NUMA cells of the host. Returns how many cells were changed.',
    {
      ...slow,
      params: { pageSizes: 'in_values scalar=u length=npages', pageCounts: 'in_values scalar=ull length=npages' },
      returns: 'value scalar=i'
    }
  ],
  virNodeDeviceCreateXML: ['Creates a device on the host, for example a virtual HBA or a mediated device.', slow],
  virNodeDeviceDefineXML: ['Defines a device on the host that can be started later.', slow],
  virNodeDeviceLookupByName: ['Finds a host device by its name.'],
  virNodeDeviceLookupSCSIHostByWWN: ['Finds a SCSI host by its two world-wide names.'],
  virNodeGetCPUMap: [
    'Which CPUs of the host are online: how many there are, the set, and how many are online.',
    { params: { cpumap: 'out_cpumap filled=return ts=cpumap', online: 'out_value scalar=u' }, returns: 'value scalar=i', ret: { name: 'total' } }
  ],
  virNodeGetCPUStats: [
    'CPU times of the host since its start, in ns.',
    { params: { params: 'out_structs struct=virNodeCPUStats length=nparams filled=nparams ts=figures' }, out: 'NodeCPUFigures' }
  ],
  virNodeGetCellsFreeMemory: [
    'Free memory of NUMA cells, in bytes.',
    { params: { freeMems: 'out_values scalar=ull length=maxCells filled=return' } }
  ],
  virNodeGetFreeMemory: ['Free memory of the host, in bytes.'],
  virNodeGetFreePages: [
    'Free pages of each given size (KiB) in each NUMA cell, cell by cell.',
    {
      params: {
        pages: 'in_values scalar=u length=npages',
        counts: 'out_values scalar=ull length=npages times=cellCount filled=return'
      }
    }
  ],
  virNodeGetInfo: ['The hardware of the host: CPU model, memory, CPUs.'],
  virNodeGetMemoryParameters: ['How the host merges equal pages (KSM).'],
  virNodeGetMemoryStats: [
    'Memory of the host or of one NUMA cell, in KiB.',
    { params: { params: 'out_structs struct=virNodeMemoryStats length=nparams filled=nparams ts=figures' }, out: 'NodeMemoryFigures' }
  ],
  virNodeGetSEVInfo: ['What the host needs to tell about AMD SEV for launching protected guests.'],
  virNodeGetSecurityModel: ['The security model that the host puts its guests under.'],
  virNodeListDevices: ['Names of the host devices, of all or of one capability.', { nullable: ['cap'], count: ['virNodeNumOfDevices', 'conn', 'cap', 'flags'] }],
  virNodeNumOfDevices: ['How many host devices there are, of all or of one capability.', { nullable: ['cap'] }],
  virNodeSetMemoryParameters: ['Changes how the host merges equal pages (KSM).', { typed: 'NodeMemoryParams' }],
  virNodeSuspendForDuration: [
    'Puts the host to sleep for a number of seconds.',
    { enums: { target: 'virNodeSuspendTarget' } }
  ],
  virSecretDefineXML: ['Defines a secret, or changes its definition.'],
  virSecretLookupByUUID: ['Finds a secret by its UUID, given in binary to libvirt.'],
  virSecretLookupByUUIDString: ['Finds a secret by its UUID, given as text to libvirt.'],
  virSecretLookupByUsage: ['Finds a secret by what it is used for.', { enums: { usageType: 'virSecretUsageType' } }],
  virStoragePoolCreateXML: ['Starts a storage pool that is gone when it stops.', slow],
  virStoragePoolDefineXML: ['Defines a storage pool, or changes its definition.'],
  virStoragePoolLookupByName: ['Finds a storage pool by its name.'],
  virStoragePoolLookupByTargetPath: ['Finds a running storage pool by the path that it is at.'],
  virStoragePoolLookupByUUID: ['Finds a storage pool by its UUID, given in binary to libvirt.'],
  virStoragePoolLookupByUUIDString: ['Finds a storage pool by its UUID, given as text to libvirt.'],
  virStorageVolLookupByKey: ['Finds a volume by its key, which no other volume of the host has.'],
  virStorageVolLookupByPath: ['Finds a volume by its path.'],
  virStreamNew: ['Makes a stream, which a later call connects to a console, a volume or a screenshot.'],
  virDomainCreateLinux: ['The old name of `domainCreateXML()`.', slow],
  virDomainCreateXML: ['Starts a domain that is gone when it stops.', slow],
  virDomainCreateXMLWithFiles: [
    'Starts a domain that is gone when it stops, and gives it open file descriptors.',
    { ...slow, params: { files: 'in_values scalar=i length=nfiles' } }
  ],
  virDomainDefineXML: ['Defines a domain, or changes its definition.'],
  virDomainDefineXMLFlags: ['Defines a domain, or changes its definition, with flags.'],
  virDomainLookupByID: ['Finds a running domain by its id.'],
  virDomainLookupByName: ['Finds a domain by its name.'],
  virDomainLookupByUUID: ['Finds a domain by its UUID, given in binary to libvirt.'],
  virDomainLookupByUUIDString: ['Finds a domain by its UUID, given as text to libvirt.'],
  virDomainRestore: ['Starts a domain from a file that `save()` wrote.', slow],
  virDomainRestoreFlags: ['Starts a domain from a file that `save()` wrote, with changes to its XML and flags.', slow],
  virDomainRestoreParams: ['Starts a domain from a file that `save()` wrote; everything is a parameter.', { ...slow, typed: 'DomainSaveParams' }],
  virDomainSaveImageDefineXML: ['Changes the domain XML inside a file that `save()` wrote.', slow],
  virDomainSaveImageGetXMLDesc: ['The domain XML inside a file that `save()` wrote.', slow]
}
