// Rigs for tests and benchmarks: the door of this folder.
export { ToolError as RigError } from '../shared/error.mjs'
export { insideRig, openRigs, rigsUp, whyNoRigs } from './rigs.mjs'
