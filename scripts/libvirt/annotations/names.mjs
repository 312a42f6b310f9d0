// Names for TypeScript, and the typed parameters that belong together.

/** What the members' names begin with, of enums with one member and of those where it does not show; of members
 *  that begin otherwise only VIR_ is left out. */
export const enumPrefixes = {
  virDomainAbortJobFlagsValues: 'VIR_DOMAIN_ABORT_JOB_',
  virDomainBackupBeginFlags: 'VIR_DOMAIN_BACKUP_BEGIN_',
  virDomainBlockedReason: 'VIR_DOMAIN_BLOCKED_',
  virDomainBlockJobInfoFlags: 'VIR_DOMAIN_BLOCK_JOB_INFO_',
  virDomainBlockJobSetSpeedFlags: 'VIR_DOMAIN_BLOCK_JOB_SPEED_',
  virDomainBlockPullFlags: 'VIR_DOMAIN_BLOCK_PULL_',
  virDomainBlockResizeFlags: 'VIR_DOMAIN_BLOCK_RESIZE_',
  virDomainChannelFlags: 'VIR_DOMAIN_CHANNEL_',
  virDomainDefineFlags: 'VIR_DOMAIN_DEFINE_',
  virDomainMigrateMaxSpeedFlags: 'VIR_DOMAIN_MIGRATE_MAX_SPEED_',
  virDomainFDAssociateFlags: 'VIR_DOMAIN_FD_ASSOCIATE_',
  virErrorNumber: 'VIR_ERR_',
  virDomainNostateReason: 'VIR_DOMAIN_NOSTATE_',
  virDomainOpenGraphicsFlags: 'VIR_DOMAIN_OPEN_GRAPHICS_',
  virDomainSetUserPasswordFlags: 'VIR_DOMAIN_PASSWORD_',
  virDomainPMSuspendedDiskReason: 'VIR_DOMAIN_PMSUSPENDED_DISK_',
  virDomainPMSuspendedReason: 'VIR_DOMAIN_PMSUSPENDED_',
  virDomainSaveImageXMLFlags: 'VIR_DOMAIN_SAVE_IMAGE_XML_',
  virDomainSnapshotXMLFlags: 'VIR_DOMAIN_SNAPSHOT_XML_',
  virDomainSetTimeFlags: 'VIR_DOMAIN_TIME_',
  virInterfaceDefineFlags: 'VIR_INTERFACE_DEFINE_',
  virInterfaceXMLFlags: 'VIR_INTERFACE_XML_',
  virNetworkCreateFlags: 'VIR_NETWORK_CREATE_',
  virNetworkDefineFlags: 'VIR_NETWORK_DEFINE_',
  virNetworkEventID: 'VIR_NETWORK_EVENT_ID_',
  virNetworkXMLFlags: 'VIR_NETWORK_XML_',
  virNodeGetCPUStatsAllCPUs: 'VIR_NODE_CPU_STATS_',
  virNodeDeviceCreateXMLFlags: 'VIR_NODE_DEVICE_CREATE_XML_',
  virNodeDeviceDefineXMLFlags: 'VIR_NODE_DEVICE_DEFINE_XML_',
  virNodeGetMemoryStatsAllCells: 'VIR_NODE_MEMORY_STATS_',
  virNWFilterBindingCreateFlags: 'VIR_NWFILTER_BINDING_CREATE_',
  virNWFilterDefineFlags: 'VIR_NWFILTER_DEFINE_',
  virSecretDefineFlags: 'VIR_SECRET_DEFINE_',
  virStoragePoolDefineFlags: 'VIR_STORAGE_POOL_DEFINE_',
  virStorageVolDownloadFlags: 'VIR_STORAGE_VOL_DOWNLOAD_',
  virStorageVolUploadFlags: 'VIR_STORAGE_VOL_UPLOAD_',
  virStorageVolInfoFlags: 'VIR_STORAGE_VOL_',
  virStorageXMLFlags: 'VIR_STORAGE_XML_',
  virStreamFlags: 'VIR_STREAM_',
  virStreamRecvFlagsValues: 'VIR_STREAM_RECV_',
  virTypedParameterFlags: 'VIR_TYPED_PARAM_',
  virConnectDomainEventDiskChangeReason: 'VIR_DOMAIN_EVENT_DISK_'
}

/** Enums that JavaScript has no use for: the event loop and the types of typed parameters are inside. */
export const hiddenEnums = [
  'virEventHandleType',
  'virTypedParameterType',
  'virTypedParameterFlags',
  'virBlkioParameterType',
  'virMemoryParameterType',
  'virSchedParameterType'
]

/** Members that end with _LAST and are no mark of the list's end. */
export const realLast = ['VIR_NETWORK_UPDATE_COMMAND_ADD_LAST']

const bandwidth = 'UINT'

