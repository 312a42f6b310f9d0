// The error class of hypertwin/libvirt, and how what the addon rejects with becomes one.
import { HypertwinError, type HypertwinErrorDetails } from '../errors.js'
import { ErrorDomain, ErrorNumber } from './generated/enums.js'

/**
 * What libvirt itself says of a failed call.
 *
 * @since 0.1.0
 */
export interface LibvirtErrorDetails {
  /** The number of the error, one of `ErrorNumber`. */
  number: number
  /** The number of the part of libvirt that it comes from, one of `ErrorDomain`. */
  domain: number
  /** How bad it is, one of `ErrorLevel`. */
  level: number
  /** The function that failed. */
  api: string
  /** Its own text; empty when it has none. */
  message?: string | undefined
  /** Words that libvirt has put into its message. */
  str1?: string | undefined
  /** See {@link str1}. */
  str2?: string | undefined
  /** See {@link str1}. */
  str3?: string | undefined
  /** Numbers that libvirt has put into its message. */
  int1: number
  /** See {@link int1}. */
  int2: number
}

const errorNames = new Map<number, string>(
  Object.entries(ErrorNumber).map(([name, value]) => [value, name.startsWith('WAR_') ? `VIR_${name}` : `VIR_ERR_${name}`])
)
const domainNames = new Map<number, string>(
  Object.entries(ErrorDomain).map(([name, value]) => [value, `VIR_FROM_${name}`])
)

/**
 * What hypertwin/libvirt throws and rejects with; its stack is that of the caller. `code` is the name of
 * libvirt's error (`'VIR_ERR_NO_DOMAIN'`; `'VIR_ERR_<number>'` for one that is newer than this package), or one of
 * - `'LIBVIRT_MISSING'`: the library is not installed; the message says which package brings it
 * - `'LIBVIRT_TOO_OLD'`: the library lacks the function; the message says which version has it
 * - `'LIBVIRT_CONFLICT'`: libvirt's connections and its administration cannot both be used in one process
 * - `'CONNECTION_LOST'`: events end because the connection did
 * - `'LIBVIRT_REPLAY_STRAYED'`: in a replay (`hypertwin/capture`), the call is not the one that the log has
 * - `'CANCELLED'`: given up by a call of cancel()
 * - `'TIMEOUT'`: what was waited for did not happen in time
 * - `'DOMAIN_GONE'`: the domain ended, and is not persistent
 * - `'DEVICE_BUSY'`: the guest does not let go of a device
 * - `'BLOCK_JOB_FAILED'`, `'BACKUP_FAILED'`: it ended before its aim; the message says why
 * - `'POST_COPY_BROKEN'`: the domain is on both hosts in part; `resumePostCopy` goes on
 * - `'BAD_ANSWER'`: the guest agent's answer is no JSON
 * - `'BUSY'`: a stream is being read from, or written to, already
 * - `'CLOSED'`: the object, or what it belongs to, is closed
 * - `'EAGAIN'`: the system gives no thread for the call
 * - `'EINVAL'`: an argument cannot be; the message says which
 *
 * @since 0.1.0
 */
export class LibvirtError extends HypertwinError {
  override name = 'LibvirtError'
  /** libvirt's number of the error (`ErrorNumber`); undefined when it is not libvirt's. */
  readonly number: number | undefined
  /** The part of libvirt that it comes from (`ErrorDomain`); undefined when it is not libvirt's. */
  readonly domain: number | undefined
  /** The name of {@link domain}, for example `'VIR_FROM_QEMU'`. */
  readonly domainName: string | undefined
  /** How bad it is (`ErrorLevel`); undefined when it is not libvirt's. */
  readonly level: number | undefined
  /** libvirt's own text, without the name of the function; undefined when it is not libvirt's. */
  readonly libvirtMessage: string | undefined
  /** Words and numbers that libvirt has put into its message. */
  readonly str1: string | undefined
  /** See {@link str1}. */
  readonly str2: string | undefined
  /** See {@link str1}. */
  readonly str3: string | undefined
  /** See {@link str1}. */
  readonly int1: number | undefined
  /** See {@link str1}. */
  readonly int2: number | undefined

  /**
   * @param details - see {@link HypertwinError}
   * @param libvirt - what libvirt says of it
   */
  constructor(message: string, details: HypertwinErrorDetails, libvirt?: LibvirtErrorDetails) {
    super(message, details)
    this.number = libvirt?.number
    this.domain = libvirt?.domain
    this.domainName = libvirt && (domainNames.get(libvirt.domain) ?? `VIR_FROM_${libvirt.domain}`)
    this.level = libvirt?.level
    this.libvirtMessage = libvirt?.message
    this.str1 = libvirt?.str1
    this.str2 = libvirt?.str2
    this.str3 = libvirt?.str3
    this.int1 = libvirt?.int1
    this.int2 = libvirt?.int2
  }

  /** The function of libvirt that failed, for example `'virDomainCreate'`. */
  get api(): string | undefined {
    return this.call
  }
}

/** Where a call was made. */
export interface CallSite {
  stack?: string
}

/** What the addon puts on an error that libvirt has reported. */
interface Reported {
  code: number
  domain: number
  level: number
  api: string
  message: string
  str1?: string
  str2?: string
  str3?: string
  int1: number
  int2: number
}

/**
 * The error for the user, of what the addon threw.
 *
 * @internal
 */
export function toLibvirtError(error: unknown, site: CallSite): unknown {
  if (!(error instanceof Error) || error instanceof HypertwinError) return error
  const { code, call, libvirt } = error as Error & { code?: unknown; call?: unknown; libvirt?: Reported }
  if (typeof code !== 'string' || code.startsWith('ERR_')) return error
  const result = libvirt
    ? new LibvirtError(
        error.message,
        { code: errorNames.get(libvirt.code) ?? `VIR_ERR_${libvirt.code}`, call: libvirt.api },
        { ...libvirt, number: libvirt.code }
      )
    : new LibvirtError(error.message, {
        code: code === 'ECLOSED' ? 'CLOSED' : code,
        call: typeof call === 'string' ? call : undefined
      })
  const frames = site.stack?.replace(/^.*\n/, '')
  if (frames !== undefined) result.stack = `${result.name}: ${result.message}\n${frames}`
  return result
}

/**
 * Runs `body`, which calls the addon; what it throws or rejects with comes out as LibvirtError with the stack
 * of now.
 *
 * @internal
 */
export async function libvirtErrors<T>(body: () => T | Promise<T>): Promise<T> {
  const site: CallSite = {}
  Error.captureStackTrace(site, libvirtErrors)
  try {
    return await body()
  } catch (error) {
    throw toLibvirtError(error, site)
  }
}
