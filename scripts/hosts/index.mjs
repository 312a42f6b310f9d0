// Hosts and guests for tests and samples: the door of this folder.
export { ToolError as HostsError } from '../shared/error.mjs'
export { blankDisk, linuxGuest, prompt, servicePort } from './guest.mjs'
export { openHosts, startHosts, whyNoHosts } from './hosts.mjs'
export { guestImage } from './image.mjs'
export { serviceImage } from './service_image.mjs'
