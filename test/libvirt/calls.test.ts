// Breadth: every method of every class is called once on libvirt's test driver, and gives what it must or fails
// as it must. A method that no line here calls fails the test.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as libvirt from '../../lib/libvirt/index.js'
import { AdminClientApi } from '../../lib/libvirt/generated/admin_client.js'
import { AdminConnectApi } from '../../lib/libvirt/generated/admin_connect.js'
import { AdminServerApi } from '../../lib/libvirt/generated/admin_server.js'
import { ConnectApi } from '../../lib/libvirt/generated/connect.js'
import { DomainApi } from '../../lib/libvirt/generated/domain.js'
import { DomainCheckpointApi } from '../../lib/libvirt/generated/domain_checkpoint.js'
import { DomainSnapshotApi } from '../../lib/libvirt/generated/domain_snapshot.js'
import { InterfaceApi } from '../../lib/libvirt/generated/interface.js'
import { NetworkApi } from '../../lib/libvirt/generated/network.js'
import { NetworkPortApi } from '../../lib/libvirt/generated/network_port.js'
import { NodeDeviceApi } from '../../lib/libvirt/generated/node_device.js'
import { NWFilterApi } from '../../lib/libvirt/generated/nw_filter.js'
import { NWFilterBindingApi } from '../../lib/libvirt/generated/nw_filter_binding.js'
import { SecretApi } from '../../lib/libvirt/generated/secret.js'
import { StoragePoolApi } from '../../lib/libvirt/generated/storage_pool.js'
import { StorageVolApi } from '../../lib/libvirt/generated/storage_vol.js'
import { StreamApi } from '../../lib/libvirt/generated/stream.js'
import { noLibvirt, testHost } from './support.js'

const {
  Connect,
  CpuSet,
  Domain,
  DomainCheckpoint,
  DomainSnapshot,
  Interface,
  LibvirtError,
  Network,
  NodeDevice,
  StoragePool,
  StorageVol,
  Stream
} = libvirt

type Check = (t: Test, value: unknown, name: string) => void
type Expected = Check | string
type Row = [method: string, args: unknown[], expected: Expected]

// The results that lines below name; a string is the code of the error that must come.
const done: Check = (t, value, name) => t.equal(value, undefined, name)
const is =
  (wanted: unknown): Check =>
  (t, value, name) =>
    t.strictSame(value, wanted, name)
const like =
  (wanted: unknown): Check =>
  (t, value, name) =>
    t.match(value, wanted, name)
const an =
  (wanted: abstract new () => object): Check =>
  (t, value, name) =>
    t.type(value, wanted, name)
const listOf =
  (wanted: abstract new () => object, length: number): Check =>
  (t, value, name) => {
    if (!t.ok(Array.isArray(value), name)) return
    const list = value as unknown[]
    t.equal(list.length, length, name)
    for (const one of list) t.type(one, wanted, name)
  }
const cpus =
  (...wanted: number[]): Check =>
  (t, value, name) => {
    t.type(value, CpuSet, name)
    t.strictSame([...(value as Set<number>)], wanted, name)
  }
// Of the driver in libvirt 9; a later one may do it.
const unsupported = 'VIR_ERR_NO_SUPPORT'
// On an object of a class that the test driver has none of: it must not reach libvirt.
const noObject = 'EINVAL'

const called = new Map<object, Set<string>>()

/** Calls the methods of one object, line by line. */
async function run(t: Test, api: abstract new () => object, object: object, rows: Row[]): Promise<void> {
  const names = called.get(api) ?? new Set()
  called.set(api, names)
  for (const [method, args, expected] of rows) {
    const name = `${api.name}.${method}(${args.map(arg => (typeof arg === 'string' ? `'${arg.slice(0, 40)}'` : String(arg))).join(', ')})`
    names.add(method)
    const body = (object as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]
    if (!body) {
      t.fail(`${name} does not exist`)
      continue
    }
    try {
      const value = await body.apply(object, args)
      if (typeof expected !== 'string') expected(t, value, name)
      else if (expected !== unsupported || libvirt.libraryVersion() < 9_001_000) t.fail(`${name} must fail`, { value })
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error
      if (typeof expected !== 'string') t.fail(`${name}: ${error.code}: ${error.message}`)
      else if (expected !== unsupported || libvirt.libraryVersion() < 9_001_000) {
        t.equal(error.code, expected, `${name}: ${error.message}`)
        t.match(error.stack, /calls\.test/, `${name} says who called`)
      }
    }
  }
}

/** Fails for each method of the class that no line has called. */
function complete(t: Test, api: { name: string; prototype: object }): void {
  const methods = Object.getOwnPropertyNames(api.prototype).filter(name => name !== 'constructor')
  t.ok(methods.length > 0)
  const names = called.get(api) ?? new Set()
  t.strictSame(
    methods.filter(name => !names.has(name)),
    [],
    `every method of ${api.name} is called`
  )
}

const domainUuid = '6695eb01-f6a4-8304-79aa-97f2502e193f'
const nobody = '00000000-0000-0000-0000-000000000001'
const domainXml = (name: string) =>
  `<domain type='test'><name>${name}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>`
