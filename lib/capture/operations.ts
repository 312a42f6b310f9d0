// Which of the seam's calls are operations of a log, and under which names and with which arguments they stand in it.
import { addon } from '../libvirt/addon.js'
import type { Routed } from '../libvirt/backend.js'

/** A call as the log has it. */
export interface Operation {
  /** A function of libvirt's, or a name of ours for what several of them do. */
  name: string
  args: unknown[]
  /** Where the addon takes a function that is called with news; undefined: nowhere. */
  callbackAt?: number
}

let functionNames: string[] | undefined

/**
 * The operation that this call of the addon is; undefined for what is none: to look at an object, or to let go of
 * one that is no connection.
 *
 * @param registration - the operation that a registration's number stands for
 */
export function operationOf(
  name: Routed,
  args: unknown[],
  isConnection: (handle: unknown) => boolean,
  registration: (id: unknown) => number | undefined
): Operation | undefined {
  switch (name) {
    case 'libvirtCall': {
      functionNames ??= addon.libvirtFunctionNames()
      return { name: functionNames[args[0] as number] ?? `function ${String(args[0])}`, args: args.slice(1) }
    }
    case 'libvirtClose':
      return isConnection(args[0]) ? { name: 'close', args } : undefined
    case 'libvirtOn':
      return { name: 'on', args: [...args.slice(0, 6), args[7]], callbackAt: 6 }
    case 'libvirtOff':
      return { name: 'off', args: [registration(args[0])] }
    case 'libvirtStreamRecv':
      return { name: 'recv', args }
    case 'libvirtStreamSend':
      return { name: 'send', args }
    case 'libvirtStreamSendHole':
      return { name: 'sendHole', args }
    case 'libvirtStreamListen':
      return { name: 'listen', args: args.slice(0, 2), ...(args[2] === undefined ? {} : { callbackAt: 2 }) }
    case 'libvirtStreamFinish':
      return { name: 'finish', args }
    case 'libvirtStreamAbort':
      return { name: 'abort', args }
    case 'libvirtIsClosed':
    case 'libvirtSame':
    case 'libvirtStreamRearm':
      return undefined
  }
}

const mostText = 200

/** A call for people. */
export function describe(name: string, args: readonly unknown[]): string {
  const text = args.map(arg => describeValue(arg)).join(', ')
  return `${name}(${text.length > mostText ? `${text.slice(0, mostText)}…` : text})`
}

function describeValue(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'bigint') return `${value}n`
  if (value instanceof Uint8Array) return `<${value.length} bytes>`
  if (Array.isArray(value)) return `[${value.slice(0, 10).map(describeValue).join(', ')}${value.length > 10 ? ', …' : ''}]`
  if (value instanceof Named) return value.text
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .slice(0, 10)
      .map(([key, one]) => `${key}: ${describeValue(one)}`)
      .join(', ')}}`
  return String(value)
}

/** An object of libvirt in a description. */
export class Named {
  readonly text: string
  constructor(className: string, number: number) {
    this.text = number === 0 ? `a ${className} from elsewhere` : `${className} ${number}`
  }
}
