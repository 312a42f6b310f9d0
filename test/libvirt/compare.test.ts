// Behaviour checked against the reference: this binding and libvirt-python do the same on hosts that are the same.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { DomainModificationImpact as Impact } from '../../lib/libvirt/index.js'
import { blankDisk, linuxGuest, startHosts, whyNoHosts, type Host } from '../../scripts/hosts/index.mjs'
import { Comparison, Cpus, noReference, ref, type Row } from './compare.js'
import { noLibvirt } from './support.js'

const nobody = '00000000-0000-0000-0000-000000000001'
const nobodyBytes = new Uint8Array(16)
nobodyBytes[15] = 1
const domainUuid = '6695eb01-f6a4-8304-79aa-97f2502e193f'
const domainXml = (name: string) =>
  `<domain type='test'><name>${name}</name><uuid>11111111-2222-3333-4444-${name.padStart(12, '0')}</uuid><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>`
const poolXml = (name: string) =>
  `<pool type='dir'><name>${name}</name><uuid>11111111-2222-3333-4444-${name.padStart(12, '0')}</uuid><target><path>/${name}</path></target></pool>`
const volXml = (name: string) => `<volume><name>${name}</name><capacity>1048576</capacity></volume>`
const networkXml = (name: string) =>
  `<network><name>${name}</name><uuid>11111111-2222-3333-4444-${name.padStart(12, '0')}</uuid><bridge name='br${name}'/><mac address='52:54:00:00:00:01'/><ip address='10.7.0.1' netmask='255.255.255.0'/></network>`
const interfaceXml = `<interface type='ethernet' name='eth7'><start mode='none'/><mac address='aa:bb:cc:dd:ee:07'/></interface>`
const snapshotXml = '<domainsnapshot><name>s1</name><description>first</description></domainsnapshot>'
const checkpointXml = '<domaincheckpoint><name>c1</name></domaincheckpoint>'

