#include "libvirt/event_loop.h"

#include <dlfcn.h>

#include <chrono>
#include <thread>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/threads.h"

namespace hypertwin::libvirt {

namespace {

thread_local bool is_event_loop = false;

void on_timer(int, void*) {}

}  // namespace

bool on_event_loop() { return is_event_loop; }

void start_event_loop(void* libvirt) {
  auto* add_timeout = reinterpret_cast<int (*)(int, void (*)(int, void*), void*, abi::FreeCallback)>(
      ::dlsym(libvirt, "virEventAddTimeout"));
  auto* register_default = reinterpret_cast<int (*)()>(::dlsym(libvirt, "virEventRegisterDefaultImpl"));
  auto* run = reinterpret_cast<int (*)()>(::dlsym(libvirt, "virEventRunDefaultImpl"));
  if (!add_timeout || !register_default || !run)
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
