// Wrong use and wrong input: a LibvirtError with a code and a sentence, never a crash, never a call that libvirt
// would not survive.
import t from 'tap'
import {
  Connect,
  ConnectGetAllDomainStatsFlags,
  ConnectListAllNodeDeviceFlags,
  CpuSet,
  Domain,
  DomainMetadataType,
  DomainState,
  ErrorDomain,
  ErrorLevel,
  ErrorNumber,
  LibvirtError,
  libraryVersion,
  supports
} from '../../lib/libvirt/index.js'
import { failure, noLibvirt, testHost } from './support.js'

const skip = noLibvirt
/** A method with arguments that its types do not allow. */
const loose = (object: object, method: string) =>
  (...args: unknown[]) => (object as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]!(...args)

t.test('an error tells what libvirt says, and who called', { skip }, async t => {
  await using connect = await testHost()
  async function caller() {
    return await connect.domainLookupByName('nosuch')
  }
  const error = await failure(t, caller)
  t.match(error, {
    name: 'LibvirtError',
    code: 'VIR_ERR_NO_DOMAIN',
    number: ErrorNumber.NO_DOMAIN,
    domain: ErrorDomain.TEST,
    domainName: 'VIR_FROM_TEST',
    level: ErrorLevel.ERROR,
    api: 'virDomainLookupByName',
    message: /Domain not found/,
    libvirtMessage: /^Domain not found/,
    int1: Number,
    int2: Number
  })
  t.match(error.stack, /^LibvirtError: .*Domain not found[^]*at caller /)
  t.equal(error.str2, undefined)
})

t.test('wrong URIs and XML', { skip }, async t => {
  t.match(await failure(t, () => Connect.open('nosuch:///x')), { code: /^VIR_ERR_/, api: /^virConnectOpen/ })
  t.match(await failure(t, () => Connect.open('test:///nosuch/file.xml')), { api: /^virConnectOpen/, number: Number })
  await using connect = await testHost()
  const broken = await failure(t, () => connect.domainDefineXML('<domain'))
  t.match(broken, { code: 'VIR_ERR_XML_DETAIL', api: 'virDomainDefineXML' })
  t.match(await failure(t, () => connect.domainDefineXML('')), { api: 'virDomainDefineXML' })
  t.match(await failure(t, () => connect.domainDefineXML('<x/>'.repeat(100_000))), { api: 'virDomainDefineXML' })
})

t.test('arguments that cannot be', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  const refused = async (object: object, method: string, args: unknown[], message: RegExp) =>
    t.match(await failure(t, () => loose(object, method)(...args)), { code: 'EINVAL', message }, message.source)
  await refused(connect, 'domainLookupByName', [], /virDomainLookupByName.*name/)
  await refused(connect, 'domainLookupByName', [null], /name/)
  await refused(connect, 'domainLookupByName', [7], /name/)
  await refused(connect, 'domainLookupByName', ['a\0b'], /NUL/)
  await refused(connect, 'domainLookupByID', ['1'], /id/)
  await refused(connect, 'domainLookupByID', [1.5], /id/)
  await refused(connect, 'domainLookupByID', [2 ** 31], /id/)
  await refused(connect, 'domainLookupByUUID', ['6695eb01'], /uuid/)
  await refused(connect, 'domainLookupByUUID', [`${'g'.repeat(32)}`], /uuid/)
  await refused(connect, 'listAllDomains', [-1], /flags/)
  await refused(connect, 'listAllDomains', [2 ** 32], /flags/)
  await refused(connect, 'baselineCPU', ['<cpu/>'], /xmlCPUs/)
  await refused(connect, 'baselineCPU', [['<cpu/>', 7]], /xmlCPUs/)
  await refused(connect, 'nodeAllocPages', [[4], [1n, 2n], 0, 1], /virNodeAllocPages/)
  await refused(domain, 'setMemory', [-1n], /memory/)
  await refused(domain, 'setMemory', [2n ** 64n], /memory/)
  await refused(domain, 'setMemory', [Number.MAX_SAFE_INTEGER + 1], /memory/)
  await refused(domain, 'setAutostart', ['yes'], /autostart/)
  await refused(domain, 'pinVcpu', [0, [-1]], /CPU/)
  await refused(domain, 'pinVcpu', [0, [0.5]], /CPU/)
  await refused(domain, 'pinVcpu', [0, [1e9]], /CPU/)
  await refused(domain, 'setMemoryParameters', [{ hard_limit: 'much' }], /hard_limit/)
  await refused(domain, 'setMemoryParameters', [{ ['x'.repeat(80)]: 1 }], /x{10}/)
  await refused(domain, 'setMemoryParameters', [7], /params/)
  await refused(domain, 'migrate', [domain, 0, undefined, undefined, 0], /dconn/)
  await refused(domain, 'openConsole', [undefined, connect], /st/)
  t.equal(await domain.getName(), 'test', 'all is well after that')
})

t.test('wrong flags are for libvirt to refuse', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  t.match(await failure(t, () => domain.getState(0x40000000)), { code: 'VIR_ERR_INVALID_ARG', message: /flags/ })
  // The highest bit makes JavaScript's OR negative.
  const { ENFORCE_STATS, RUNNING } = ConnectGetAllDomainStatsFlags
  t.ok((ENFORCE_STATS | RUNNING) < 0)
  t.equal((await connect.getAllDomainStats(0, ENFORCE_STATS | RUNNING)).length, 1)
  const devices = connect.listAllNodeDevices(ConnectListAllNodeDeviceFlags.ACTIVE | ConnectListAllNodeDeviceFlags.CAP_SYSTEM)
  await devices.catch((error: unknown) => t.match(error, { api: 'virConnectListAllNodeDevices' }))
})

