// Rigs for tests and benchmarks: the door of this folder.
export { ToolError as RigError } from '../shared/error.mjs'
export { insideRig } from '../shared/inside.mjs'
export { openRigs, rigsUp, whyNoRigs } from './rigs.mjs'