/** What any host can be asked. */
const questions: Row[] = [
  ['virConnectGetCapabilities', 'connect'],
  ['virConnectGetHostname', 'connect'],
  ['virConnectGetLibVersion', 'connect'],
  ['virConnectGetMaxVcpus', 'connect', [undefined]],
  ['virConnectGetSysinfo', 'connect'],
  ['virConnectGetType', 'connect'],
  ['virConnectGetURI', 'connect'],
  ['virConnectGetVersion', 'connect'],
  ['virConnectIsAlive', 'connect'],
  ['virConnectIsEncrypted', 'connect'],
  ['virConnectIsSecure', 'connect'],
  ['virConnectGetCPUModelNames', 'connect', ['x86_64']],
  ['virConnectGetCPUModelNames', 'connect', ['nosuch']],
  ['virConnectGetDomainCapabilities', 'connect'],
  ['virConnectGetStoragePoolCapabilities', 'connect'],
  ['virConnectCompareCPU', 'connect', ['<cpu/>']],
  ['virConnectBaselineCPU', 'connect', [['<cpu>']]],
  ['virConnectCompareHypervisorCPU', 'connect', [undefined, undefined, undefined, undefined, '<cpu/>']],
  ['virConnectBaselineHypervisorCPU', 'connect', [undefined, undefined, undefined, undefined, ['<cpu/>']]],
  ['virConnectDomainXMLFromNative', 'connect', ['qemu-argv', 'x']],
  ['virConnectDomainXMLToNative', 'connect', ['qemu-argv', '<domain/>']],
  ['virConnectFindStoragePoolSources', 'connect', ['netfs', undefined]],
  ['virConnectListAllDomains', 'connect', [], { as: 'domains' }],
  ['virConnectListAllInterfaces', 'connect'],
  ['virConnectListAllNetworks', 'connect', [], { as: 'networks' }],
  ['virConnectListAllNodeDevices', 'connect'],
  ['virConnectListAllNWFilters', 'connect'],
  ['virConnectListAllNWFilterBindings', 'connect'],
  ['virConnectListAllSecrets', 'connect'],
  ['virConnectListAllStoragePools', 'connect', [], { as: 'pools' }],
  ['virConnectListDefinedDomains', 'connect', [], { unordered: true }],
  ['virConnectListDefinedInterfaces', 'connect', [], { unordered: true }],
  ['virConnectListDefinedNetworks', 'connect', [], { unordered: true }],
  ['virConnectListDefinedStoragePools', 'connect', [], { unordered: true }],
  ['virConnectListInterfaces', 'connect', [], { unordered: true }],
  ['virConnectListNetworks', 'connect', [], { unordered: true }],
  ['virConnectListNWFilters', 'connect'],
  ['virConnectListSecrets', 'connect'],
  ['virConnectListStoragePools', 'connect', [], { unordered: true }],
  ['virConnectNumOfDefinedDomains', 'connect'],
  ['virConnectNumOfDefinedInterfaces', 'connect'],
  ['virConnectNumOfDefinedNetworks', 'connect'],
  ['virConnectNumOfDefinedStoragePools', 'connect'],
  ['virConnectNumOfDomains', 'connect'],
  ['virConnectNumOfInterfaces', 'connect'],
  ['virConnectNumOfNetworks', 'connect'],
  ['virConnectNumOfNWFilters', 'connect'],
  ['virConnectNumOfSecrets', 'connect'],
  ['virConnectNumOfStoragePools', 'connect'],
  ['virDomainLookupByID', 'connect', [7777]],
  ['virDomainLookupByName', 'connect', ['nobody']],
  ['virDomainLookupByUUID', 'connect', [nobody], { python: [nobodyBytes] }],
  ['virDomainLookupByUUIDString', 'connect', [nobody]],
  ['virInterfaceLookupByName', 'connect', ['nobody']],
  ['virInterfaceLookupByMACString', 'connect', ['00:00:00:00:00:07']],
  ['virNetworkLookupByName', 'connect', ['nobody']],
  ['virNetworkLookupByUUID', 'connect', [nobody], { python: [nobodyBytes] }],
  ['virNetworkLookupByUUIDString', 'connect', [nobody]],
  ['virNodeDeviceLookupByName', 'connect', ['nobody']],
  ['virNodeDeviceLookupSCSIHostByWWN', 'connect', ['2000000000000001', '2000000000000002']],
  ['virNWFilterLookupByName', 'connect', ['nobody']],
  ['virNWFilterLookupByUUID', 'connect', [nobody], { python: [nobodyBytes] }],
  ['virNWFilterLookupByUUIDString', 'connect', [nobody]],
  ['virNWFilterBindingLookupByPortDev', 'connect', ['nobody']],
  ['virSecretLookupByUUID', 'connect', [nobody], { python: [nobodyBytes] }],
  ['virSecretLookupByUUIDString', 'connect', [nobody]],
  ['virSecretLookupByUsage', 'connect', [1, '/nobody']],
  ['virStoragePoolLookupByName', 'connect', ['nobody']],
  ['virStoragePoolLookupByTargetPath', 'connect', ['/nobody']],
  ['virStoragePoolLookupByUUID', 'connect', [nobody], { python: [nobodyBytes] }],
  ['virStoragePoolLookupByUUIDString', 'connect', [nobody]],
  ['virStorageVolLookupByKey', 'connect', ['/nobody']],
  ['virStorageVolLookupByPath', 'connect', ['/nobody']],
  ['virDomainDefineXML', 'connect', ['<domain']],
  ['virDomainCreateXML', 'connect', ['<domain/>']],
  ['virNetworkDefineXML', 'connect', ['<network/>']],
  ['virStoragePoolDefineXML', 'connect', ['<pool/>']],
  ['virSecretDefineXML', 'connect', ['<secret/>']],
  ['virNWFilterDefineXML', 'connect', ['<filter/>']],
  ['virInterfaceDefineXML', 'connect', ['<interface/>']],
  ['virNodeDeviceDefineXML', 'connect', ['<device/>']],
  ['virNodeGetCPUMap', 'connect', [], { give: ({ total, cpumap, online }: { total: number; cpumap: unknown; online: number }) => [total, cpumap, online] }],
  ['virNodeGetCPUStats', 'connect', [-1], { varies: true }],
  ['virNodeGetCPUStats', 'connect', [4711]],
  ['virNodeGetCellsFreeMemory', 'connect', [0, 1], { varies: true }],
  ['virNodeGetFreeMemory', 'connect', [], { varies: true }],
  ['virNodeGetInfo', 'connect', [], { give: info => ({ ...(info as object), memory: (info as { memory: bigint }).memory / 1024n }) }],
  ['virNodeGetMemoryParameters', 'connect'],
  ['virNodeGetMemoryStats', 'connect', [-1], { varies: true }],
  ['virNodeGetSEVInfo', 'connect'],
  ['virNodeGetSecurityModel', 'connect'],
  ['virNodeListDevices', 'connect', [undefined], { unordered: true }],
  ['virNodeNumOfDevices', 'connect', [undefined]]
]

