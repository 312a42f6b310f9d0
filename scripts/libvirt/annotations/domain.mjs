// Functions of a domain, its snapshots and its checkpoints.

const slow = { lane: 'slow' }
const fromAgent = { lane: 'slow' }

export const domain = {
  virDomainAbortJob: ['Asks the running job (a migration, a save, a dump) to stop.'],
  virDomainAbortJobFlags: ['Asks the running job to stop, with flags.'],
  virDomainAddIOThread: ['Adds an I/O thread.'],
  virDomainAgentSetResponseTimeout: [
    'Sets how long libvirt waits for the guest agent, in seconds.',
    { enums: { timeout: 'virDomainAgentResponseTimeoutValues' } }
  ],
  virDomainAttachDevice: ['Attaches a device to the running domain.', slow],
  virDomainAttachDeviceFlags: ['Attaches a device to the running domain, to its definition, or to both.', slow],
  virDomainAuthorizedSSHKeysGet: ["A guest user's authorized SSH keys, by the guest agent.", fromAgent],
  virDomainAuthorizedSSHKeysSet: [
    "Changes a guest user's authorized SSH keys, by the guest agent.",
    { ...fromAgent, nullable: ['keys'] }
  ],
  virDomainBackupBegin: ['Begins a backup of disks, and makes a checkpoint at the same point if one is described.', slow],
  virDomainBackupGetXMLDesc: ['The running backup, as XML.'],
  virDomainBlockCommit: ["Begins to move data of a disk's upper images down into a lower one.", { ...slow, nullable: ['base', 'top'] }],
  virDomainBlockCopy: ['Begins to copy a disk to a new place, and to mirror it there.', { ...slow, typed: 'DomainBlockCopyParams', nullable: ['params'] }],
  virDomainBlockJobAbort: ['Ends the block job of a disk, or moves over to its mirror.', slow],
  virDomainBlockJobSetSpeed: ['Limits how fast the block job of a disk runs, in MiB/s; 0: not at all.'],
  virDomainBlockPeek: [
    "Reads bytes of a domain's disk, as the guest sees it.",
    { ...slow, params: { buffer: 'out_bytes length=size', size: 'in_value scalar=z' } }
  ],
  virDomainBlockPull: ["Begins to fill a disk's image with the data of those below it.", slow],
  virDomainBlockRebase: ["Begins to fill a disk's image with the data of those below it, down to a base.", { ...slow, nullable: ['base'] }],
  virDomainBlockResize: ['Changes the size of a disk of the running domain, in KiB or by a flag in bytes.', slow],
  virDomainBlockStats: [
    'Counters of one disk.',
    { params: { size: 'capacity scalar=z sizeof=virDomainBlockStatsStruct' } }
  ],
  virDomainBlockStatsFlags: ['Counters of one disk, all that the hypervisor has.', { out: 'DomainBlockStatsParams' }],
  virDomainCheckpointCreateXML: ['Makes a checkpoint, from which on changed blocks are tracked.', slow],
  virDomainCheckpointDelete: ['Deletes the checkpoint.', slow],
  virDomainCheckpointGetConnect: ["The checkpoint's connection."],
  virDomainCheckpointGetDomain: ["The checkpoint's domain."],
  virDomainCheckpointGetName: ["The checkpoint's name."],
  virDomainCheckpointGetParent: ['The checkpoint that this one follows.'],
  virDomainCheckpointGetXMLDesc: ['The checkpoint, as XML.'],
  virDomainCheckpointListAllChildren: ['The checkpoints that follow this one.'],
  virDomainCheckpointLookupByName: ['Finds a checkpoint of the domain by its name.'],
  virDomainCoreDump: ["Writes the guest's memory to a file on the host.", slow],
  virDomainCoreDumpWithFormat: [
    "Writes the guest's memory to a file on the host, in a chosen format.",
    { ...slow, enums: { dumpformat: 'virDomainCoreDumpFormat' } }
  ],
  virDomainCreate: ['Starts the domain.', slow],
  virDomainCreateWithFiles: [
    'Starts the domain and gives it open file descriptors.',
    { ...slow, params: { files: 'in_values scalar=i length=nfiles' } }
  ],
  virDomainCreateWithFlags: ['Starts the domain, with flags.', slow],
  virDomainDelIOThread: ['Removes an I/O thread.'],
  virDomainDestroy: ['Stops the domain at once, as by pulling the plug.', slow],
  virDomainDestroyFlags: ['Stops the domain at once, with flags.', slow],
  virDomainDetachDevice: ['Detaches a device from the running domain.', slow],
  virDomainDetachDeviceAlias: ['Detaches the device with an alias.', slow],
  virDomainDetachDeviceFlags: ['Detaches a device from the running domain, from its definition, or from both.', slow],
  virDomainFDAssociate: [
    'Gives the domain open file descriptors by a name that its XML may use.',
    { params: { fds: 'in_values scalar=i length=nfds' } }
  ],
  virDomainFSFreeze: ['Freezes file systems of the guest, by the guest agent. Returns how many.', { ...fromAgent, nullable: ['mountpoints'], returns: 'value scalar=i' }],
  virDomainFSThaw: ['Thaws frozen file systems of the guest, by the guest agent. Returns how many.', { ...fromAgent, nullable: ['mountpoints'], returns: 'value scalar=i' }],
  virDomainFSTrim: ['Lets the guest give back unused blocks of its file systems, by the guest agent.', { ...fromAgent, nullable: ['mountPoint'] }],
  virDomainGetAutostart: ['True when the domain starts with the host.'],
  virDomainGetBlkioParameters: ['Limits and weights of the disk I/O.', { out: 'DomainBlkioParams' }],
  virDomainGetBlockInfo: ['How large a disk is and how much of it is used.'],
  virDomainGetBlockIoTune: ['Limits of the I/O of one disk.', { out: 'DomainBlockIoTuneParams' }],
  virDomainGetBlockJobInfo: [
    'How far the block job of a disk is; undefined when there is none.',
    { absent: true, returns: 'value scalar=i failure=minus_one' }
  ],
  virDomainGetCPUStats: [
    'CPU times of the guest, for each of `ncpus` host CPUs from `startCpu` on; `startCpu` -1 with `ncpus` 1: the sum.',
    {
      params: {
        params: 'out_typed_matrix length=nparams times=ncpus filled=return',
        nparams: 'capacity scalar=u self=params'
      },
      out: 'DomainCPUStatsParams'
    }
  ],
  virDomainGetConnect: ["The domain's connection."],
  virDomainGetControlInfo: ['Whether the domain can be controlled now, or what is in the way.'],
  virDomainGetDiskErrors: [
    'The disks that have I/O errors.',
    { params: { errors: 'out_structs struct=virDomainDiskError length=maxerrors filled=return', maxerrors: 'capacity scalar=u self=errors' } }
  ],
  virDomainGetEmulatorPinInfo: [
    'The host CPUs that the emulator may run on.',
    { params: { cpumap: 'out_bytes length=maplen ts=cpumap', maplen: 'capacity scalar=i count=cpumap_bytes_of_domain' } }
  ],
  virDomainGetFSInfo: ['The mounted file systems of the guest, by the guest agent.', fromAgent],
  virDomainGetGuestInfo: [
    'What the guest agent tells of users, system, time zone, host name, file systems and disks.',
    { ...fromAgent, enums: { types: 'virDomainGuestInfoTypes' } }
  ],
  virDomainGetGuestVcpus: ['Virtual CPUs as the guest sees them, by the guest agent.', fromAgent],
  virDomainGetHostname: ['The host name of the guest.', fromAgent],
  virDomainGetID: ["The running domain's id; undefined when it does not run.", { returns: 'value scalar=u failure=maximum checked' }],
  virDomainGetIOThreadInfo: ['The I/O threads and the host CPUs that each may run on.'],
  virDomainGetInfo: ['State, memory, number of virtual CPUs and CPU time.'],
  virDomainGetInterfaceParameters: ['Bandwidth limits of one interface.', { out: 'DomainInterfaceParams' }],
  virDomainGetJobInfo: ['How far the running job is.'],
  virDomainGetJobStats: [
    'How far the running job is, or how the last one ended: all that the hypervisor tells.',
    { enums: { type: 'virDomainJobType' }, out: 'DomainJobStats' }
  ],
  virDomainGetLaunchSecurityInfo: ['What is known of the protected launch (AMD SEV).', { out: 'DomainLaunchSecurityParams' }],
  virDomainGetMaxMemory: ['The largest memory that the domain may have, in KiB.'],
  virDomainGetMaxVcpus: ['The largest number of virtual CPUs that the domain may have.'],
  virDomainGetMemoryParameters: ['Limits of the memory, in KiB.', { out: 'DomainMemoryParams' }],
  virDomainGetMessages: ['What libvirt has to say about the domain: why it is tainted, what is deprecated.'],
  virDomainGetMetadata: [
    "Title, description, or an element of the domain's metadata.",
    { nullable: ['uri'], enums: { type: 'virDomainMetadataType' } }
  ],
  virDomainGetName: ["The domain's name."],
  virDomainGetNumaParameters: ['How the memory is spread over NUMA nodes.', { out: 'DomainNumaParams' }],
  virDomainGetOSType: ['What kind of system the domain boots, for example `hvm`.'],
  virDomainGetPerfEvents: ['Which performance events are counted.', { out: 'DomainPerfEvents' }],
  virDomainGetSchedulerParameters: ['The scheduler settings of the running domain.', { count: 'scheduler_parameters', out: 'DomainSchedulerParams' }],
  virDomainGetSchedulerParametersFlags: ['The scheduler settings of the running domain or of its definition.', { count: 'scheduler_parameters', out: 'DomainSchedulerParams' }],
  virDomainGetSchedulerType: [
    'The name of the scheduler, and how many settings it has.',
    { params: { nparams: 'out_value scalar=i' }, ret: { name: 'type' } }
  ],
  virDomainGetSecurityLabel: ['The security label of the running domain.'],
  virDomainGetSecurityLabelList: [
    'All security labels of the running domain.',
    { params: { seclabels: 'out_array_structs struct=virSecurityLabel filled=return' } }
  ],
  virDomainGetState: ['The state, and the reason for it (an enum that depends on the state).', { enums: { state: 'virDomainState' } }],
  virDomainGetTime: ['The time in the guest since 1970, by the guest agent.', fromAgent],
  virDomainGetUUID: ["The domain's UUID, taken in binary from libvirt."],
  virDomainGetUUIDString: ["The domain's UUID, taken as text from libvirt."],
  virDomainGetVcpuPinInfo: [
    'For each virtual CPU the host CPUs that it may run on.',
    {
      params: {
        ncpumaps: 'capacity scalar=i count=vcpus_of_domain',
        cpumaps: 'out_cpumaps length=maplen times=ncpumaps filled=return ts=cpumaps',
        maplen: 'capacity scalar=i count=cpumap_bytes_of_domain'
      }
    }
  ],
  virDomainGetVcpus: [
    'For each virtual CPU its state, and the host CPUs that it may run on.',
    {
      params: {
        info: 'out_structs struct=virVcpuInfo length=maxinfo filled=return',
        maxinfo: 'capacity scalar=i count=vcpus_of_domain',
        cpumaps: 'out_cpumaps length=maplen times=maxinfo filled=return ts=cpumaps',
        maplen: 'capacity scalar=i count=cpumap_bytes_of_domain'
      }
    }
  ],
  virDomainGetVcpusFlags: ['The number of virtual CPUs, of the running domain or of its definition.', { returns: 'value scalar=i' }],
  virDomainGetXMLDesc: ['The domain, as XML.'],
  virDomainHasCurrentSnapshot: ['True when the domain has a current snapshot.'],
  virDomainHasManagedSaveImage: ['True when a managed save is there, from which the next start goes on.'],
  virDomainInjectNMI: ['Sends a non-maskable interrupt to the guest.'],
  virDomainInterfaceAddresses: [
    'The addresses of the guest, from leases, the guest agent or the ARP table.',
    { ...fromAgent, enums: { source: 'virDomainInterfaceAddressesSource' } }
  ],
  virDomainInterfaceStats: [
    'Counters of one interface.',
    { params: { size: 'capacity scalar=z sizeof=virDomainInterfaceStatsStruct' } }
  ],
  virDomainIsActive: ['True while the domain runs or is paused.'],
  virDomainIsPersistent: ['True when the domain has a definition that outlives it.'],
  virDomainIsUpdated: ['True when the definition has changed since the start.'],
  virDomainListAllCheckpoints: ['All checkpoints that the flags let through.'],
  virDomainListAllSnapshots: ['All snapshots that the flags let through.'],
  virDomainListGetStats: [
    'Statistics of the given domains, which must be of one connection.',
    { params: { doms: 'in_handles cls=Domain' }, enums: { stats: 'virDomainStatsTypes' }, flags: ['virConnectGetAllDomainStatsFlags'] }
  ],
  virDomainManagedSave: ['Saves the domain to a place of libvirt, from which the next start goes on.', slow],
  virDomainManagedSaveDefineXML: ['Changes the domain XML inside the managed save.', slow],
  virDomainManagedSaveGetXMLDesc: ['The domain XML inside the managed save.'],
  virDomainManagedSaveRemove: ['Deletes the managed save: the next start boots.', slow],
  virDomainMemoryPeek: [
    "Reads bytes of the guest's memory.",
    { ...slow, params: { buffer: 'out_bytes length=size', size: 'in_value scalar=z' } }
  ],
  virDomainMemoryStats: [
    "Figures of the guest's memory (KiB, except faults and times).",
    { params: { stats: 'out_structs struct=virDomainMemoryStatStruct length=nr_stats filled=return', nr_stats: 'capacity scalar=u fixed=64' } }
  ],
  virDomainMigrate: ['Migrates to another connection; the domain there.', { ...slow, nullable: ['dname', 'uri'] }],
  virDomainMigrate2: ['Migrates to another connection, with changes to its XML; the domain there.', { ...slow, nullable: ['dxml', 'dname', 'uri'] }],
  virDomainMigrate3: ['Migrates to another connection; everything is a parameter. The domain there.', { ...slow, typed: 'DomainMigrateParams', nullable: ['params'] }],
  virDomainMigrateGetCompressionCache: ['The size of the cache for XBZRLE compression, in bytes.'],
  virDomainMigrateGetMaxDowntime: ['The downtime that the last step of a migration may take, in ms.'],
  virDomainMigrateGetMaxSpeed: ['The bandwidth that a migration may take, in MiB/s.'],
  virDomainMigrateSetCompressionCache: ['Sets the size of the cache for XBZRLE compression, in bytes.'],
  virDomainMigrateSetMaxDowntime: ['Sets the downtime that the last step of a migration may take, in ms.'],
  virDomainMigrateSetMaxSpeed: ['Sets the bandwidth that a migration may take, in MiB/s.'],
  virDomainMigrateStartPostCopy: ['Lets the running migration go on as post-copy: the domain moves over now, its memory after it.'],
  virDomainMigrateToURI: ['Migrates to the host of a URI.', { ...slow, nullable: ['dname'] }],
  virDomainMigrateToURI2: ['Migrates to the host of a URI, with changes to its XML.', { ...slow, nullable: ['dconnuri', 'miguri', 'dxml', 'dname'] }],
  virDomainMigrateToURI3: ['Migrates to the host of a URI; everything is a parameter.', { ...slow, typed: 'DomainMigrateParams', nullable: ['dconnuri', 'params'] }],
  virDomainOpenChannel: ['Connects a stream to a channel of the guest.', { nullable: ['name'] }],
  virDomainOpenConsole: ['Connects a stream to a console or serial port of the guest.', { nullable: ['dev_name'] }],
  virDomainOpenGraphics: ['Connects an open socket to a display of the guest.'],
  virDomainOpenGraphicsFD: ['Opens a socket that is connected to a display of the guest; the caller closes it.', { returns: 'value scalar=i' }],
  virDomainPMSuspendForDuration: ['Puts the guest to sleep, by the guest agent.', { ...fromAgent, enums: { target: 'virNodeSuspendTarget' } }],
  virDomainPMWakeup: ['Wakes a sleeping guest.'],
  virDomainPinEmulator: ['Sets the host CPUs that the emulator may run on.'],
  virDomainPinIOThread: ['Sets the host CPUs that an I/O thread may run on.'],
  virDomainPinVcpu: ['Sets the host CPUs that a virtual CPU may run on.'],
  virDomainPinVcpuFlags: ['Sets the host CPUs that a virtual CPU may run on, of the running domain or of its definition.'],
  virDomainReboot: ['Asks the guest to boot again.', slow],
  virDomainRename: ['Gives the stopped domain another name.'],
  virDomainReset: ['Resets the domain at once, as by its button.'],
  virDomainResume: ['Lets a paused domain go on.', slow],
  virDomainRevertToSnapshot: ['Takes the domain back to the snapshot.', { ...slow, method: 'revertToSnapshot' }],
  virDomainSave: ['Stops the domain and writes its memory to a file.', slow],
  virDomainSaveFlags: ['Stops the domain and writes its memory to a file, with changes to its XML and flags.', slow],
  virDomainSaveParams: ['Stops the domain and writes its memory to a file; everything is a parameter.', { ...slow, typed: 'DomainSaveParams' }],
  virDomainScreenshot: [
    'Takes a screenshot into a stream; its MIME type.',
    slow
  ],
  virDomainSendKey: [
    'Presses keys together for a time (ms).',
    { params: { keycodes: 'in_values scalar=u length=nkeycodes' }, enums: { codeset: 'virKeycodeSet' } }
  ],
  virDomainSendProcessSignal: ['Sends a signal to a process of a container.', { enums: { signum: 'virDomainProcessSignal' } }],
  virDomainSetAutostart: ['Sets whether the domain starts with the host.'],
  virDomainSetBlkioParameters: ['Sets limits and weights of the disk I/O.', { typed: 'DomainBlkioParams' }],
  virDomainSetBlockIoTune: ['Sets limits of the I/O of one disk.', { typed: 'DomainBlockIoTuneParams' }],
  virDomainSetBlockThreshold: ['Asks for an event when a disk image is written beyond an offset (bytes).'],
  virDomainSetGuestVcpus: ['Switches virtual CPUs on or off inside the guest, by the guest agent.', { ...fromAgent, params: { state: 'in_value scalar=flag' } }],
  virDomainSetIOThreadParams: ['Changes the polling and the workers of an I/O thread.', { typed: 'DomainIOThreadParams' }],
  virDomainSetInterfaceParameters: ['Sets bandwidth limits of one interface.', { typed: 'DomainInterfaceParams' }],
  virDomainSetLaunchSecurityState: ['Injects a secret into a protected guest (AMD SEV) before it runs.', { typed: 'DomainLaunchSecurityParams' }],
  virDomainSetLifecycleAction: [
    'Sets what happens when the guest powers off, reboots or crashes.',
    { enums: { type: 'virDomainLifecycle', action: 'virDomainLifecycleAction' } }
  ],
  virDomainSetMaxMemory: ['Sets the largest memory that the domain may have, in KiB.'],
  virDomainSetMemory: ['Sets the memory that the guest has, in KiB, by its balloon.'],
  virDomainSetMemoryFlags: ['Sets the memory that the guest has, or the largest it may have, in KiB.'],
  virDomainSetMemoryParameters: ['Sets limits of the memory, in KiB.', { typed: 'DomainMemoryParams' }],
  virDomainSetMemoryStatsPeriod: ['Sets how often the balloon collects memory figures, in seconds.'],
  virDomainSetMetadata: [
    "Sets title, description, or an element of the domain's metadata.",
    { nullable: ['metadata', 'key', 'uri'], enums: { type: 'virDomainMetadataType' } }
  ],
  virDomainSetNumaParameters: ['Sets how the memory is spread over NUMA nodes.', { typed: 'DomainNumaParams' }],
  virDomainSetPerfEvents: ['Sets which performance events are counted.', { typed: 'DomainPerfEvents' }],
  virDomainSetSchedulerParameters: ['Changes the scheduler settings of the running domain.', { typed: 'DomainSchedulerParams' }],
  virDomainSetSchedulerParametersFlags: ['Changes the scheduler settings of the running domain or of its definition.', { typed: 'DomainSchedulerParams' }],
  virDomainSetTime: ['Sets the time in the guest, by the guest agent.', fromAgent],
  virDomainSetUserPassword: ["Sets a guest user's password, by the guest agent.", fromAgent],
  virDomainSetVcpu: ['Plugs or unplugs chosen virtual CPUs.', { params: { state: 'in_value scalar=flag' }, ...slow }],
  virDomainSetVcpus: ['Changes the number of virtual CPUs of the running domain.', slow],
  virDomainSetVcpusFlags: ['Changes the number of virtual CPUs, of the running domain or of its definition.', slow],
  virDomainShutdown: ['Asks the guest to shut down; it may take its time, or refuse.', slow],
  virDomainShutdownFlags: ['Asks the guest to shut down, in a chosen way.', slow],
  virDomainSnapshotCreateXML: ['Makes a snapshot.', slow],
  virDomainSnapshotCurrent: ['The current snapshot.'],
  virDomainSnapshotDelete: ['Deletes the snapshot.', slow],
  virDomainSnapshotGetConnect: ["The snapshot's connection."],
  virDomainSnapshotGetDomain: ["The snapshot's domain."],
  virDomainSnapshotGetName: ["The snapshot's name."],
  virDomainSnapshotGetParent: ['The snapshot that this one follows.'],
  virDomainSnapshotGetXMLDesc: ['The snapshot, as XML.'],
  virDomainSnapshotHasMetadata: ['True when libvirt keeps metadata of the snapshot.'],
  virDomainSnapshotIsCurrent: ["True when it is the domain's current snapshot."],
  virDomainSnapshotListAllChildren: ['The snapshots that follow this one.'],
  virDomainSnapshotListChildrenNames: ['Names of the snapshots that follow this one.', { count: ['virDomainSnapshotNumChildren', 'snapshot', 'flags'] }],
  virDomainSnapshotListNames: ['Names of the snapshots.', { count: ['virDomainSnapshotNum', 'domain', 'flags'] }],
  virDomainSnapshotLookupByName: ['Finds a snapshot of the domain by its name.'],
  virDomainSnapshotNum: ['How many snapshots the domain has.'],
  virDomainSnapshotNumChildren: ['How many snapshots follow this one.'],
  virDomainStartDirtyRateCalc: ['Begins to measure how fast the guest dirties its memory, for a number of seconds; the result is among the statistics.'],
  virDomainSuspend: ['Pauses the domain; it stays in memory.', slow],
  virDomainUndefine: ['Deletes the definition of the domain.', slow],
  virDomainUndefineFlags: ['Deletes the definition of the domain and what the flags name with it.', slow],
  virDomainUpdateDeviceFlags: ['Changes a device, for example the medium in a drive.', slow]
}
