#include "libvirt/event_loop.h"

#include <dlfcn.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/threads.h"

namespace hypertwin::libvirt {

namespace {

using AddTimeout = int (*)(int, void (*)(int, void*), void*, abi::FreeCallback);
using RemoveTimeout = int (*)(int);
using Passed = std::promise<void>;

thread_local bool is_event_loop = false;
// Set before the loop starts.
AddTimeout add_timeout = nullptr;
RemoveTimeout remove_timeout = nullptr;

void on_timer(int, void*) {}

void on_pass(int timer, void* opaque) {
  const auto passed = *static_cast<std::shared_ptr<Passed>*>(opaque);
  remove_timeout(timer);
  passed->set_value();
}

}  // namespace

bool on_event_loop() { return is_event_loop; }

void pass_event_loop() {
  const auto passed = std::make_shared<Passed>();
  auto holder = std::make_unique<std::shared_ptr<Passed>>(passed);
  const abi::FreeCallback free_holder = [](void* opaque) {
    delete static_cast<std::shared_ptr<Passed>*>(opaque);
  };
  if (add_timeout(0, on_pass, holder.get(), free_holder) < 0) return;
  holder.release();  // libvirt frees it
  passed->get_future().wait();
}

void start_event_loop(void* libvirt) {
  add_timeout = reinterpret_cast<AddTimeout>(::dlsym(libvirt, "virEventAddTimeout"));
  remove_timeout = reinterpret_cast<RemoveTimeout>(::dlsym(libvirt, "virEventRemoveTimeout"));
  auto* register_default = reinterpret_cast<int (*)()>(::dlsym(libvirt, "virEventRegisterDefaultImpl"));
  auto* run = reinterpret_cast<int (*)()>(::dlsym(libvirt, "virEventRunDefaultImpl"));
  if (!add_timeout || !remove_timeout || !register_default || !run)
    throw Error("LIBVIRT_MISSING",
                "opening libvirt: libvirt.so.0 has no event loop; it must be 0.9.0 or later");
  if (register_default() < 0)
    throw Error("LIBVIRT_MISSING", "opening libvirt: its event loop cannot be registered");
  // A loop with nothing to wait for would not come round to see what was added behind its back.
  add_timeout(5000, on_timer, nullptr, nullptr);
  start_thread("ht-virt-event", [run] {
    is_event_loop = true;
    for (;;) {
      park_at_exit();
      // What can fail is a descriptor that its owner closed too early; the next round works again.
      if (run() < 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
}

}  // namespace hypertwin::libvirt