/** What a domain can be asked. */
const aboutDomain = (domain: string): Row[] => [
  ['virDomainGetAutostart', domain],
  ['virDomainGetBlkioParameters', domain, [Impact.CONFIG]],
  ['virDomainGetBlockInfo', domain, ['nosuch']],
  ['virDomainGetBlockInfo', domain, ['vda'], { varies: true }],
  ['virDomainGetBlockIoTune', domain, ['vda', Impact.CONFIG]],
  ['virDomainGetBlockJobInfo', domain, ['vda'], { give: (info: object | undefined) => info ?? {} }],
  ['virDomainGetControlInfo', domain, [], { varies: true }],
  ['virDomainGetDiskErrors', domain, [], { give: (list: { disk: string; error: number }[]) => Object.fromEntries(list.map(({ disk, error }) => [disk, error])) }],
  ['virDomainGetEmulatorPinInfo', domain],
  // System, time zone, host name; interfaces get their addresses meanwhile.
  ['virDomainGetGuestInfo', domain, [2 | 4 | 8]],
  ['virDomainGetGuestVcpus', domain],
  ['virDomainGetHostname', domain],
  ['virDomainGetID', domain, [], { give: (id: number | undefined) => id ?? -1 }],
  ['virDomainGetInfo', domain, [], { varies: true }],
  ['virDomainGetInterfaceParameters', domain, ['nosuch']],
  ['virDomainGetJobInfo', domain],
  ['virDomainGetJobStats', domain, [], { give: ({ type, params }: { type: number; params: object }) => ({ type, ...params }) }],
  ['virDomainGetLaunchSecurityInfo', domain],
  ['virDomainGetMaxMemory', domain],
  ['virDomainGetMaxVcpus', domain],
  ['virDomainGetMemoryParameters', domain, [Impact.CONFIG]],
  ['virDomainGetMessages', domain],
  ['virDomainGetMetadata', domain, [1, undefined]],
  ['virDomainGetMetadata', domain, [0, undefined]],
  ['virDomainGetName', domain],
  ['virDomainGetNumaParameters', domain, [Impact.CONFIG]],
  ['virDomainGetOSType', domain],
  ['virDomainGetPerfEvents', domain],
  ['virDomainGetSchedulerParameters', domain],
  ['virDomainGetSchedulerParametersFlags', domain, [Impact.CONFIG]],
  ['virDomainGetSchedulerType', domain, [], { give: ({ type, nparams }: { type: string; nparams: number }) => [type, nparams] }],
  ['virDomainGetSecurityLabel', domain],
  ['virDomainGetSecurityLabelList', domain],
  ['virDomainGetState', domain],
  ['virDomainGetUUID', domain],
  ['virDomainGetUUIDString', domain],
  ['virDomainGetVcpuPinInfo', domain, [Impact.CONFIG]],
  ['virDomainGetVcpusFlags', domain, [4]],
  ['virDomainGetVcpusFlags', domain, [2]],
  ['virDomainGetXMLDesc', domain],
  ['virDomainHasCurrentSnapshot', domain],
  ['virDomainHasManagedSaveImage', domain],
  ['virDomainIsActive', domain],
  ['virDomainIsPersistent', domain],
  ['virDomainIsUpdated', domain],
  ['virDomainListAllCheckpoints', domain],
  ['virDomainListAllSnapshots', domain],
  ['virDomainMigrateGetCompressionCache', domain],
  ['virDomainMigrateGetMaxDowntime', domain],
  ['virDomainMigrateGetMaxSpeed', domain],
  ['virDomainSnapshotCurrent', domain],
  ['virDomainSnapshotLookupByName', domain, ['nobody']],
  ['virDomainSnapshotNum', domain],
  ['virDomainSnapshotListNames', domain],
  ['virDomainCheckpointLookupByName', domain, ['nobody']],
  ['virDomainBackupGetXMLDesc', domain],
  ['virDomainManagedSaveGetXMLDesc', domain],
  ['virDomainAbortJob', domain],
  ['virDomainAbortJobFlags', domain],
  ['virDomainMemoryPeek', domain, [0, 16, 0]],
  ['virDomainBlockPeek', domain, ['nosuch', 0, 512]],
  ['virDomainBlockJobAbort', domain, ['nosuch']],
  ['virDomainBlockJobSetSpeed', domain, ['nosuch', 1]],
  ['virDomainBlockPull', domain, ['nosuch', 0]],
  ['virDomainBlockResize', domain, ['nosuch', 1024]],
  ['virDomainBlockStats', domain, ['nosuch']],
  ['virDomainInterfaceStats', domain, ['nosuch']],
  ['virDomainAttachDevice', domain, ['<nothing/>']],
  ['virDomainDetachDeviceAlias', domain, ['nobody']],
  ['virDomainUpdateDeviceFlags', domain, ['<nothing/>']],
  ['virDomainAuthorizedSSHKeysGet', domain, ['root']],
  ['virDomainSetBlockThreshold', domain, ['nosuch', 4096]],
  ['virDomainAgentSetResponseTimeout', domain, [5]]
]

