// Lets several subscriptions hear of the end of one connection, of which libvirt tells one listener only.
#pragma once

#include <memory>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

class EventTarget;

// Both on a thread that may block, with a connection that stays open meanwhile; of Event's family close or
// adm_close. The first one in registers with libvirt, the last one out deregisters. Throws LibvirtError.
void join_close_hub(const Event& event, void* connection, const std::shared_ptr<EventTarget>& listener);
void leave_close_hub(const Event& event, void* connection, const EventTarget* listener);

}  // namespace hypertwin::libvirt
