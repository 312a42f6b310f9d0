// The door of hypertwin/capture: operations of libvirt connections in an event log, and replayed from there.
export { captureConnection, ConnectionCapture, type CaptureOptions } from './capture.js'
export { ConnectionReplay, replayConnection } from './replay.js'
