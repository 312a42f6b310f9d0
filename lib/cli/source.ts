// How a command reaches the web server that something is streamed from.
import { validateHeaderName, validateHeaderValue } from 'node:http'
import type { SourceOptions } from '../stream/source.js'
import { usage } from './common.js'
import { textOf } from './tls.js'

export interface ReachOptions {
  header?: string[]
  ca?: string
}

/** For the API. A header that begins with @ names a file of headers, a line each: command lines are for all to see. */
export function reachOf({ header = [], ca }: ReachOptions): Pick<SourceOptions, 'headers' | 'ca'> {
  const headers: Record<string, string> = {}
  for (const given of header)
    for (const line of given.startsWith('@') ? textOf(given.slice(1)).split(/\r?\n/) : [given]) {
      if (line.trim() === '') continue
      const [, name = '', value = ''] = /^([^:]*):[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
      try {
        validateHeaderName(name)
        validateHeaderValue(name, value)
      } catch {
        // Not what it says: it may be a secret.
        throw usage(`--header wants name: value, as "authorization: Bearer …"${given.startsWith('@') ? `, in each line of ${given.slice(1)}` : ''}`)
      }
      headers[name.toLowerCase()] = value
    }
  return { ...(header.length > 0 && { headers }), ...(ca !== undefined && { ca: textOf(ca) }) }
}
