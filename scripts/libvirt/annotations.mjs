// What libvirt's API description does not say, function by function, and what each is for in our words. Read
// by describe.mjs; the parts that follow from C types are not repeated here.
import { connect } from './annotations/connect.mjs'
import { domain } from './annotations/domain.mjs'
import { objects } from './annotations/objects.mjs'
import { admin, lxc, qemu } from './annotations/others.mjs'

export { custom, internal } from './annotations/unbound.mjs'
export { enumPrefixes, hiddenEnums, realLast, typedGroups, typedOutputs } from './annotations/names.mjs'
export { paramTexts } from './annotations/texts.mjs'
export { events } from './annotations/events.mjs'

/** name: [what it does, how it differs from what its C types say]. */
export const functions = { ...connect, ...domain, ...objects, ...qemu, ...lxc, ...admin }

/** In the order of the C++ enum `Class`, which begins with none. */
export const classes = [
  { name: 'Connect', id: 'connect', type: 'virConnect', library: 'libvirt', free: 'virConnectClose' },
  { name: 'Domain', id: 'domain', type: 'virDomain', library: 'libvirt' },
  { name: 'Network', id: 'network', type: 'virNetwork', library: 'libvirt' },
  { name: 'NetworkPort', id: 'network_port', type: 'virNetworkPort', library: 'libvirt' },
  { name: 'StoragePool', id: 'storage_pool', type: 'virStoragePool', library: 'libvirt' },
  { name: 'StorageVol', id: 'storage_vol', type: 'virStorageVol', library: 'libvirt' },
  { name: 'NodeDevice', id: 'node_device', type: 'virNodeDevice', library: 'libvirt' },
  { name: 'Interface', id: 'interface', type: 'virInterface', library: 'libvirt' },
  { name: 'Secret', id: 'secret', type: 'virSecret', library: 'libvirt' },
  { name: 'NWFilter', id: 'nw_filter', type: 'virNWFilter', library: 'libvirt' },
  { name: 'NWFilterBinding', id: 'nw_filter_binding', type: 'virNWFilterBinding', library: 'libvirt' },
  { name: 'DomainSnapshot', id: 'domain_snapshot', type: 'virDomainSnapshot', library: 'libvirt' },
  { name: 'DomainCheckpoint', id: 'domain_checkpoint', type: 'virDomainCheckpoint', library: 'libvirt' },
  { name: 'Stream', id: 'stream', type: 'virStream', library: 'libvirt' },
  { name: 'AdminConnect', id: 'adm_connect', type: 'virAdmConnect', library: 'libvirt-admin', free: 'virAdmConnectClose' },
  { name: 'AdminServer', id: 'adm_server', type: 'virAdmServer', library: 'libvirt-admin', noRef: true },
  { name: 'AdminClient', id: 'adm_client', type: 'virAdmClient', library: 'libvirt-admin', noRef: true }
]

/** Lengths of arrays in structures that the description gives by a macro's name. */
export const lengths = {
  VIR_TYPED_PARAM_FIELD_LENGTH: 80,
  VIR_NODE_CPU_STATS_FIELD_LENGTH: 80,
  VIR_NODE_MEMORY_STATS_FIELD_LENGTH: 80,
  VIR_SECURITY_LABEL_BUFLEN: 4097,
  VIR_SECURITY_MODEL_BUFLEN: 257,
  VIR_SECURITY_DOI_BUFLEN: 257
}

