// The one thread of this process that runs libvirt's default event loop: keepalive, events and streams of all
// connections. It begins before the first connection is opened and is never stopped: it ends with the
// process.
#pragma once

namespace hypertwin::libvirt {

// Once, with libvirt.so.0's handle. Throws Error("LIBVIRT_MISSING").
void start_event_loop(void* libvirt);

// True on that thread, where nothing may wait.
bool on_event_loop();

// Returns when the loop has done what it does now: a callback that was taken back before runs no more. Once
// the loop has started; on a thread of the pool.
void pass_event_loop();

}  // namespace hypertwin::libvirt