const poolXml = (name: string) => `<pool type='dir'><name>${name}</name><target><path>/${name}</path></target></pool>`
const volXml = (name: string) => `<volume><name>${name}</name><capacity>1048576</capacity></volume>`
const networkXml = (name: string) => `<network><name>${name}</name><bridge name='${name}br'/><ip address='10.7.0.1' netmask='255.255.255.0'/></network>`
const interfaceXml = `<interface type='ethernet' name='eth7'><start mode='none'/><mac address='aa:bb:cc:dd:ee:07'/></interface>`
const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-libvirt-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
const skip = noLibvirt

t.test('a connection and its host', { skip }, async t => {
  await using connect = await testHost()
  await run(t, ConnectApi, connect, [
    ['baselineCPU', [['<cpu>']], 'VIR_ERR_XML_DETAIL'],
    ['baselineHypervisorCPU', [undefined, undefined, undefined, undefined, ['<cpu/>']], unsupported],
    ['compareCPU', ['<cpu/>'], unsupported],
    ['compareHypervisorCPU', [undefined, undefined, undefined, undefined, '<cpu/>'], unsupported],
    ['domainXMLFromNative', ['qemu-argv', 'x'], unsupported],
    ['domainXMLToNative', ['qemu-argv', '<domain/>'], unsupported],
    ['findStoragePoolSources', ['netfs', undefined], 'VIR_ERR_INVALID_ARG'],
    ['getAllDomainStats', [libvirt.DomainStatsTypes.STATE], like([{ dom: {}, params: { 'state.state': 1, 'state.reason': 0 } }])],
    ['getCPUModelNames', ['nosuch'], 'VIR_ERR_INVALID_ARG'],
    ['getCPUModelNames', ['x86_64'], (t, value, name) => t.ok((value as string[]).includes('Nehalem'), name)],
    ['getCapabilities', [], like(/^<capabilities>/)],
    ['getDomainCapabilities', [], unsupported],
    ['getHostname', [], like(/./)],
    ['getLibVersion', [], is(libvirt.libraryVersion())],
    ['getMaxVcpus', [undefined], is(32)],
    ['getStoragePoolCapabilities', [], unsupported],
    ['getSysinfo', [], like(/^<sysinfo/)],
    ['getType', [], is('TEST')],
    ['getURI', [], is('test:///default')],
    ['getVersion', [], is(2)],
    ['isAlive', [], is(true)],
    ['isEncrypted', [], is(false)],
    ['isSecure', [], is(true)],
    ['listAllDomains', [], listOf(Domain, 1)],
    ['listAllDomains', [libvirt.ConnectListAllDomainsFlags.INACTIVE], is([])],
    ['listAllInterfaces', [], listOf(Interface, 1)],
    ['listAllNWFilterBindings', [], unsupported],
    ['listAllNWFilters', [], unsupported],
    ['listAllNetworks', [], listOf(Network, 1)],
    ['listAllNodeDevices', [], listOf(NodeDevice, 4)],
    ['listAllSecrets', [], unsupported],
    ['listAllStoragePools', [], listOf(StoragePool, 1)],
    ['listDefinedDomains', [], is([])],
    ['listDefinedInterfaces', [], is([])],
    ['listDefinedNetworks', [], is([])],
    ['listDefinedStoragePools', [], is([])],
    ['listDomains', [], is([1])],
    ['listInterfaces', [], is(['eth1'])],
    ['listNWFilters', [], unsupported],
    ['listNetworks', [], is(['default'])],
    ['listSecrets', [], unsupported],
    ['listStoragePools', [], is(['default-pool'])],
    ['numOfDefinedDomains', [], is(0)],
    ['numOfDefinedInterfaces', [], is(0)],
    ['numOfDefinedNetworks', [], is(0)],
    ['numOfDefinedStoragePools', [], is(0)],
    ['numOfDomains', [], is(1)],
    ['numOfInterfaces', [], is(1)],
    ['numOfNWFilters', [], unsupported],
    ['numOfNetworks', [], is(1)],
    ['numOfSecrets', [], unsupported],
    ['numOfStoragePools', [], is(1)],
    ['setIdentity', [{ 'user-name': 'me', 'process-id': 1 }], unsupported],
    ['setKeepAlive', [5, 5], unsupported],
    ['nodeGetCPUMap', [], (t, value, name) => {
      t.match(value, { total: 8, online: 3 }, name)
      cpus(0, 2, 4)(t, (value as { cpumap: unknown }).cpumap, name)
    }],
    ['nodeGetCPUStats', [-1], like({ user: BigInt, kernel: BigInt, idle: BigInt, iowait: BigInt })],
    ['nodeGetCellsFreeMemory', [0, 2], like([BigInt, BigInt])],
    ['nodeGetFreeMemory', [], is(3145728n)],
    ['nodeGetFreePages', [[4, 2048], 0, 1], (t, value, name) => t.ok(Array.isArray(value), name)],
    ['nodeGetInfo', [], is({ model: 'i686', memory: 3145728n, cpus: 16, mhz: 1400, nodes: 2, sockets: 2, cores: 2, threads: 2 })],
    ['nodeGetMemoryParameters', [], unsupported],
    ['nodeGetMemoryStats', [-1], unsupported],
    ['nodeGetSEVInfo', [], unsupported],
    ['nodeGetSecurityModel', [], is({ model: 'testSecurity', doi: '' })],
    ['nodeSetMemoryParameters', [{ shm_pages_to_scan: 200 }], unsupported],
    ['nodeAllocPages', [[2048], [0n], 0, 1], unsupported],
    ['nodeSuspendForDuration', [libvirt.NodeSuspendTarget.MEM, 60], unsupported],
    ['nodeListDevices', [undefined], (t, value, name) => t.equal((value as string[]).length, 4, name)],
    ['nodeListDevices', ['system'], is(['computer'])],
    ['nodeNumOfDevices', [undefined], is(4)],
    ['interfaceChangeRollback', [], 'VIR_ERR_OPERATION_INVALID'],
    ['interfaceChangeBegin', [], done],
    ['interfaceChangeCommit', [], done],
    ['interfaceDefineXML', [interfaceXml], an(Interface)],
    ['interfaceLookupByMACString', ['aa:bb:cc:dd:ee:ff'], an(Interface)],
    ['interfaceLookupByName', ['eth1'], an(Interface)],
    ['nwFilterBindingCreateXML', ['<filterbinding/>'], unsupported],
    ['nwFilterBindingLookupByPortDev', ['vnet0'], unsupported],
    ['nwFilterDefineXML', ['<filter/>'], unsupported],
    ['nwFilterDefineXMLFlags', ['<filter/>'], unsupported],
    ['nwFilterLookupByName', ['x'], unsupported],
    ['nwFilterLookupByUUID', [nobody], unsupported],
    ['nwFilterLookupByUUIDString', [nobody], unsupported],
    ['networkCreateXML', [networkXml('n1')], an(Network)],
    ['networkCreateXMLFlags', [networkXml('n2'), libvirt.NetworkCreateFlags.VALIDATE], an(Network)],
    ['networkDefineXML', [networkXml('n3')], an(Network)],
    ['networkDefineXMLFlags', ['<network/>'], 'VIR_ERR_NO_NAME'],
    ['networkLookupByName', ['default'], an(Network)],
    ['networkLookupByUUID', [nobody], 'VIR_ERR_NO_NETWORK'],
    ['networkLookupByUUIDString', [nobody], 'VIR_ERR_NO_NETWORK'],
    ['nodeDeviceCreateXML', ['<device/>'], 'VIR_ERR_INTERNAL_ERROR'],
    ['nodeDeviceDefineXML', ['<device/>'], unsupported],
    ['nodeDeviceLookupByName', ['computer'], an(NodeDevice)],
    ['nodeDeviceLookupSCSIHostByWWN', ['a', 'b'], unsupported],
    ['secretDefineXML', ['<secret/>'], unsupported],
    ['secretLookupByUUID', [nobody], unsupported],
    ['secretLookupByUUIDString', [nobody], unsupported],
    ['secretLookupByUsage', [libvirt.SecretUsageType.VOLUME, '/x'], unsupported],
    ['storagePoolCreateXML', [poolXml('p1')], an(StoragePool)],
    ['storagePoolDefineXML', [poolXml('p2')], an(StoragePool)],
    ['storagePoolLookupByName', ['default-pool'], an(StoragePool)],
    ['storagePoolLookupByTargetPath', ['/nosuch'], unsupported],
    ['storagePoolLookupByUUID', [nobody], 'VIR_ERR_NO_STORAGE_POOL'],
    ['storagePoolLookupByUUIDString', [nobody], 'VIR_ERR_NO_STORAGE_POOL'],
    ['storageVolLookupByKey', ['/nosuch'], 'VIR_ERR_NO_STORAGE_VOL'],
    ['storageVolLookupByPath', ['/nosuch'], 'VIR_ERR_NO_STORAGE_VOL'],
    ['streamNew', [], an(Stream)],
    ['domainCreateLinux', [domainXml('d1')], an(Domain)],
    ['domainCreateXML', [domainXml('d2'), libvirt.DomainCreateFlags.START_VALIDATE], an(Domain)],
    ['domainCreateXMLWithFiles', [domainXml('d3'), []], an(Domain)],
    ['domainDefineXML', [domainXml('d4')], an(Domain)],
    ['domainDefineXMLFlags', [domainXml('d5'), libvirt.DomainDefineFlags.VALIDATE], an(Domain)],
    ['domainLookupByID', [1], an(Domain)],
    ['domainLookupByID', [77], 'VIR_ERR_NO_DOMAIN'],
    ['domainLookupByName', ['test'], an(Domain)],
    ['domainLookupByUUID', [domainUuid], an(Domain)],
    ['domainLookupByUUID', [domainUuid.replaceAll('-', '').toUpperCase()], an(Domain)],
    ['domainLookupByUUIDString', [domainUuid], an(Domain)],
    ['domainRestore', [path.join(folder, 'nosuch')], 'VIR_ERR_SYSTEM_ERROR'],
    ['domainRestoreFlags', [path.join(folder, 'nosuch')], 'VIR_ERR_SYSTEM_ERROR'],
    ['domainRestoreParams', [{ file: path.join(folder, 'nosuch') }], unsupported],
    ['domainSaveImageDefineXML', [path.join(folder, 'nosuch'), '<domain/>'], 'VIR_ERR_SYSTEM_ERROR'],
    ['domainSaveImageGetXMLDesc', [path.join(folder, 'nosuch')], 'VIR_ERR_SYSTEM_ERROR'],
    ['domainQemuAttach', [1], unsupported]
  ])
  complete(t, ConnectApi)
})

