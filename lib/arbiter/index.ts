// The door of hypertwin/arbiter: who may run a machine when two could.
export type { Arbiter, Claim } from './arbiter.js'
export { ArbiterError } from './errors.js'
export { EtcdArbiter, type EtcdArbiterOptions } from './etcd.js'
export { FileArbiter, type FileArbiterOptions } from './file.js'
export { openArbiter } from './open.js'
