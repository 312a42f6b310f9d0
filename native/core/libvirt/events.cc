#include "libvirt/events.h"

#include <chrono>
#include <utility>

#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/handle.h"
#include "libvirt/loader.h"
#include "libvirt/pool.h"
#include "libvirt/scalars.h"
#include "libvirt/structs.h"
#include "libvirt/typed.h"

namespace hypertwin::libvirt {

namespace {

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

void Subscription::start() {
  const Event& event = *options_.event;
  if (event.since > loader().version())
    throw Error("LIBVIRT_TOO_OLD", std::string("the event ") + event.name + " came with libvirt " +
                                       version_text(event.since) + ", and this is libvirt " +
                                       version_text(loader().version()) + ": it takes a newer libvirt");
  const std::shared_ptr<Handle> about = std::exchange(options_.object, nullptr);
  void* object = about ? about->object() : nullptr;
  topic_.event = &event;
  if (object) topic_.object = event_object_id(event.object, object);
  topic_.name = options_.name;
  topic_.flags = options_.flags;
  join_event_hub(topic_, options_.connection->object(), object, shared_from_this());
  {
    std::lock_guard lock(mutex_);
    registered_ = !stopped_;
    if (registered_) return;
  }
  leave_event_hub(topic_, options_.connection->object(), this);
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
  const bool posted = pool().post(Lane::quick, [self = shared_from_this(), registered, done] {
    if (registered) leave_event_hub(self->topic_, self->options_.connection->object(), self.get());
    if (done) done();
  });
  // Without a thread it stays registered, and takes nothing any more.
  if (!posted && done) done();
}

}  // namespace hypertwin::libvirt