t.test('a domain, its snapshots and checkpoints', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  await using target = await testHost()
  await using stream = await connect.streamNew()
  const saved = path.join(folder, 'saved')
  const { DomainModificationImpact: Impact } = libvirt
  await run(t, DomainApi, domain, [
    ['abortJob', [], unsupported],
    ['abortJobFlags', [], unsupported],
    ['addIOThread', [7], done],
    ['getIOThreadInfo', [], like([{ iothreadId: 7 }])],
    ['pinIOThread', [7, [0, 1]], done],
    ['getIOThreadInfo', [], (t, value, name) => cpus(0, 1)(t, (value as { cpumap: unknown }[])[0]?.cpumap, name)],
    ['setIOThreadParams', [7, { poll_max_ns: 1000 }], done],
    ['delIOThread', [7], done],
    ['delIOThread', [7], 'VIR_ERR_INVALID_ARG'],
    ['agentSetResponseTimeout', [5], unsupported],
    ['attachDevice', ['<disk/>'], unsupported],
    ['attachDeviceFlags', ['<disk/>'], unsupported],
    ['detachDevice', ['<disk/>'], unsupported],
    ['detachDeviceAlias', ['x'], unsupported],
    ['detachDeviceFlags', ['<disk/>'], unsupported],
    ['updateDeviceFlags', ['<disk/>'], unsupported],
    ['authorizedSSHKeysGet', ['root'], unsupported],
    ['authorizedSSHKeysSet', ['root', ['ssh-ed25519 x']], unsupported],
    ['backupBegin', ['<domainbackup/>'], unsupported],
    ['backupGetXMLDesc', [], unsupported],
    ['blockCommit', ['vda', undefined, undefined, 0], unsupported],
    ['blockCopy', ['vda', '<disk/>', { bandwidth: 1n }], unsupported],
    ['blockJobAbort', ['vda'], unsupported],
    ['blockJobSetSpeed', ['vda', 1], unsupported],
    ['blockPeek', ['vda', 0, 512], unsupported],
    ['blockPull', ['vda', 0], unsupported],
    ['blockRebase', ['vda', undefined, 0], unsupported],
    ['blockResize', ['vda', 1024], unsupported],
    ['blockStats', ['vda'], like({ rdReq: BigInt, rdBytes: BigInt, wrReq: BigInt, wrBytes: BigInt, errs: BigInt })],
    ['blockStatsFlags', ['vda'], unsupported],
    ['coreDump', [path.join(folder, 'core')], done],
    ['create', [], 'VIR_ERR_INTERNAL_ERROR'],
    ['coreDumpWithFormat', [path.join(folder, 'core2'), 77], 'VIR_ERR_INVALID_ARG'],
    ['fdAssociate', ['x', [0]], unsupported],
    ['fsFreeze', [], is(2)],
    ['fsThaw', [['/']], is(1)],
    ['fsThaw', [['/nosuch']], 'VIR_ERR_OPERATION_INVALID'],
    ['fsTrim', [undefined, 0], done],
    ['setAutostart', [true], done],
    ['getAutostart', [], is(true)],
    ['setBlkioParameters', [{ weight: 500 }, Impact.CONFIG], done],
    ['getBlkioParameters', [Impact.CONFIG], like({ weight: 500 })],
    ['getBlockInfo', ['vda'], like({ capacity: BigInt, allocation: BigInt, physical: BigInt })],
    ['getBlockInfo', ['nosuch'], 'VIR_ERR_INVALID_ARG'],
    ['setBlockIoTune', ['vda', { total_bytes_sec: 4096, total_bytes_sec_max: 8192n }], done],
    ['getBlockIoTune', ['vda'], like({ total_bytes_sec: 4096n, total_bytes_sec_max: 8192n, read_bytes_sec: 0n })],
    ['getBlockJobInfo', ['vda'], unsupported],
    ['getCPUStats', [-1, 1], like([{ cpu_time: BigInt }])],
    ['getCPUStats', [0, 3], (t, value, name) => t.equal((value as unknown[]).length, 3, name)],
    ['getConnect', [], an(Connect)],
    ['getControlInfo', [], is({ state: libvirt.DomainControlState.OK, details: 0, stateTime: 0n })],
    ['getDiskErrors', [], is([{ disk: 'vda', error: libvirt.DomainDiskErrorCode.UNSPEC }])],
    ['pinEmulator', [[1, 3]], done],
    ['getEmulatorPinInfo', [], cpus(1, 3)],
    ['getFSInfo', [], like([{ mountpoint: '/', name: 'vda1', fstype: 'ext4', devAlias: ['vda'] }, { mountpoint: '/boot' }])],
    ['getGuestInfo', [0], unsupported],
    ['getGuestVcpus', [], unsupported],
    ['setGuestVcpus', ['0', true], unsupported],
    ['getHostname', [], is('testhost')],
    ['getHostname', [libvirt.DomainGetHostnameFlags.LEASE], 'VIR_ERR_INVALID_ARG'],
    ['getID', [], like(Number)],
    ['getInfo', [], like({ state: libvirt.DomainState.RUNNING, maxMem: 8388608n, nrVirtCpu: 2, cpuTime: BigInt })],
    ['setInterfaceParameters', ['aa:bb:cc:dd:ee:ff', { 'inbound.average': 1000, 'outbound.average': 2000 }], done],
    ['getInterfaceParameters', ['aa:bb:cc:dd:ee:ff'], like({ 'inbound.average': 1000, 'outbound.average': 2000 })],
    ['getJobInfo', [], unsupported],
    ['getJobStats', [], unsupported],
    ['getLaunchSecurityInfo', [], 'VIR_ERR_INVALID_ARG'],
    ['setLaunchSecurityState', [{ 'sev-secret': 'x' }], unsupported],
    ['getMaxMemory', [], is(8388608n)],
    ['getMaxVcpus', [], is(2)],
    ['setMemoryParameters', [{ hard_limit: 4000000n, soft_limit: 3000000 }], done],
    ['getMemoryParameters', [], like({ hard_limit: 4000000n, soft_limit: 3000000n })],
    ['getMessages', [], is([])],
    ['setMetadata', [libvirt.DomainMetadataType.TITLE, 'A title', undefined, undefined], done],
    ['getMetadata', [libvirt.DomainMetadataType.TITLE], is('A title')],
    ['getMetadata', [libvirt.DomainMetadataType.DESCRIPTION], 'VIR_ERR_NO_DOMAIN_METADATA'],
    ['getName', [], is('test')],
    ['setNumaParameters', [{ numa_nodeset: '0' }, Impact.CONFIG], done],
    ['getNumaParameters', [Impact.CONFIG], like({ numa_nodeset: '0' })],
    ['getOSType', [], is('linux')],
    ['setPerfEvents', [{ cpu_cycles: true }], done],
    ['getPerfEvents', [], like({ cpu_cycles: true, cmt: false })],
    ['setSchedulerParameters', [{ weight: 40 }], done],
    ['getSchedulerParameters', [], is({ weight: 50 })],
    ['setSchedulerParametersFlags', [{ weight: 40 }], done],
    ['getSchedulerParametersFlags', [], 'VIR_ERR_INVALID_ARG'],
    ['getSchedulerType', [], is({ type: 'fair', nparams: 1 })],
    ['getSecurityLabel', [], is({ label: 'libvirt-test', enforcing: 1 })],
    ['getSecurityLabelList', [], unsupported],
    ['getState', [], like({ state: libvirt.DomainState.RUNNING, reason: Number })],
    ['getTime', [], like({ seconds: BigInt, nseconds: Number })],
    ['setTime', [1000n, 0], done],
    ['getUUID', [], is(domainUuid)],
    ['getUUIDString', [], is(domainUuid)],
    ['pinVcpu', [0, new CpuSet([2])], done],
    ['pinVcpuFlags', [1, [3, 4]], done],
    ['getVcpuPinInfo', [], (t, value, name) => {
      const list = value as Set<number>[]
      t.strictSame(list.map(map => [...map]), [[2], [3, 4]], name)
    }],
    ['getVcpus', [], (t, value, name) => {
      t.match(value, { info: [{ number: 0, state: libvirt.VcpuState.RUNNING, cpuTime: BigInt }, { number: 1 }] }, name)
      t.equal((value as { cpumaps: unknown[] }).cpumaps.length, 2, name)
    }],
    ['getVcpusFlags', [libvirt.DomainVcpuFlags.MAXIMUM], is(2)],
    ['getXMLDesc', [], like(/^<domain type='test'/)],
    ['hasCurrentSnapshot', [], is(false)],
    ['hasManagedSaveImage', [], is(false)],
    ['injectNMI', [], done],
    ['interfaceAddresses', [libvirt.DomainInterfaceAddressesSource.LEASE], like([{ name: 'testnet0', hwaddr: 'aa:bb:cc:dd:ee:ff', addrs: [{ type: 0, prefix: 24 }] }])],
    ['interfaceStats', ['testnet0'], like({ rxBytes: BigInt, txDrop: BigInt })],
    ['isActive', [], is(true)],
    ['isPersistent', [], is(true)],
    ['isUpdated', [], is(false)],
    ['memoryPeek', [0, 16], 'VIR_ERR_INVALID_ARG'],
    ['memoryStats', [], (t, value, name) => t.ok((value as object[]).length > 5, name)],
    ['migrate', [target, 0, undefined, undefined, 0], unsupported],
    ['migrate2', [target, undefined, 0, undefined, undefined, 0], unsupported],
    ['migrate3', [target, { bandwidth: 10 }], unsupported],
    ['migrateGetCompressionCache', [], unsupported],
    ['migrateGetMaxDowntime', [], unsupported],
    ['migrateGetMaxSpeed', [], unsupported],
    ['migrateSetCompressionCache', [65536n], unsupported],
    ['migrateSetMaxDowntime', [100], unsupported],
    ['migrateSetMaxSpeed', [100n], unsupported],
    ['migrateStartPostCopy', [], unsupported],
    ['migrateToURI', ['test:///default', 0, undefined, 0], 'VIR_ERR_ARGUMENT_UNSUPPORTED'],
    ['migrateToURI2', [undefined, 'test:///default', undefined, 0, undefined, 0], 'VIR_ERR_ARGUMENT_UNSUPPORTED'],
    ['migrateToURI3', [undefined, { migrate_uri: 'test:///default', migrate_disks: ['vda', 'vdb'] }], 'VIR_ERR_ARGUMENT_UNSUPPORTED'],
    ['openChannel', [undefined, stream], unsupported],
    ['openConsole', [undefined, stream], unsupported],
    ['openGraphics', [0, 0], 'VIR_ERR_INVALID_ARG'],
    ['openGraphicsFD', [0], unsupported],
    ['pmSuspendForDuration', [libvirt.NodeSuspendTarget.MEM, 0], unsupported],
    ['pmWakeup', [], unsupported],
    ['rename', ['other'], 'VIR_ERR_OPERATION_INVALID'],
    ['reset', [], done],
    ['resume', [], 'VIR_ERR_INTERNAL_ERROR'],
    ['suspend', [], done],
    ['getState', [], is({ state: libvirt.DomainState.PAUSED, reason: libvirt.DomainPausedReason.USER })],
    ['resume', [], done],
    ['screenshot', [stream, 0], is('image/png')],
    ['sendKey', [libvirt.KeycodeSet.LINUX, 50, [29, 56, 111]], done],
    ['sendProcessSignal', [1n, libvirt.DomainProcessSignal.TERM], done],
    ['setBlockThreshold', ['vda', 4096n], unsupported],
    ['setLifecycleAction', [libvirt.DomainLifecycle.CRASH, libvirt.DomainLifecycleAction.DESTROY], done],
    ['setMaxMemory', [4194304n], 'VIR_ERR_OPERATION_INVALID'],
    ['setMemory', [1048576n], done],
    ['setMemoryFlags', [1048577, libvirt.DomainMemoryModFlags.LIVE], done],
    ['setMemoryStatsPeriod', [5], done],
    ['setUserPassword', ['root', 'secret'], done],
    ['setVcpu', ['1', false], unsupported],
    ['setVcpus', [1], done],
    ['setVcpusFlags', [2, libvirt.DomainVcpuFlags.LIVE], done],
    ['startDirtyRateCalc', [1], unsupported],
    ['qemuAgentCommand', ['{}', 1], unsupported],
    ['qemuMonitorCommand', ['{}'], unsupported],
    ['qemuMonitorCommandWithFiles', ['{}'], unsupported],
    ['lxcOpenNamespace', [], unsupported],
    ['listAllCheckpoints', [], is([])],
    ['checkpointCreateXML', ['<domaincheckpoint><name>c1</name></domaincheckpoint>'], an(DomainCheckpoint)],
    ['checkpointCreateXML', ['<domaincheckpoint><name>c2</name></domaincheckpoint>'], an(DomainCheckpoint)],
    ['listAllCheckpoints', [], listOf(DomainCheckpoint, 2)],
    ['checkpointLookupByName', ['nosuch'], 'VIR_ERR_NO_DOMAIN_CHECKPOINT']
  ])
  await using first = await domain.checkpointLookupByName('c1')
  await using second = await domain.checkpointLookupByName('c2')
  await run(t, DomainCheckpointApi, second, [
    ['getConnect', [], an(Connect)],
    ['getDomain', [], an(Domain)],
    ['getName', [], is('c2')],
    ['getParent', [], an(DomainCheckpoint)],
    ['getXMLDesc', [], like(/<name>c2<\/name>/)],
    ['listAllChildren', [], is([])],
    ['delete', [], done],
    ['delete', [], 'VIR_ERR_NO_DOMAIN_CHECKPOINT']
  ])
  await run(t, DomainCheckpointApi, first, [['delete', [], done]])

  await run(t, DomainApi, domain, [
    ['listAllSnapshots', [], is([])],
    ['snapshotCurrent', [], 'VIR_ERR_NO_DOMAIN_SNAPSHOT'],
    ['snapshotCreateXML', ['<domainsnapshot><name>s1</name></domainsnapshot>'], an(DomainSnapshot)],
    ['snapshotCreateXML', ['<domainsnapshot><name>s2</name></domainsnapshot>'], an(DomainSnapshot)],
    ['snapshotCurrent', [], an(DomainSnapshot)],
    ['snapshotListNames', [], (t, value, name) => t.strictSame((value as string[]).sort(), ['s1', 's2'], name)],
    ['snapshotLookupByName', ['nosuch'], 'VIR_ERR_NO_DOMAIN_SNAPSHOT'],
    ['snapshotNum', [], is(2)],
    ['snapshotNum', [libvirt.DomainSnapshotListFlags.ROOTS], is(1)]
  ])
  await using older = await domain.snapshotLookupByName('s1')
  await run(t, DomainSnapshotApi, older, [
    ['getConnect', [], an(Connect)],
    ['getDomain', [], an(Domain)],
    ['getName', [], is('s1')],
    ['getParent', [], 'VIR_ERR_NO_DOMAIN_SNAPSHOT'],
    ['getXMLDesc', [], like(/<name>s1<\/name>/)],
    ['hasMetadata', [], is(true)],
    ['isCurrent', [], is(false)],
    ['listAllChildren', [], listOf(DomainSnapshot, 1)],
    ['listChildrenNames', [], is(['s2'])],
    ['numChildren', [], is(1)],
    ['revertToSnapshot', [], done],
    ['isCurrent', [], is(true)],
    ['delete', [libvirt.DomainSnapshotDeleteFlags.CHILDREN], done],
    ['delete', [], 'VIR_ERR_NO_DOMAIN_SNAPSHOT']
  ])

  await run(t, DomainApi, domain, [
    ['reboot', [], done],
    ['managedSaveDefineXML', ['<domain/>'], unsupported],
    ['managedSaveGetXMLDesc', [], unsupported],
    ['managedSave', [], done],
    ['isActive', [], is(false)],
    ['getID', [], is(undefined)],
    ['hasManagedSaveImage', [], is(true)],
    ['managedSaveRemove', [], done],
    ['createWithFlags', [], done],
    ['destroy', [], done],
    ['destroy', [], 'VIR_ERR_OPERATION_INVALID'],
    ['createWithFiles', [[]], done],
    ['save', [saved], done]
  ])
  await connect.domainRestore(saved)
  await run(t, DomainApi, domain, [['isActive', [], is(true)], ['saveFlags', [saved], done]])
  await connect.domainRestoreFlags(saved)
  await run(t, DomainApi, domain, [['saveParams', [{ file: saved }], unsupported]])
  await run(t, DomainApi, domain, [
    ['shutdown', [], done],
    ['getState', [], is({ state: libvirt.DomainState.SHUTOFF, reason: libvirt.DomainShutoffReason.SHUTDOWN })],
    ['create', [], done],
    ['shutdownFlags', [libvirt.DomainShutdownFlags.DEFAULT], done],
    ['create', [], done],
    ['destroyFlags', [libvirt.DomainDestroyFlags.GRACEFUL], done],
    // Only ever on a container's connection: it moves this process.
    ['lxcEnterCGroup', ['not a number'], 'EINVAL'],
    ['undefineFlags', [libvirt.DomainUndefineFlags.MANAGED_SAVE], done],
    ['undefine', [], 'VIR_ERR_NO_DOMAIN']
  ])
  for (const api of [DomainApi, DomainCheckpointApi, DomainSnapshotApi]) complete(t, api)
})

