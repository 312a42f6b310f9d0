// What is thrown when hosts cannot be made or one of them does not do as it is told.

/** The message says what was attempted, what went wrong and what to do. */
export class HostsError extends Error {
  name = 'HostsError'
}