t.test('objects that are closed, gone or none', { skip }, async t => {
  const connect = await testHost()
  const domain = await connect.domainLookupByName('test')
  const other = await connect.domainLookupByName('test')
  t.equal(domain.closed, false)
  await domain.close()
  await domain.close()
  t.equal(domain.closed, true)
  t.match(await failure(t, () => domain.getInfo()), { code: 'CLOSED', message: /virDomainGetInfo/ })
  t.equal((await other.getInfo()).state, DomainState.RUNNING, 'another object of the same domain goes on')
  t.match(await failure(t, () => new Domain().getInfo()), { code: 'EINVAL', message: /virDomainGetInfo/ })
  t.equal(new Domain().closed, true)
  t.match(await failure(t, () => Domain.prototype.getInfo.call(connect as never)), { code: 'EINVAL', message: /domain/ })

  // libvirt holds a connection for each of its objects.
  const running = other.getXMLDesc()
  await connect.close()
  t.match(await running, /<domain/, 'a call in flight ends as it would')
  t.match(await failure(t, () => connect.listAllDomains()), { code: 'CLOSED' })
  t.equal(await other.getName(), 'test', 'an object outlives the object of its connection')
  const again = await other.getConnect()
  t.equal(await again.isAlive(), true)
  await again.close()
  await other.close()
})

t.test('what a domain was undefined under', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainDefineXML(
    "<domain type='test'><name>stale</name><memory>65536</memory><os><type>hvm</type></os></domain>"
  )
  await using stale = await connect.domainLookupByName('stale')
  await domain.undefine()
  t.match(await failure(t, () => stale.getInfo()), { code: 'VIR_ERR_NO_DOMAIN', api: 'virDomainGetInfo' })
  t.match(await failure(t, () => stale.create()), { code: 'VIR_ERR_NO_DOMAIN', api: 'virDomainCreate' })
})

t.test('a read-only connection', { skip }, async t => {
  await using connect = await Connect.open('test:///default', { readOnly: true })
  await using domain = await connect.domainLookupByName('test')
  t.match(await failure(t, () => domain.destroy()), { code: 'VIR_ERR_OPERATION_DENIED', number: ErrorNumber.OPERATION_DENIED })
})

t.test('typed parameters', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  await domain.setMemoryParameters({ hard_limit: { type: 'ullong', value: 4_000_000 }, soft_limit: undefined })
  t.equal((await domain.getMemoryParameters())['hard_limit'], 4_000_000n)
  t.match(
    await failure(t, () => domain.setMemoryParameters({ hard_limit: { type: 'int', value: 5 } })),
    { code: 'VIR_ERR_INVALID_ARG', message: /hard_limit/ },
    'a type that is said goes to libvirt as it is'
  )
  t.match(await failure(t, () => domain.setMemoryParameters({ nosuch: 5n })), { message: /nosuch/, api: 'virDomainSetMemoryParameters' })
})

t.test('text goes through as it is', { skip }, async t => {
  await using connect = await testHost()
  await using domain = await connect.domainLookupByName('test')
  const title = 'Grüße, 世界 🐧'
  await domain.setMetadata(DomainMetadataType.TITLE, title, undefined, undefined)
  t.equal(await domain.getMetadata(DomainMetadataType.TITLE), title)
})

t.test('many at once', { skip }, async t => {
  await using connect = await testHost()
  const answers = await Promise.all(
    Array.from({ length: 500 }, async (_, at) => {
      if (at % 2 === 1) return (await failure(t, () => connect.domainLookupByName(`nosuch${at}`))).code
      await using domain = await connect.domainLookupByName('test')
      return await domain.getName()
    })
  )
  t.strictSame(new Set(answers), new Set(['test', 'VIR_ERR_NO_DOMAIN']))
})

t.test('which functions there are', { skip }, async t => {
  t.equal(supports('virDomainGetInfo'), true)
  t.equal(supports('virAdmConnectOpen'), true)
  t.equal(supports('virDomainQemuMonitorCommand'), true)
  t.equal(supports('virDomainLxcOpenNamespace'), true)
  t.equal(supports('virNoSuchFunction'), false)
  t.equal(supports('malloc'), false)
  t.ok(libraryVersion() >= 1_002_003)
})

t.test('sets of CPUs', async t => {
  const set = CpuSet.parse('0-3,^2,8, 10-11')
  t.strictSame([...set], [0, 1, 3, 8, 10, 11])
  t.equal(set.toString(), '0-1,3,8,10-11')
  t.equal(new CpuSet().toString(), '')
  t.strictSame(CpuSet.parse(new CpuSet([5, 4, 3, 9]).toString()), new CpuSet([3, 4, 5, 9]))
  for (const text of ['', 'x', '3-1', '1,,2', '-1', '1-', '999999']) t.throws(() => CpuSet.parse(text), RangeError, text)
})

t.test('the error class', async t => {
  const error = new LibvirtError('text', { code: 'CLOSED' })
  t.match(error, { code: 'CLOSED', message: 'text', name: 'LibvirtError' })
  t.equal(error.number, undefined)
  t.equal(error.api, undefined)
})