t.test('networks, storage, interfaces and devices', { skip }, async t => {
  await using connect = await testHost()
  await using network = await connect.networkLookupByName('default')
  await run(t, NetworkApi, network, [
    ['create', [], 'VIR_ERR_OPERATION_INVALID'],
    ['setAutostart', [true], done],
    ['getAutostart', [], is(true)],
    ['getBridgeName', [], is('virbr0')],
    ['getConnect', [], an(Connect)],
    ['getDHCPLeases', [], unsupported],
    ['getName', [], is('default')],
    ['getUUID', [], is('dd8fe884-6c02-601e-7551-cca97df1c5df')],
    ['getUUIDString', [], is('dd8fe884-6c02-601e-7551-cca97df1c5df')],
    ['getXMLDesc', [], like(/^<network>/)],
    ['isActive', [], is(true)],
    ['isPersistent', [], is(true)],
    ['listAllPorts', [], unsupported],
    ['portCreateXML', ['<networkport/>'], unsupported],
    ['portLookupByUUID', [nobody], unsupported],
    ['portLookupByUUIDString', [nobody], unsupported],
    ['update', [libvirt.NetworkUpdateCommand.ADD_LAST, libvirt.NetworkUpdateSection.BRIDGE, -1, '<bridge/>'], 'VIR_ERR_OPERATION_UNSUPPORTED'],
    ['destroy', [], done],
    ['undefine', [], done],
    ['getBridgeName', [], 'VIR_ERR_NO_NETWORK']
  ])

  await using pool = await connect.storagePoolLookupByName('default-pool')
  await run(t, StoragePoolApi, pool, [
    ['setAutostart', [true], done],
    ['getAutostart', [], is(true)],
    ['getConnect', [], an(Connect)],
    ['getInfo', [], like({ state: libvirt.StoragePoolState.RUNNING, capacity: 107374182400n, allocation: 0n })],
    ['getName', [], is('default-pool')],
    ['getUUID', [], is('dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566')],
    ['getUUIDString', [], is('dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566')],
    ['getXMLDesc', [], like(/^<pool type='dir'>/)],
    ['isActive', [], is(true)],
    ['isPersistent', [], is(true)],
    ['storageVolCreateXML', [volXml('v1')], an(StorageVol)],
    ['listAllVolumes', [], listOf(StorageVol, 1)],
    ['listVolumes', [], is(['v1'])],
    ['numOfVolumes', [], is(1)],
    ['storageVolLookupByName', ['v1'], an(StorageVol)],
    ['refresh', [], done]
  ])
  await using volume = await pool.storageVolLookupByName('v1')
  await using stream = await connect.streamNew()
  await run(t, StoragePoolApi, pool, [['storageVolCreateXMLFrom', [volXml('v2'), volume], an(StorageVol)]])
  await run(t, StorageVolApi, volume, [
    ['storagePoolLookupByVolume', [], an(StoragePool)],
    ['getConnect', [], an(Connect)],
    ['getInfo', [], is({ type: libvirt.StorageVolType.FILE, capacity: 1048576n, allocation: 1048576n })],
    ['getInfoFlags', [], unsupported],
    ['getKey', [], is('/default-pool/v1')],
    ['getName', [], is('v1')],
    ['getPath', [], is('/default-pool/v1')],
    ['getXMLDesc', [], like(/^<volume type='file'>/)],
    ['download', [stream, 0, 0], unsupported],
    ['upload', [stream, 0n, 1024n], unsupported],
    ['resize', [2097152n], unsupported],
    ['wipe', [], unsupported],
    ['wipePattern', [libvirt.StorageVolWipeAlgorithm.ZERO], unsupported],
    ['delete', [], done],
    ['getPath', [], 'VIR_ERR_NO_STORAGE_VOL']
  ])
  await run(t, StoragePoolApi, pool, [
    ['destroy', [], done],
    ['destroy', [], 'VIR_ERR_OPERATION_INVALID'],
    ['build', [], done],
    ['create', [], done],
    ['destroy', [], done],
    ['delete', [], done],
    ['undefine', [], done],
    ['getInfo', [], 'VIR_ERR_NO_STORAGE_POOL']
  ])

  await using iface = await connect.interfaceLookupByName('eth1')
  await run(t, InterfaceApi, iface, [
    ['create', [], 'VIR_ERR_OPERATION_INVALID'],
    ['getConnect', [], an(Connect)],
    ['getMACString', [], is('aa:bb:cc:dd:ee:ff')],
    ['getName', [], is('eth1')],
    ['getXMLDesc', [], like(/^<interface type='ethernet'/)],
    ['isActive', [], is(true)],
    ['destroy', [], done],
    ['isActive', [], is(false)],
    ['undefine', [], done],
    ['isActive', [], 'VIR_ERR_NO_INTERFACE']
  ])

  await using device = await connect.nodeDeviceLookupByName('scsi_host11')
  await using computer = await connect.nodeDeviceLookupByName('computer')
  await run(t, NodeDeviceApi, computer, [['getParent', [], 'VIR_ERR_INTERNAL_ERROR']])
  await run(t, NodeDeviceApi, device, [
    ['create', [], unsupported],
    ['detachFlags', [undefined], unsupported],
    ['dettach', [], unsupported],
    ['reAttach', [], unsupported],
    ['reset', [], unsupported],
    ['undefine', [], unsupported],
    ['getAutostart', [], unsupported],
    ['setAutostart', [true], unsupported],
    ['isActive', [], unsupported],
    ['isPersistent', [], unsupported],
    ['getName', [], is('scsi_host11')],
    ['getParent', [], is('scsi_host1')],
    ['getXMLDesc', [], like(/^<device>/)],
    ['listCaps', [], (t, value, name) => t.ok((value as string[]).includes('scsi_host'), name)],
    ['numOfCaps', [], like(Number)],
    ['destroy', [], done],
    ['destroy', [], 'VIR_ERR_NO_NODE_DEVICE']
  ])
  for (const api of [NetworkApi, StoragePoolApi, StorageVolApi, InterfaceApi, NodeDeviceApi]) complete(t, api)
})