const aboutPool = (pool: string): Row[] => [
  ['virStoragePoolGetAutostart', pool],
  ['virStoragePoolGetInfo', pool, [], { varies: true }],
  ['virStoragePoolGetName', pool],
  ['virStoragePoolGetUUID', pool],
  ['virStoragePoolGetUUIDString', pool],
  ['virStoragePoolGetXMLDesc', pool],
  ['virStoragePoolIsActive', pool],
  ['virStoragePoolIsPersistent', pool],
  ['virStoragePoolListAllVolumes', pool],
  ['virStoragePoolListVolumes', pool, [], { unordered: true }],
  ['virStoragePoolNumOfVolumes', pool],
  ['virStorageVolLookupByName', pool, ['nobody']],
  ['virStorageVolCreateXML', pool, ['<volume/>']]
]

const skip = noLibvirt || noReference

const everywhere = new Set<string>()
t.teardown(() => t.comment(`compared with libvirt-python: ${everywhere.size} functions`))

t.test('a difference is noticed', { skip }, async t => {
  await using compare = await Comparison.open('test:///default')
  const differs = async (...row: Row) => t.type((await compare.compare(row)).difference, 'string', row[0])
  await differs('virDomainLookupByName', 'connect', ['test'], { python: ['other'] })
  await differs('virDomainLookupByName', 'connect', ['other'], { python: ['test'] })
  await differs('virConnectDomainXMLFromNative', 'connect', ['x', 'y'], { python: [1, 2] })
  await differs('virConnectNumOfDomains', 'connect', [], { give: count => Number(count) + 1 })
  await differs('virNodeGetInfo', 'connect')
  await differs('virConnectListDomains', 'connect')
  await differs('virConnectListAllDomains', 'connect', [], { python: [2] })
  t.equal((await compare.compare(['virConnectNumOfDomains', 'connect'])).difference, undefined)
})