/** Structures that come back (or go in), and the fields that their C types do not explain. */
export const structs = {
  virDomainBlockInfo: { summary: 'How large a disk is and how much of it is used, in bytes.' },
  virDomainBlockJobInfo: { summary: 'How far a block job is.', fields: { type: 'value enumeration=virDomainBlockJobType' } },
  virDomainBlockStatsStruct: { summary: 'Counters of one disk; -1 where the hypervisor keeps none.' },
  virDomainControlInfo: {
    summary: 'What the control interface of a domain is busy with.',
    fields: { state: 'value enumeration=virDomainControlState' }
  },
  virDomainDiskError: {
    summary: 'A disk with an I/O error.',
    fields: { disk: 'string owned', error: 'value enumeration=virDomainDiskErrorCode' }
  },
  virDomainFSInfo: {
    summary: 'A mounted file system of a guest.',
    free: 'virDomainFSInfoFree',
    fields: { devAlias: 'strings length=ndevAlias' }
  },
  virDomainIOThreadInfo: {
    summary: 'An I/O thread and the host CPUs that it may run on.',
    free: 'virDomainIOThreadInfoFree',
    fields: { cpumap: 'bytes length=cpumaplen ts=cpumap' }
  },
  virDomainIPAddress: { summary: 'One address of a guest interface.', fields: { type: 'value enumeration=virIPAddrType' } },
  virDomainInfo: {
    summary: "A domain's state, memory (KiB) and CPU time (ns).",
    fields: { state: 'value enumeration=virDomainState' }
  },
  virDomainInterface: {
    summary: 'A guest interface with its addresses.',
    free: 'virDomainInterfaceFree',
    fields: { addrs: 'structs struct=virDomainIPAddress length=naddrs' }
  },
  virDomainInterfaceStatsStruct: { summary: 'Counters of one guest interface; -1 where the hypervisor keeps none.' },
  virDomainJobInfo: {
    summary: 'How far the running job of a domain is: times in ms, amounts in bytes.',
    fields: { type: 'value enumeration=virDomainJobType' }
  },
  virDomainMemoryStatStruct: {
    summary: 'One figure of the guest memory.',
    fields: { tag: 'value enumeration=virDomainMemoryStatTags' }
  },
  virDomainStatsRecord: {
    summary: 'The statistics of one domain.',
    freeList: 'virDomainStatsRecordListFree',
    fields: { dom: 'handle cls=Domain', params: 'typed length=nparams' }
  },
  virNetworkDHCPLease: {
    summary: 'An address that a virtual network has leased.',
    free: 'virNetworkDHCPLeaseFree',
    fields: { type: 'value enumeration=virIPAddrType' }
  },
  virNodeCPUStats: { summary: 'One counter of host CPU time.' },
  virNodeInfo: { summary: 'The hardware of a host: memory in KiB, CPUs, and how they are grouped.' },
  virNodeMemoryStats: { summary: 'One figure of the host memory, in KiB.' },
  virSecurityLabel: { summary: 'A security label and whether it is enforced.' },
  virSecurityModel: { summary: 'The security model of a host and its domain of interpretation.' },
  virStoragePoolInfo: {
    summary: "A pool's state and its sizes in bytes.",
    fields: { state: 'value enumeration=virStoragePoolState' }
  },
  virStorageVolInfo: {
    summary: "A volume's kind and its sizes in bytes.",
    fields: { type: 'value enumeration=virStorageVolType' }
  },
  virVcpuInfo: {
    summary: 'A virtual CPU: its state, the time it has run (ns) and the host CPU that it is on.',
    fields: { state: 'value enumeration=virVcpuState' }
  },
  virDomainEventGraphicsAddress: { summary: 'One end of a graphics connection.', fields: { family: 'value enumeration=virDomainEventGraphicsAddressType' } },
  virDomainEventGraphicsSubjectIdentity: { summary: 'One identity of who connects to a display.' },
  virDomainEventGraphicsSubject: {
    summary: 'Who connects to a display.',
    fields: { identities: 'structs struct=virDomainEventGraphicsSubjectIdentity length=nidentity' }
  }
}

/** The TypeScript name of a structure or enum. */
export function typeName(name) {
  return name
    .replace(/^virAdm/, 'Admin')
    .replace(/^vir/, '')
    .replace(/(Flags?)Values$/, 'Flags')
    .replace(/FlagValues$/, 'Flags')
    .replace(/Struct$/, '')
}
