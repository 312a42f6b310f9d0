#include "libvirt/event_hub.h"

#include <exception>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/loader.h"

namespace hypertwin::libvirt {

namespace {

struct FamilyFunctions {
  Library library;
  const char* add;
  const char* remove;
};

FamilyFunctions functions_of(EventFamily family) {
  switch (family) {
    case EventFamily::domain:
      break;
    case EventFamily::network:
      return {Library::main, "virConnectNetworkEventRegisterAny", "virConnectNetworkEventDeregisterAny"};
    case EventFamily::storage_pool:
      return {Library::main, "virConnectStoragePoolEventRegisterAny",
              "virConnectStoragePoolEventDeregisterAny"};
    case EventFamily::node_device:
      return {Library::main, "virConnectNodeDeviceEventRegisterAny",
              "virConnectNodeDeviceEventDeregisterAny"};
    case EventFamily::secret:
      return {Library::main, "virConnectSecretEventRegisterAny", "virConnectSecretEventDeregisterAny"};
    case EventFamily::qemu_monitor:
      return {Library::qemu, "virConnectDomainQemuMonitorEventRegister",
              "virConnectDomainQemuMonitorEventDeregister"};
    case EventFamily::close:
      return {Library::main, "virConnectRegisterCloseCallback", "virConnectUnregisterCloseCallback"};
    case EventFamily::adm_close:
      return {Library::admin, "virAdmConnectRegisterCloseCallback", "virAdmConnectUnregisterCloseCallback"};
  }
  return {Library::main, "virConnectDomainEventRegisterAny", "virConnectDomainEventDeregisterAny"};
}

bool is_close(const Event& event) {
  return event.family == EventFamily::close || event.family == EventFamily::adm_close;
}

using Holder = std::shared_ptr<EventTarget>;

class Hub final : public EventTarget {
 public:
  void deliver(const Event& event, const Slot* slots) override {
    std::vector<std::shared_ptr<EventTarget>> now;
    {
      std::lock_guard lock(mutex_);
      now = listeners_;
    }
    for (const auto& listener : now) try {
        listener->deliver(event, slots);
      } catch (const std::exception&) {
        // Out of memory, or an object that cannot be referenced any more: this one record is lost to this
        // one.
      }
  }
  void add(const std::shared_ptr<EventTarget>& listener) {
    std::lock_guard lock(mutex_);
    listeners_.push_back(listener);
  }
  // False when it is not there.
  bool remove(const EventTarget* listener) {
    std::lock_guard lock(mutex_);
    return std::erase_if(listeners_, [listener](const auto& one) { return one.get() == listener; }) > 0;
  }
  bool empty() {
    std::lock_guard lock(mutex_);
    return listeners_.empty();
  }

