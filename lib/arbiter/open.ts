// An arbiter named by one text, for command lines.
import type { Arbiter } from './arbiter.js'
import { invalid } from './errors.js'
import { EtcdArbiter, type EtcdArbiterOptions } from './etcd.js'
import { FileArbiter } from './file.js'

/**
 * The arbiter that a text names: `'file:/mnt/shared/claims'`, or `'etcd:http://10.0.0.1:2379,http://10.0.0.2:2379'`.
 *
 * @param options - `timeoutMs` of either; `tls` and `auth` of etcd
 * @throws ArbiterError `EINVAL`
 * @since 0.1.0
 */
export function openArbiter(text: string, options: Omit<EtcdArbiterOptions, 'hosts'> = {}): Arbiter {
  if (typeof text !== 'string') throw invalid('an arbiter is named by a text')
  const [, kind, rest = ''] = /^(file|etcd):(.+)$/.exec(text) ?? []
  if (kind === 'file') return new FileArbiter(rest.replace(/^\/\//, ''), options)
  if (kind === 'etcd') return new EtcdArbiter({ ...options, hosts: rest.split(',') })
  throw invalid(`an arbiter is 'file:FOLDER' or 'etcd:http://HOST:PORT,…', not ${JSON.stringify(text)}`)
}
