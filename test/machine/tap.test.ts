// virtio-net over a tap interface and the kernel's own UDP/IP: users of the mailroom by sockets, in a network
// namespace of their own.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import process from 'node:process'
import t from 'tap'
import { noKvm, unusable } from '../no_kvm.js'
import { limit } from '../patience.js'

const why = (() => {
  const device = noKvm || unusable('/dev/net/tun')
  if (device !== false) return device
  if (spawnSync('unshare', ['-n', 'true']).status !== 0) return 'may not make a network namespace (needs root)'
  if (!['/sbin/ip', '/usr/sbin/ip', '/bin/ip', '/usr/bin/ip'].some(existsSync)) return 'the program ip is missing (iproute2)'
  return false
})()

t.test('mail over tap', { skip: why }, async t => {
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    ['-n', process.execPath, 'scripts/load.mjs', '--tap', 'mail0', '--users', '20', '--seconds', '1', '--json'],
    { encoding: 'utf8', timeout: limit(120_000) }
  )
  t.equal(status, 0, stderr)
  const result = JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as Record<string, number>
  t.ok((result['operations'] ?? 0) > 100, `${String(result['operations'])} operations`)
  t.equal(result['acknowledged'], result['operations'])
  t.equal(result['lost'], 0)
})
