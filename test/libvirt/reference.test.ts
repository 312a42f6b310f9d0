// libvirt-python answers as told: values, handles, lists of handles, and errors with all their fields.
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { Reference } from './reference.js'

const tried = spawnSync('/usr/bin/python3', ['-c', 'import libvirt'], { encoding: 'utf8' })
const why =
  tried.status === 0 ? false : 'python3-libvirt is not installed (apt-get install python3-libvirt): it is the reference'

t.test('calls, handles and errors', { skip: why }, async t => {
  await using reference = new Reference()
  const call = async (object: string, method: string, args: (string | number)[] = [], as?: string) =>
    reference.call({ object, method, args, ...(as === undefined ? {} : { as }) })
  t.strictSame(await call('libvirt', 'open', ['test:///default'], 'conn'), {
    result: { $object: 'virConnect', handle: 'conn' }
  })
  t.strictSame(await call('conn', 'listAllDomains', [0], 'domains'), {
    result: [{ $object: 'virDomain', handle: 'domains.0' }]
  })
  t.strictSame(await call('domains.0', 'name'), { result: 'test' })
  t.strictSame(await call('domains.0', 'UUID'), { result: { $bytes: '6695eb01f6a4830479aa97f2502e193f' } })
  const { result } = await call('domains.0', 'info')
  t.match(result, [1, 8388608, 2097152, 2, { $int: /^\d{17,}$/ }], 'more than 2^53 is written in digits')
  t.strictSame(await call('libvirt', 'VIR_DOMAIN_RUNNING'), { error: { type: 'TypeError', message: 'VIR_DOMAIN_RUNNING is not a method' } })
  t.strictSame(await reference.call({ object: 'libvirt', method: 'VIR_DOMAIN_RUNNING' }), { result: 1 })
  t.strictSame(await call('conn', 'lookupByName', ['nobody']), {
    error: {
      type: 'libvirtError',
      code: 42,
      domain: 12,
      message: 'Domain not found',
      level: 2,
      str1: 'Domain not found',
      str2: null,
      str3: null,
      int1: -1,
      int2: -1
    }
  })
  t.match(await call('nothing', 'name'), { error: { type: 'KeyError' } })
  t.strictSame(
    await reference.call({ object: 'conn', method: 'domainEventRegister', args: [{ $handle: 'lost' }] }),
    { error: { type: 'KeyError', message: '"no handle \'lost\'"' } }
  )
})

t.test('a reference that has ended says so', { skip: why }, async t => {
  const reference = new Reference()
  await reference[Symbol.asyncDispose]()
  await t.rejects(reference.call({ object: 'libvirt', method: 'getVersion', args: [] }), { message: /has ended/ })
})
