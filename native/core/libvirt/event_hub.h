// Registrations at libvirt, which takes one callback for each kind of event of one object (and one for the
// end of a connection): all subscriptions that want the same share one, and each hears of every event.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

// Hears of events on the event loop's thread.
class EventTarget {
 public:
  virtual ~EventTarget() = default;
  virtual void deliver(const Event& event, const Slot* slots) = 0;
};

// What a registration is for.
struct EventTopic {
  const Event* event = nullptr;
  std::optional<std::string> object;  // its UUID or name; none: all objects
  std::optional<std::string> name;    // of qemu_monitor: only events of this name
  uint32_t flags = 0;                 // of qemu_monitor
  auto operator<=>(const EventTopic&) const = default;
};

// A topic's `object`, for an object of the class that the event is about.
std::string event_object_id(Class type, void* object);

// Both on a thread that may block; `connection` stays open from one to the other. The first one in registers
// with libvirt, for `object` if the topic has one; the last one out deregisters. Who is not in may leave.
// Throws LibvirtError, Error("LIBVIRT_TOO_OLD").
void join_event_hub(const EventTopic& topic, void* connection, void* object,
                    const std::shared_ptr<EventTarget>& listener);
void leave_event_hub(const EventTopic& topic, void* connection, const EventTarget* listener);

}  // namespace hypertwin::libvirt
