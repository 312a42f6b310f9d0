#include "libvirt/handle.h"

#include <atomic>
#include <utility>

#include "libvirt/error.h"
#include "libvirt/loader.h"
#include "libvirt/pool.h"

namespace hypertwin::libvirt {

namespace {

std::atomic<size_t> count{0};

// Each class's functions, looked up once: an object of the class is there, so its library is.
void* class_function(std::atomic<void*>& kept, Library library, const char* name) {
  void* function = kept.load(std::memory_order_acquire);
  if (!function) {
    function = loader().symbol(library, name, 1000);
    kept.store(function, std::memory_order_release);
  }
  return function;
}

std::atomic<void*> abort_function;
std::atomic<void*> free_functions[static_cast<size_t>(Class::count)];
std::atomic<void*> ref_functions[static_cast<size_t>(Class::count)];

using Status = int (*)(void*);

}  // namespace

size_t handle_count() { return count.load(); }

std::shared_ptr<Handle> Handle::adopt(Class type, void* object) {
  count.fetch_add(1);
  return std::make_shared<Handle>(Token{}, type, object);
}

std::shared_ptr<Handle> Handle::share(Class type, void* object) {
  const auto index = static_cast<size_t>(type);
  const ClassInfo& info = classes()[index];
  if (!info.ref) throw Error("EINTERNAL", std::string(info.name) + " has no references to share");
  auto* ref = reinterpret_cast<Status>(class_function(ref_functions[index], info.library, info.ref));
  if (ref(object) < 0) throw last_error(info.ref);
  return adopt(type, object);
}

void Handle::when_freed(std::function<void()> run) {
  std::lock_guard lock(mutex_);
  freed_.push_back(std::move(run));
}

Handle::~Handle() {
  const Pool::Task drop = [type = type_, object = object_, freed = freed_] {
    const auto index = static_cast<size_t>(type);
    const ClassInfo& info = classes()[index];
    const auto function = [&](std::atomic<void*>& kept, const char* name) {
      return reinterpret_cast<Status>(class_function(kept, info.library, name));
    };
    // A call that opened it may have ended after its owner closed it.
    if (type == Class::stream) function(abort_function, "virStreamAbort")(object);
    function(free_functions[index], info.free)(object);
    count.fetch_sub(1);
    for (const auto& run : freed) run();
  };
  // Closing a connection waits for the daemon's answer, as does the abort of a stream.
  const bool connection = type_ == Class::connect || type_ == Class::adm_connect;
  const Lane own = connection ? Lane::slow : type_ == Class::stream ? Lane::stream : Lane::quick;
  for (const Lane lane : {own, Lane::quick, Lane::slow, Lane::stream})
    if (pool().post(lane, drop)) return;
  // The system gives no thread: this one may not wait for a daemon, so the reference stays for ever.
  for (const auto& run : freed_) run();
}

}  // namespace hypertwin::libvirt