t.test('the test driver', { skip }, async t => {
  await using compare = await Comparison.open('test:///default')
  const domain: Row[] = [
    ['virDomainLookupByName', 'connect', ['test'], { as: 'domain' }],
    ['virDomainLookupByUUIDString', 'connect', [domainUuid]],
    ['virDomainLookupByID', 'connect', [1]],
    ...aboutDomain('domain'),
    ['virDomainGetCPUStats', 'domain', [-1, 1], { python: [true], varies: true }],
    ['virDomainGetFSInfo', 'domain', [], { give: (list: { mountpoint: string; name: string; fstype: string; devAlias: string[] }[]) => list.map(({ mountpoint, name, fstype, devAlias }) => [mountpoint, name, fstype, devAlias]) }],
    ['virDomainGetTime', 'domain', [], { varies: true }],
    ['virDomainInterfaceStats', 'domain', ['testnet0'], { varies: true }],
    ['virDomainBlockStats', 'domain', ['vda'], { varies: true }],
    ['virDomainBlockStatsFlags', 'domain', ['vda']],
    ['virDomainFSFreeze', 'domain'],
    ['virDomainFSThaw', 'domain', [['/']]],
    ['virDomainFSThaw', 'domain', [['/nosuch']]],
    ['virDomainFSTrim', 'domain', [undefined, 0]],
    ['virDomainSetAutostart', 'domain', [true], { python: [1] }],
    ['virDomainGetAutostart', 'domain'],
    ['virDomainAddIOThread', 'domain', [7]],
    ['virDomainAddIOThread', 'domain', [7]],
    ['virDomainPinIOThread', 'domain', [7, [0, 1]], { python: [7, new Cpus([0, 1])] }],
    ['virDomainGetIOThreadInfo', 'domain'],
    ['virDomainSetIOThreadParams', 'domain', [7, { poll_max_ns: 1000 }]],
    ['virDomainDelIOThread', 'domain', [7]],
    ['virDomainDelIOThread', 'domain', [7]],
    ['virDomainSetBlkioParameters', 'domain', [{ weight: 500 }, Impact.CONFIG]],
    ['virDomainGetBlkioParameters', 'domain', [Impact.CONFIG]],
    ['virDomainSetBlockIoTune', 'domain', ['vda', { total_bytes_sec: 4096, total_bytes_sec_max: 8192n }]],
    ['virDomainGetBlockIoTune', 'domain', ['vda']],
    ['virDomainPinEmulator', 'domain', [[1, 3]], { python: [new Cpus([1, 3])] }],
    ['virDomainGetEmulatorPinInfo', 'domain'],
    ['virDomainPinVcpu', 'domain', [0, [2]], { python: [0, new Cpus([2])] }],
    ['virDomainPinVcpuFlags', 'domain', [1, [3, 4]], { python: [1, new Cpus([3, 4])] }],
    ['virDomainGetVcpuPinInfo', 'domain'],
    ['virDomainSetInterfaceParameters', 'domain', ['aa:bb:cc:dd:ee:ff', { 'inbound.average': 1000, 'outbound.average': 2000 }]],
    ['virDomainGetInterfaceParameters', 'domain', ['aa:bb:cc:dd:ee:ff']],
    ['virDomainSetMemoryParameters', 'domain', [{ hard_limit: 4000000n, soft_limit: 3000000 }]],
    ['virDomainGetMemoryParameters', 'domain'],
    ['virDomainSetNumaParameters', 'domain', [{ numa_nodeset: '0' }, Impact.CONFIG]],
    ['virDomainGetNumaParameters', 'domain', [Impact.CONFIG]],
    ['virDomainSetPerfEvents', 'domain', [{ cpu_cycles: true }]],
    ['virDomainGetPerfEvents', 'domain'],
    ['virDomainSetSchedulerParameters', 'domain', [{ weight: 40 }]],
    ['virDomainGetSchedulerParameters', 'domain'],
    ['virDomainSetMetadata', 'domain', [1, 'A title', undefined, undefined]],
    ['virDomainGetMetadata', 'domain', [1, undefined]],
    ['virDomainSetVcpus', 'domain', [1]],
    ['virDomainSetVcpusFlags', 'domain', [2, 1]],
    ['virDomainSetMemory', 'domain', [4194304]],
    ['virDomainSetMemoryFlags', 'domain', [2097152, 1]],
    ['virDomainSetMaxMemory', 'domain', [4194304]],
    ['virDomainSetMemoryStatsPeriod', 'domain', [5]],
    ['virDomainSetUserPassword', 'domain', ['root', 'secret']],
    ['virDomainSetLifecycleAction', 'domain', [2, 0]],
    ['virDomainSendKey', 'domain', [0, 50, [29, 56, 111]], { python: [0, 50, [29, 56, 111], 3] }],
    ['virDomainSendProcessSignal', 'domain', [1, 15]],
    ['virDomainInjectNMI', 'domain'],
    ['virDomainSuspend', 'domain'],
    ['virDomainGetState', 'domain'],
    ['virDomainSuspend', 'domain'],
    ['virDomainResume', 'domain'],
    ['virDomainReset', 'domain'],
    ['virDomainReboot', 'domain'],
    ['virDomainRename', 'domain', ['other']],
    ['virDomainPMSuspendForDuration', 'domain', [0, 0]],
    ['virDomainPMWakeup', 'domain'],
    ['virDomainMigrateSetMaxSpeed', 'domain', [100]],
    ['virDomainMigrateSetMaxDowntime', 'domain', [100]],
    ['virDomainMigrateSetCompressionCache', 'domain', [65536]],
    ['virDomainMigrateStartPostCopy', 'domain'],
    ['virDomainMigrateToURI', 'domain', ['test:///default', 0, undefined, 0]],
    ['virDomainSnapshotCreateXML', 'domain', [snapshotXml], { as: 'snapshot' }],
    ['virDomainSnapshotGetName', 'snapshot'],
    ['virDomainSnapshotIsCurrent', 'snapshot'],
    ['virDomainSnapshotHasMetadata', 'snapshot'],
    ['virDomainSnapshotGetParent', 'snapshot'],
    ['virDomainSnapshotNumChildren', 'snapshot'],
    ['virDomainSnapshotListChildrenNames', 'snapshot'],
    ['virDomainSnapshotListAllChildren', 'snapshot'],
    ['virDomainSnapshotListNames', 'domain'],
    ['virDomainSnapshotNum', 'domain'],
    ['virDomainSnapshotCurrent', 'domain'],
    ['virDomainSnapshotDelete', 'snapshot'],
    ['virDomainSnapshotDelete', 'snapshot'],
    ['virDomainCheckpointCreateXML', 'domain', [checkpointXml]],
    ['virDomainManagedSave', 'domain'],
    ['virDomainHasManagedSaveImage', 'domain'],
    ['virDomainManagedSaveRemove', 'domain'],
    ['virDomainCreate', 'domain'],
    ['virDomainShutdown', 'domain'],
    ['virDomainShutdownFlags', 'domain'],
    ['virDomainCreateWithFlags', 'domain'],
    ['virDomainDestroy', 'domain'],
    ['virDomainDestroyFlags', 'domain'],
    ['virDomainUndefine', 'domain'],
    ['virDomainGetInfo', 'domain'],
    ['virDomainDefineXML', 'connect', [domainXml('1')], { as: 'one' }],
    ['virDomainDefineXMLFlags', 'connect', [domainXml('2')], { as: 'two' }],
    ['virDomainCreateXML', 'connect', [domainXml('3')], { as: 'three' }],
    ['virDomainCreateLinux', 'connect', [domainXml('4')]],
    ['virDomainGetXMLDesc', 'one'],
    ['virDomainGetXMLDesc', 'three'],
    ['virDomainUndefineFlags', 'two'],
    ['virConnectListDefinedDomains', 'connect', [], { unordered: true }],
    ['virConnectNumOfDomains', 'connect']
  ]
  const others: Row[] = [
    ['virStoragePoolLookupByName', 'connect', ['default-pool'], { as: 'pool' }],
    ...aboutPool('pool'),
    ['virStorageVolCreateXML', 'pool', [volXml('v1')], { as: 'volume' }],
    ['virStorageVolCreateXML', 'pool', [volXml('v1')]],
    ['virStorageVolCreateXMLFrom', 'pool', [volXml('v2'), ref('volume')], { as: 'clone' }],
    ['virStorageVolGetInfo', 'volume'],
    ['virStorageVolGetInfoFlags', 'volume'],
    ['virStorageVolGetKey', 'volume'],
    ['virStorageVolGetName', 'volume'],
    ['virStorageVolGetPath', 'volume'],
    ['virStorageVolGetXMLDesc', 'volume'],
    ['virStoragePoolLookupByVolume', 'volume'],
    ['virStorageVolLookupByName', 'pool', ['v1']],
    ['virStorageVolLookupByKey', 'connect', ['/default-pool/v1']],
    ['virStorageVolLookupByPath', 'connect', ['/default-pool/v1']],
    ['virStorageVolResize', 'volume', [4096]],
    ['virStorageVolWipe', 'volume'],
    ['virStorageVolWipePattern', 'volume', [0]],
    ['virStoragePoolListVolumes', 'pool', [], { unordered: true }],
    ['virStorageVolDelete', 'clone'],
    ['virStorageVolDelete', 'clone'],
    ['virStoragePoolRefresh', 'pool'],
    ['virStoragePoolSetAutostart', 'pool', [true], { python: [1] }],
    ['virStoragePoolGetAutostart', 'pool'],
    ['virStoragePoolDefineXML', 'connect', [poolXml('1')], { as: 'made' }],
    ['virStoragePoolBuild', 'made'],
    ['virStoragePoolCreate', 'made'],
    ['virStoragePoolGetXMLDesc', 'made'],
    ['virStoragePoolDestroy', 'made'],
    ['virStoragePoolDelete', 'made'],
    ['virStoragePoolUndefine', 'made'],
    ['virStoragePoolCreateXML', 'connect', [poolXml('2')]],
    ['virNetworkLookupByName', 'connect', ['default'], { as: 'network' }],
    ['virNetworkGetAutostart', 'network'],
    ['virNetworkGetBridgeName', 'network'],
    ['virNetworkGetDHCPLeases', 'network'],
    ['virNetworkGetName', 'network'],
    ['virNetworkGetUUID', 'network'],
    ['virNetworkGetUUIDString', 'network'],
    ['virNetworkGetXMLDesc', 'network'],
    ['virNetworkIsActive', 'network'],
    ['virNetworkIsPersistent', 'network'],
    ['virNetworkListAllPorts', 'network'],
    ['virNetworkUpdate', 'network', [3, 4, -1, "<host mac='00:16:3e:77:e2:ed' ip='192.168.122.13'/>", 0]],
    ['virNetworkPortCreateXML', 'network', ['<networkport/>']],
    ['virNetworkPortLookupByUUID', 'network', [nobody], { python: [nobodyBytes] }],
    ['virNetworkSetAutostart', 'network', [true], { python: [1] }],
    ['virNetworkDestroy', 'network'],
    ['virNetworkDestroy', 'network'],
    ['virNetworkCreate', 'network'],
    ['virNetworkDefineXML', 'connect', [networkXml('1')], { as: 'net1' }],
    ['virNetworkCreateXML', 'connect', [networkXml('2')]],
    ['virNetworkCreateXMLFlags', 'connect', [networkXml('3')]],
    ['virNetworkDefineXMLFlags', 'connect', [networkXml('4')]],
    ['virNetworkGetXMLDesc', 'net1'],
    ['virNetworkUndefine', 'net1'],
    ['virConnectListDefinedNetworks', 'connect', [], { unordered: true }],
    ['virInterfaceLookupByName', 'connect', ['eth1'], { as: 'eth' }],
    ['virInterfaceGetName', 'eth'],
    ['virInterfaceGetMACString', 'eth'],
    ['virInterfaceGetXMLDesc', 'eth'],
    ['virInterfaceIsActive', 'eth'],
    ['virInterfaceDestroy', 'eth'],
    ['virInterfaceIsActive', 'eth'],
    ['virInterfaceCreate', 'eth'],
    ['virInterfaceChangeRollback', 'connect'],
    ['virInterfaceChangeBegin', 'connect'],
    ['virInterfaceDefineXML', 'connect', [interfaceXml], { as: 'eth7' }],
    ['virInterfaceUndefine', 'eth7'],
    ['virInterfaceChangeCommit', 'connect'],
    ['virNodeDeviceLookupByName', 'connect', ['computer'], { as: 'device' }],
    ['virNodeDeviceGetName', 'device'],
    ['virNodeDeviceGetParent', 'device'],
    ['virNodeDeviceGetXMLDesc', 'device'],
    ['virNodeDeviceListCaps', 'device'],
    ['virNodeDeviceNumOfCaps', 'device'],
    ['virNodeDeviceGetAutostart', 'device'],
    ['virNodeDeviceIsActive', 'device'],
    ['virNodeDeviceIsPersistent', 'device'],
    ['virNodeDeviceReset', 'device'],
    ['virNodeDeviceDettach', 'device'],
    ['virNodeDeviceReAttach', 'device'],
    ['virNodeDeviceDetachFlags', 'device', [undefined]],
    ['virNodeDeviceCreateXML', 'connect', ['<device/>']],
    ['virNodeSuspendForDuration', 'connect', [0, 60]],
    ['virConnectSetKeepAlive', 'connect', [5, 5]],
    ['virStreamNew', 'connect', [1], { as: 'stream' }],
    ['virDomainOpenConsole', 'three', [undefined, ref('stream')]],
    ['virDomainScreenshot', 'three', [ref('stream'), 0]],
    ['virDomainRestore', 'connect', ['/nosuch/file']],
    ['virDomainSaveImageGetXMLDesc', 'connect', ['/nosuch/file']]
  ]
  await compare.run(t, [...questions, ...domain, ...others])
  t.ok(compare.compared.size >= 250, `${compare.compared.size} functions are the same as in libvirt-python`)
  for (const name of compare.compared) everywhere.add(name)
  t.comment(`compared on test:///default: ${compare.compared.size} functions in ${compare.calls} calls, ${compare.failures} of which must fail`)
})

