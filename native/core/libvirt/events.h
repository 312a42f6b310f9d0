// What libvirt tells of its own accord: one subscription a kind of event, its queue, and its end. Callbacks
// come on the event loop's thread, which never waits: they copy and return.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "libvirt/descriptor.h"
#include "libvirt/event_hub.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

struct EventRecord {
  const Event* event = nullptr;
  uint64_t sequence = 0;  // from 1, of this subscription; also those that were dropped have one
  uint64_t dropped = 0;   // how many are missing before this one
  double time = 0;        // when it came: milliseconds since 1970
  HandleValue object;     // what it is about; Class::none: the connection
  Object arguments;
};

struct SubscriptionOptions {
  const Event* event = nullptr;
  std::shared_ptr<Handle> connection;
  std::shared_ptr<Handle> object;   // only of this one, needed until start() is over; null: of all
  std::optional<std::string> name;  // of qemu_monitor: only events of this name
  uint32_t flags = 0;               // of qemu_monitor
  // Records that wait at most; then the oldest is dropped for each new one.
  size_t limit = 4096;
  // Called on the event thread when there is something to take() after there was nothing. Must not block.
  std::function<void()> notify;
};

class Subscription final : public EventTarget, public std::enable_shared_from_this<Subscription> {
 public:
  explicit Subscription(SubscriptionOptions options) : options_(std::move(options)) {}

  // Once, on a thread that may block. Throws LibvirtError, Error("LIBVIRT_TOO_OLD"), Error("CLOSED") when
  // stop() was called meanwhile.
  void start();
  // Any thread, never blocks: nothing is delivered any more. libvirt is told on the pool, then `done` is
  // called there. Whoever started it must call it: until then libvirt keeps the subscription, and it the
  // connection.
  void stop(std::function<void()> done = {});

  // Any thread.
  std::vector<EventRecord> take();
  const std::shared_ptr<Handle>& connection() const { return options_.connection; }

  void deliver(const Event& event, const Slot* slots) override;

 private:
  SubscriptionOptions options_;  // its object until start(); the rest does not change
  EventTopic topic_;             // by start(), then by who leaves the hub
  std::mutex mutex_;             // guards all below
  bool registered_ = false;
  bool stopped_ = false;
  std::deque<EventRecord> waiting_;
  uint64_t sequence_ = 0;
};

// The table's event; nullptr when there is none.
const Event* find_event(EventFamily family, int id);

}  // namespace hypertwin::libvirt