 private:
  std::mutex mutex_;  // guards listeners_
  std::vector<std::shared_ptr<EventTarget>> listeners_;
};

struct Registered {
  std::shared_ptr<Hub> hub;
  int number = -1;  // libvirt's
  // Of the end of a connection, freed here and not by libvirt: drivers within this process take that callback
  // and forget it. After deregistering libvirt calls nothing any more, and waits for a call that runs.
  std::unique_ptr<Holder> holder;
};

// Of one connection. Its mutex makes registering and deregistering follow each other, also while a daemon
// does not answer; it is never taken on the event loop's thread.
struct Hubs {
  std::mutex mutex;
  std::map<EventTopic, Registered> hubs;
};

struct Connections {
  struct Entry {
    std::shared_ptr<Hubs> hubs;
    size_t users = 0;  // listeners, and those on their way in or out
  };
  std::mutex mutex;  // guards entries
  std::map<void*, Entry> entries;
};

// Holds a connection's hubs in the table.
class Use {
 public:
  explicit Use(void* connection) : connection_(connection) {
    std::lock_guard lock(all().mutex);
    Connections::Entry& entry = all().entries[connection];
    if (!entry.hubs) entry.hubs = std::make_shared<Hubs>();
    ++entry.users;
    hubs_ = entry.hubs;
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() {
    if (connection_) drop(connection_);
  }
  Hubs& hubs() { return *hubs_; }
  // It stays until drop().
  void keep() { connection_ = nullptr; }
  static void drop(void* connection) {
    std::lock_guard lock(all().mutex);
    const auto entry = all().entries.find(connection);
    if (--entry->second.users == 0) all().entries.erase(entry);
  }

 private:
  static Connections& all() {
    static Connections& one = *std::make_unique<Connections>().release();
    return one;
  }

  void* connection_;
  std::shared_ptr<Hubs> hubs_;
};

void add_to_libvirt(const EventTopic& topic, void* connection, void* object, Registered& one) {
  const Event& event = *topic.event;
  const FamilyFunctions names = functions_of(event.family);
  void* function = loader().symbol(names.library, names.add, event.since);
  auto holder = std::make_unique<Holder>(one.hub);
  const abi::FreeCallback free_holder = [](void* opaque) { delete static_cast<Holder*>(opaque); };
  reset_error();
  if (is_close(event)) {
    using Register = int (*)(void*, void (*)(), void*, abi::FreeCallback);
    if (reinterpret_cast<Register>(function)(connection, event.callback, holder.get(), nullptr) < 0)
      throw last_error(names.add);
    one.holder = std::move(holder);
    return;
  }
  if (event.family == EventFamily::qemu_monitor) {
    using Register = int (*)(void*, void*, const char*, void (*)(), void*, abi::FreeCallback, unsigned);
    one.number =
        reinterpret_cast<Register>(function)(connection, object, topic.name ? topic.name->c_str() : nullptr,
                                             event.callback, holder.get(), free_holder, topic.flags);
  } else {
    using Register = int (*)(void*, void*, int, void (*)(), void*, abi::FreeCallback);
    one.number = reinterpret_cast<Register>(function)(connection, object, event.id, event.callback,
                                                      holder.get(), free_holder);
  }
  if (one.number < 0) throw last_error(names.add);
  holder.release();  // libvirt frees it
}

void remove_from_libvirt(const EventTopic& topic, void* connection, const Registered& one) {
  const FamilyFunctions names = functions_of(topic.event->family);
  void* function = loader().symbol(names.library, names.remove, topic.event->since);
  if (is_close(*topic.event))
    reinterpret_cast<int (*)(void*, void (*)())>(function)(connection, topic.event->callback);
  else
    reinterpret_cast<int (*)(void*, int)>(function)(connection, one.number);
}

}  // namespace

std::string event_object_id(Class type, void* object) {
  if (type == Class::node_device) {
    const char* name = loader().get<const char*(void*)>("virNodeDeviceGetName")(object);
    return name ? name : "";
  }
  const char* function = type == Class::network        ? "virNetworkGetUUIDString"
                         : type == Class::storage_pool ? "virStoragePoolGetUUIDString"
                         : type == Class::secret       ? "virSecretGetUUIDString"
                                                       : "virDomainGetUUIDString";
  char text[37] = {};
  reset_error();
  if (loader().get<int(void*, char*)>(function)(object, text) < 0) throw last_error(function);
  return text;
}

void join_event_hub(const EventTopic& topic, void* connection, void* object,
                    const std::shared_ptr<EventTarget>& listener) {
  Use use(connection);
  std::lock_guard lock(use.hubs().mutex);
  auto& hubs = use.hubs().hubs;
  Registered& one = hubs[topic];
  if (one.hub) {
    one.hub->add(listener);
  } else {
    one.hub = std::make_shared<Hub>();
    one.hub->add(listener);
    try {
      add_to_libvirt(topic, connection, object, one);
    } catch (...) {
      hubs.erase(topic);
      throw;
    }
  }
  use.keep();
}

void leave_event_hub(const EventTopic& topic, void* connection, const EventTarget* listener) {
  {
    Use use(connection);
    std::lock_guard lock(use.hubs().mutex);
    auto& hubs = use.hubs().hubs;
    const auto found = hubs.find(topic);
    if (found == hubs.end() || !found->second.hub->remove(listener)) return;
    if (found->second.hub->empty()) {
      remove_from_libvirt(topic, connection, found->second);
      hubs.erase(found);
    }
  }
  Use::drop(connection);
}

void deliver_event(void* opaque, const Event& event, const Slot* slots) {
  // Kept while it runs: libvirt may free the holder meanwhile.
  const Holder target = *static_cast<Holder*>(opaque);
  target->deliver(event, slots);
}

}  // namespace hypertwin::libvirt
