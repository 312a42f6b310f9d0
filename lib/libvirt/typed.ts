// libvirt's typed parameters as plain objects.

/**
 * A value whose type is said, for a parameter that libvirt does not document.
 *
 * @since 0.1.0
 */
export type TypedValue =
  | { type: 'int' | 'uint' | 'double'; value: number }
  | { type: 'llong' | 'ullong'; value: bigint | number }
  | { type: 'boolean'; value: boolean }
  | { type: 'string'; value: string }

/** What a typed parameter may be given as. */
type Given = bigint | number | boolean | string | readonly string[] | TypedValue | undefined

/**
 * Typed parameters that are given to libvirt: an object by their names. What libvirt documents gets its type
 * from there (64-bit values may be numbers), other names by the value: boolean, string, double, the smallest
 * integer type that holds it, and for a bigint a 64-bit one. A list of strings gives a name several times.
 *
 * @since 0.1.0
 */
export type TypedInput<T = Record<never, never>> = {
  [K in keyof T]?:
    | (bigint extends T[K] ? bigint | number : T[K] extends string | string[] ? string | readonly string[] : T[K])
    | TypedValue
    | undefined
} & Record<string, Given>

/**
 * Typed parameters that libvirt gives: an object by their names, with 64-bit values as bigint. Which of those
 * that are documented are there depends on the hypervisor; others may be there, too.
 *
 * @since 0.1.0
 */
export type TypedOutput<T = Record<never, never>> = Partial<T> &
  Record<string, bigint | number | boolean | string | (bigint | number | boolean | string)[] | undefined>