/** Typed parameters that one setter or getter knows: the macros whose names begin so, with types that their prose does not name. */
export const typedGroups = {
  ConnectIdentity: { prefix: 'VIR_CONNECT_IDENTITY_', summary: 'Who a connection acts for.' },
  DomainMigrateParams: {
    prefix: 'VIR_MIGRATE_PARAM_',
    summary: 'Parameters of a migration.',
    types: { compression: 'STRING[]', listen_address: 'STRING', migrate_disks: 'STRING[]' }
  },
  DomainBlkioParams: { prefix: 'VIR_DOMAIN_BLKIO_', summary: 'Limits and weights of disk I/O.' },
  DomainBlockCopyParams: { prefix: 'VIR_DOMAIN_BLOCK_COPY_', summary: 'Parameters of a block copy.' },
  DomainBlockIoTuneParams: { prefix: 'VIR_DOMAIN_BLOCK_IOTUNE_', summary: 'Limits of the I/O of one disk.' },
  DomainBlockStatsParams: { prefix: 'VIR_DOMAIN_BLOCK_STATS_', summary: 'Counters of one disk; times in ns.' },
  DomainCPUStatsParams: { prefix: 'VIR_DOMAIN_CPU_STATS_', summary: 'CPU times, in ns.' },
  DomainInterfaceParams: { prefix: 'VIR_DOMAIN_BANDWIDTH_', summary: 'Bandwidth of one interface: KiB/s, bursts in KiB.', type: bandwidth },
  DomainIOThreadParams: {
    prefix: 'VIR_DOMAIN_IOTHREAD_',
    summary: 'Polling and workers of an I/O thread.',
    types: { poll_max_ns: 'ULLONG', poll_grow: 'UINT', poll_shrink: 'UINT' }
  },
  DomainJobStats: { prefix: 'VIR_DOMAIN_JOB_', summary: 'How far a job is: times in ms, amounts in bytes.', types: { errmsg: 'STRING' } },
  DomainLaunchSecurityParams: { prefix: 'VIR_DOMAIN_LAUNCH_SECURITY_', summary: 'The protected launch of a guest.' },
  DomainMemoryParams: { prefix: 'VIR_DOMAIN_MEMORY_', summary: 'Limits of the memory, in KiB.' },
  DomainNumaParams: { prefix: 'VIR_DOMAIN_NUMA_', summary: 'How memory is spread over NUMA nodes.' },
  DomainPerfEvents: { prefix: 'VIR_PERF_PARAM_', summary: 'Which performance events are counted.', type: 'BOOLEAN' },
  DomainSaveParams: { prefix: 'VIR_DOMAIN_SAVE_PARAM_', summary: 'Where a domain is saved to.', type: 'STRING' },
  DomainSchedulerParams: { prefix: 'VIR_DOMAIN_SCHEDULER_', summary: 'Scheduler settings; periods and quotas in us.' },
  DomainTunables: { prefix: 'VIR_DOMAIN_TUNABLE_', summary: 'What a tunable event tells of.' },
  NetworkPortParams: { prefix: 'VIR_NETWORK_PORT_BANDWIDTH_', summary: 'Bandwidth of a port: KiB/s, bursts in KiB.', type: bandwidth },
  NodeMemoryParams: {
    prefix: 'VIR_NODE_MEMORY_SHARED_',
    summary: 'How the host merges equal pages.',
    type: 'ULLONG',
    types: { shm_pages_to_scan: 'UINT', shm_sleep_millisecs: 'UINT', shm_merge_across_nodes: 'UINT' }
  },
  NodeSEVInfo: {
    prefix: 'VIR_NODE_SEV_',
    summary: "The host's AMD SEV.",
    type: 'UINT',
    types: { pdh: 'STRING', 'cert-chain': 'STRING', 'cpu0-id': 'STRING' }
  },
  NodeCPUFigures: { prefix: 'VIR_NODE_CPU_STATS_', summary: 'CPU times of the host since its start, in ns.', type: 'ULLONG' },
  NodeMemoryFigures: { prefix: 'VIR_NODE_MEMORY_STATS_', summary: 'Memory of the host or of one NUMA cell, in KiB.', type: 'ULLONG' },
  AdminThreadPoolParams: { prefix: 'VIR_THREADPOOL_', summary: 'Threads of a server and their limits.' },
  AdminClientLimits: { prefix: 'VIR_SERVER_CLIENTS_', summary: 'Clients of a server and their limits.', type: 'UINT' },
  AdminClientInfo: { prefix: 'VIR_CLIENT_INFO_', summary: 'Who a client is.' }
}

/** The group that a getter without an `out` annotation returns. */
export const typedOutputs = {
  virNodeGetMemoryParameters: 'NodeMemoryParams',
  virNodeGetSEVInfo: 'NodeSEVInfo'
}
