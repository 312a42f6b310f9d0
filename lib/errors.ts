// The base of all errors of this package, and how a native error becomes a layer's class.

/**
 * The base class of every error that hypertwin throws. Each layer has its own subclass, whose
 * comment lists its codes: `KvmError`, `MachineError`, `DirtyError`, `EventLogError`, `MigrateError`, `HaError`,
 * `LibvirtError`, `StreamError`, `ArbiterError`.
 *
 * @since 0.1.0
 */
export class HypertwinError extends Error {
  override name = 'HypertwinError'
  /** A stable identifier: errno's name (`'ENOENT'`) of a failed system call, or one of the layer's own. */
  readonly code: string
  /** The positive errno of the failed system call; undefined when none failed. */
  readonly errno: number | undefined
  /** The failed system call or ioctl (`'open'`, `'KVM_CREATE_VM'`); undefined when none failed. */
  readonly call: string | undefined

  /**
   * @param message - what was attempted, what went wrong and what can be done
   * @param details - code, and where a system call failed its errno and name
   */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = details.code
    this.errno = details.errno
    this.call = details.call
  }
}

/**
 * What an error carries besides its message.
 *
 * @since 0.1.0
 */
export interface HypertwinErrorDetails {
  /** See {@link HypertwinError.code}. */
  code: string
  /** See {@link HypertwinError.errno}. */
  errno?: number | undefined
  /** See {@link HypertwinError.call}. */
  call?: string | undefined
  /** The error that led to this one. */
  cause?: unknown
}

/** A layer's error class, as {@link toLayerError} needs it. */
export type LayerErrorClass = new (message: string, details: HypertwinErrorDetails) => HypertwinError

/**
 * Turns what the addon threw into the layer's class. What is a HypertwinError already, or no native error
 * (it has no string `code`, or comes from node's own argument checks), is returned as it is.
 *
 * @internal
 */
export function toLayerError(error: unknown, layer: LayerErrorClass): unknown {
  if (!(error instanceof Error) || error instanceof HypertwinError) return error
  const { code, errno, call } = error as Error & { code?: unknown; errno?: unknown; call?: unknown }
  if (typeof code !== 'string' || code.startsWith('ERR_')) return error
  const result = new layer(error.message, {
    code,
    errno: typeof errno === 'number' ? errno : undefined,
    call: typeof call === 'string' ? call : undefined
  })
  if (error.stack !== undefined) Error.captureStackTrace(result, toLayerError)
  return result
}

/**
 * Calls `body`, which calls the addon; errors, also of the promise that it returns, come out as `layer`'s.
 *
 * @internal
 */
export function withLayerErrors<T>(layer: LayerErrorClass, body: () => T): T {
  try {
    const result = body()
    if (result instanceof Promise)
      return result.catch((error: unknown) => {
        throw toLayerError(error, layer)
      }) as T
    return result
  } catch (error) {
    throw toLayerError(error, layer)
  }
}
