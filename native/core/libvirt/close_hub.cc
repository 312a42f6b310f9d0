#include "libvirt/close_hub.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/events.h"
#include "libvirt/loader.h"

namespace hypertwin::libvirt {

namespace {

class Hub final : public EventTarget {
 public:
  void deliver(const Event& event, const Slot* slots) override {
    std::vector<std::shared_ptr<EventTarget>> now;
    {
      std::lock_guard lock(mutex_);
      now = listeners_;
    }
    for (const auto& listener : now) listener->deliver(event, slots);
  }
  void add(const std::shared_ptr<EventTarget>& listener) {
    std::lock_guard lock(mutex_);
    listeners_.push_back(listener);
  }
  // True when none is left.
  bool remove(const EventTarget* listener) {
    std::lock_guard lock(mutex_);
    std::erase_if(listeners_, [listener](const auto& one) { return one.get() == listener; });
    return listeners_.empty();
  }

 private:
  std::mutex mutex_;  // guards listeners_
  std::vector<std::shared_ptr<EventTarget>> listeners_;
};

// `holder` is what libvirt has as `opaque`. It is freed here, not by libvirt: drivers without connections
// take a callback and forget it. After deregistering libvirt calls nothing any more, and waits for a call
// that runs.
struct Registered {
  std::shared_ptr<Hub> hub;
  std::unique_ptr<std::shared_ptr<EventTarget>> holder;
};

struct Hubs {
  // Guards hubs, and makes registering and deregistering of one connection follow each other. Never taken on
  // the event loop's thread.
  std::mutex mutex;
  std::map<void*, Registered> hubs;
};

Hubs& hubs() {
  static Hubs& one = *std::make_unique<Hubs>().release();
  return one;
}

bool is_admin(const Event& event) { return event.family == EventFamily::adm_close; }

}  // namespace

void join_close_hub(const Event& event, void* connection, const std::shared_ptr<EventTarget>& listener) {
  using Register = int(void*, void (*)(), void*, abi::FreeCallback);
  const char* name =
      is_admin(event) ? "virAdmConnectRegisterCloseCallback" : "virConnectRegisterCloseCallback";
  auto* add = loader().get<Register>(name, event.since, is_admin(event) ? Library::admin : Library::main);
  std::lock_guard lock(hubs().mutex);
  Registered& one = hubs().hubs[connection];
  if (one.hub) {
    one.hub->add(listener);
    return;
  }
  one.hub = std::make_shared<Hub>();
  one.hub->add(listener);
  one.holder = std::make_unique<std::shared_ptr<EventTarget>>(one.hub);
  reset_error();
  if (add(connection, event.callback, one.holder.get(), nullptr) < 0) {
    hubs().hubs.erase(connection);
    throw last_error(name);
  }
}

void leave_close_hub(const Event& event, void* connection, const EventTarget* listener) {
  using Unregister = int(void*, void (*)());
  std::lock_guard lock(hubs().mutex);
  const auto found = hubs().hubs.find(connection);
  if (found == hubs().hubs.end() || !found->second.hub->remove(listener)) return;
  const char* name =
      is_admin(event) ? "virAdmConnectUnregisterCloseCallback" : "virConnectUnregisterCloseCallback";
  loader().get<Unregister>(name, event.since, is_admin(event) ? Library::admin : Library::main)(
      connection, event.callback);
  hubs().hubs.erase(found);
}

}  // namespace hypertwin::libvirt
