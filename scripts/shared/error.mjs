// What the scripts throw that make hosts and rigs.

/** The message says what was attempted, what went wrong and what to do. */
export class ToolError extends Error {
  name = 'ToolError'
}
