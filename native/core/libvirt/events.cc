#include "libvirt/events.h"

#include <chrono>
#include <utility>

#include "libvirt/abi.h"
#include "libvirt/close_hub.h"
#include "libvirt/error.h"
#include "libvirt/handle.h"
#include "libvirt/loader.h"
#include "libvirt/pool.h"
#include "libvirt/scalars.h"
#include "libvirt/structs.h"
#include "libvirt/typed.h"

namespace hypertwin::libvirt {

namespace {

struct FamilyFunctions {
  const char* add;
  const char* remove;
};

FamilyFunctions functions_of(EventFamily family) {
  switch (family) {
    case EventFamily::domain:
      return {"virConnectDomainEventRegisterAny", "virConnectDomainEventDeregisterAny"};
    case EventFamily::network:
      return {"virConnectNetworkEventRegisterAny", "virConnectNetworkEventDeregisterAny"};
    case EventFamily::storage_pool:
      return {"virConnectStoragePoolEventRegisterAny", "virConnectStoragePoolEventDeregisterAny"};
    case EventFamily::node_device:
      return {"virConnectNodeDeviceEventRegisterAny", "virConnectNodeDeviceEventDeregisterAny"};
    case EventFamily::secret:
      return {"virConnectSecretEventRegisterAny", "virConnectSecretEventDeregisterAny"};
    case EventFamily::qemu_monitor:
      return {"virConnectDomainQemuMonitorEventRegister", "virConnectDomainQemuMonitorEventDeregister"};
    case EventFamily::close:
    case EventFamily::adm_close:
      break;
  }
  return {};
}

Library library_of(EventFamily family) {
  return family == EventFamily::qemu_monitor ? Library::qemu : Library::main;
}

bool is_close(EventFamily family) { return family == EventFamily::close || family == EventFamily::adm_close; }

double now_ms() {
  using namespace std::chrono;
  return static_cast<double>(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
}

Value read_argument(const EventParam& param, const Slot& slot, const Slot* next) {
  switch (param.kind) {
    case Kind::in_value:
      return read_scalar(param.scalar, &slot);
    case Kind::in_string:
      return slot.p ? Value(std::string(static_cast<const char*>(slot.p))) : Value(Undefined{});
    case Kind::in_struct:
      return slot.p ? read_struct(structs()[param.type], slot.p) : Value(Undefined{});
    case Kind::in_typed: {
      const int count = next ? next->i : 0;
      return Value(slot.p && count > 0 ? read_typed_list(static_cast<const abi::TypedParameter*>(slot.p),
                                                         static_cast<size_t>(count))
                                       : Object());
    }
    default:
      return Value(Undefined{});
  }
}

Object read_arguments(const Event& event, const Slot* slots) {
  Object out;
  for (size_t i = 0; i < event.params.size(); ++i) {
    const EventParam& param = event.params[i];
    if (param.kind == Kind::length) continue;
    const Slot* next = i + 1 < event.params.size() ? &slots[3 + i] : nullptr;
    out.emplace_back(param.name, read_argument(param, slots[2 + i], next));
  }
  return out;
}

}  // namespace

const Event* find_event(EventFamily family, int id) {
  for (const Event& event : events())
    if (event.family == family && event.id == id) return &event;
  return nullptr;
}

void deliver_event(void* opaque, const Event& event, const Slot* slots) {
  // Kept while it runs: libvirt may free the holder meanwhile.
  const std::shared_ptr<EventTarget> target = *static_cast<std::shared_ptr<EventTarget>*>(opaque);
  try {
    target->deliver(event, slots);
  } catch (const std::exception&) {
    // Out of memory, or an object that cannot be referenced any more: this one record is lost, libvirt's
    // thread must go on.
  }
}

void Subscription::deliver(const Event& event, const Slot* slots) {
  EventRecord record;
  record.event = &event;
  record.time = now_ms();
  if (event.object != Class::none && slots[1].p)
    record.object = {event.object, Handle::share(event.object, slots[1].p)};
  record.arguments = read_arguments(event, slots);
  bool first = false;
  EventRecord oldest;  // destroyed without the lock
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    record.sequence = ++sequence_;
    first = waiting_.empty();
    if (waiting_.size() >= options_.limit) {
      oldest = std::move(waiting_.front());
      waiting_.pop_front();
      EventRecord& next = waiting_.empty() ? record : waiting_.front();
      next.dropped += oldest.dropped + 1;
    }
    waiting_.push_back(std::move(record));
  }
  if (first && options_.notify) options_.notify();
}

std::vector<EventRecord> Subscription::take() {
  std::lock_guard lock(mutex_);
  std::vector<EventRecord> out(std::make_move_iterator(waiting_.begin()),
                               std::make_move_iterator(waiting_.end()));
  waiting_.clear();
  return out;
}

void Subscription::register_it() {
  const Event& event = *options_.event;
  if (event.since > loader().version())
    throw Error("LIBVIRT_TOO_OLD", std::string("the event ") + event.name + " came with libvirt " +
                                       version_text(event.since) + ", and this is libvirt " +
                                       version_text(loader().version()) + ": it takes a newer libvirt");
  void* connection = options_.connection->object();
  if (is_close(event.family)) {
    join_close_hub(event, connection, shared_from_this());
    return;
  }
  const std::shared_ptr<Handle> about = std::exchange(options_.object, nullptr);
  void* object = about ? about->object() : nullptr;
  const char* name = functions_of(event.family).add;
  void* function = loader().symbol(library_of(event.family), name, event.since);
  auto holder = std::make_unique<std::shared_ptr<EventTarget>>(shared_from_this());
  const abi::FreeCallback free_holder = [](void* opaque) {
    delete static_cast<std::shared_ptr<EventTarget>*>(opaque);
  };
  reset_error();
  if (event.family == EventFamily::qemu_monitor) {
    using Register = int(void*, void*, const char*, void (*)(), void*, abi::FreeCallback, unsigned);
    callback_ = reinterpret_cast<Register*>(function)(
        connection, object, options_.name ? options_.name->c_str() : nullptr, event.callback, holder.get(),
        free_holder, options_.flags);
  } else {
    using Register = int(void*, void*, int, void (*)(), void*, abi::FreeCallback);
    callback_ = reinterpret_cast<Register*>(function)(connection, object, event.id, event.callback,
                                                      holder.get(), free_holder);
  }
  if (callback_ < 0) throw last_error(name);
  holder.release();  // libvirt frees it
}

void Subscription::deregister() {
  const Event& event = *options_.event;
  void* connection = options_.connection->object();
  if (is_close(event.family)) {
    leave_close_hub(event, connection, this);
    return;
  }
  using Deregister = int(void*, int);
  loader().get<Deregister>(functions_of(event.family).remove, event.since, library_of(event.family))(
      connection, callback_);
}

void Subscription::start() {
  register_it();
  {
    std::lock_guard lock(mutex_);
    registered_ = !stopped_;
    if (registered_) return;
  }
  deregister();
  throw Error("CLOSED", "closed before the subscription began");
}

void Subscription::stop(std::function<void()> done) {
  std::deque<EventRecord> dropped;  // destroyed without the lock
  bool registered = false;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(waiting_);
    registered = std::exchange(registered_, false);
  }
  pool().post(Lane::quick, [self = shared_from_this(), registered, done = std::move(done)] {
    if (registered) self->deregister();
    if (done) done();
  });
}

}  // namespace hypertwin::libvirt
