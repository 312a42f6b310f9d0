// Where running hosts are written down.
import { State, checkoutId as idOf } from '../shared/state.mjs'

/** The name of the set that `npm run hosts -- up` makes in this checkout; HYPERTWIN_HOSTS tells several apart. */
export const checkoutId = idOf('HYPERTWIN_HOSTS')

export const state = new State('/var/lib/hypertwin-hosts', ({ wire, hosts = [] }) => [
  wire,
  ...hosts.map(host => host.init)
])