t.test('a stream', { skip }, async t => {
  await using connect = await testHost()
  await using domain = (await connect.listAllDomains())[0] ?? (await connect.domainCreateXML(domainXml('shot')))
  await using stream = await connect.streamNew()
  await domain.screenshot(stream, 0)
  const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47])
  await run(t, StreamApi, stream, [
    ['recv', [4], is(png)],
    ['recvFlags', [4, libvirt.StreamRecvFlags.STOP_AT_HOLE], unsupported],
    ['recvHole', [], unsupported],
    ['send', [png], 'VIR_ERR_SYSTEM_ERROR'],
    ['sendHole', [10], 'VIR_ERR_SYSTEM_ERROR'],
    ['finish', [], done]
  ])
  await using other = await connect.streamNew()
  await domain.screenshot(other, 0)
  await run(t, StreamApi, other, [['abort', [], done]])
  complete(t, StreamApi)
})

t.test('functions of no object', { skip }, async t => {
  await using connect = await testHost()
  const domains = await connect.listAllDomains()
  t.equal(await libvirt.getVersion(), libvirt.libraryVersion())
  t.equal(await libvirt.admGetVersion(), libvirt.libraryVersion())
  const [record] = await libvirt.domainListGetStats(domains, 0)
  t.equal(await record?.dom.getName(), await domains[0]?.getName())
  t.match(record?.params, { 'state.state': Number })
})

// The test driver has none of these; depth tests on a daemon call them.
t.test('objects that the test driver lacks', { skip }, async t => {
  const made: [{ name: string; prototype: object }, object][] = [
    [SecretApi, new libvirt.Secret()],
    [NWFilterApi, new libvirt.NWFilter()],
    [NWFilterBindingApi, new libvirt.NWFilterBinding()],
    [NetworkPortApi, new libvirt.NetworkPort()],
    [AdminConnectApi, new libvirt.AdminConnect()],
    [AdminServerApi, new libvirt.AdminServer()],
    [AdminClientApi, new libvirt.AdminClient()]
  ]
  for (const [api, object] of made) {
    const methods = Object.getOwnPropertyNames(api.prototype).filter(name => name !== 'constructor')
    await run(
      t,
      api as never,
      object,
      methods.map(method => [method, [], noObject])
    )
    complete(t, api)
  }
})