const noHosts = skip || (await whyNoHosts())

t.test('a QEMU host with a Linux guest', { skip: noHosts }, async t => {
  const hosts = await startHosts({ count: 1 })
  t.teardown(() => hosts.close())
  const host = hosts.hosts[0] as Host
  const disk = await blankDisk(path.join(hosts.storage, 'disk.qcow2'), '64M')
  const guest = await linuxGuest({ hosts, disks: [{ file: disk }] })
  const file = path.join(hosts.storage, 'guest.xml')
  writeFileSync(file, guest.xml)
  const folder = path.join(hosts.storage, 'pool')
  mkdirSync(folder)
  writeFileSync(path.join(folder, 'v1'), 'x'.repeat(4096))
  await host.virsh('pool-create-as', 'pool', 'dir', '--target', folder)
  await host.virsh('define', file)
  const off: Row[] = [
    ['virDomainLookupByName', 'connect', [guest.name], { as: 'domain' }],
    ...aboutDomain('domain'),
    ['virDomainSetMetadata', 'domain', [0, 'What it is', undefined, undefined, 2]],
    ['virDomainGetMetadata', 'domain', [0, undefined, 2]],
    ['virDomainGetMemoryParameters', 'domain', [2]],
    ['virDomainSetBlkioParameters', 'domain', [{ weight: 500, device_weight: '/dev/null,300' }, 2]],
    ['virDomainGetBlkioParameters', 'domain', [2]],
    ['virDomainSetBlockIoTune', 'domain', ['vda', { total_bytes_sec: 1n << 40n }, 2]],
    ['virDomainGetBlockIoTune', 'domain', ['vda', 2]],
    ['virDomainGetSchedulerParametersFlags', 'domain', [2]]
  ]
  {
    await using compare = await Comparison.open(host.uri)
    await compare.run(t, [...questions, ...off])
  }
  await host.virsh('start', guest.name)
  await guest.waitFor('guest# ', { timeout: 120_000 })
  await using compare = await Comparison.open(host.uri)
  const running: Row[] = [
    ['virDomainLookupByName', 'connect', [guest.name], { as: 'domain' }],
    ...aboutDomain('domain'),
    ['virDomainSetAutostart', 'domain', [true], { python: [1] }],
    ['virDomainGetAutostart', 'domain'],
    ['virDomainSetPerfEvents', 'domain', [{ cpu_cycles: false }]],
    ['virDomainMigrateSetMaxSpeed', 'domain', [100]],
    ['virDomainMigrateGetMaxSpeed', 'domain'],
    ['virDomainMigrateSetMaxDowntime', 'domain', [400]],
    ['virDomainMigrateGetMaxDowntime', 'domain'],
    ['virDomainBlockStats', 'domain', ['vda'], { varies: true }],
    ['virDomainBlockStatsFlags', 'domain', ['vda'], { varies: true }],
    ['virDomainBlockPeek', 'domain', ['vda', 0, 512]],
    ['virDomainMemoryPeek', 'domain', [0, 64, 2]],
    ['virConnectGetAllDomainStats', 'connect', [1], { give: (list: { dom: unknown; params: object }[]) => list.map(({ dom, params }) => [dom, params]) }],
    ['virStoragePoolLookupByName', 'connect', ['pool'], { as: 'pool' }],
    ...aboutPool('pool'),
    ['virStorageVolLookupByName', 'pool', ['v1'], { as: 'volume' }],
    ['virStorageVolGetInfo', 'volume', [], { varies: true }],
    ['virStorageVolGetInfoFlags', 'volume', [1], { varies: true }],
    ['virStorageVolGetKey', 'volume'],
    ['virStorageVolGetName', 'volume'],
    ['virStorageVolGetPath', 'volume'],
    ['virStorageVolGetXMLDesc', 'volume'],
    ['virStoragePoolLookupByVolume', 'volume']
  ]
  await compare.run(t, [...questions, ...running])
  for (const name of compare.compared) everywhere.add(name)
  t.comment(`compared on QEMU: ${compare.compared.size} functions in ${compare.calls} calls, ${compare.failures} of which must fail`)
  t.ok(compare.compared.size >= 150)
})
