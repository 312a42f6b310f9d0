// Any bytes as a kernel: load_kernel throws Error or fills RAM, and touches nothing else.
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "boot/kernel.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kRam = 4u << 20;
  static std::vector<uint8_t> memory(kRam + 8192);
  auto* base =
      reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 4095) & ~uintptr_t{4095});
  hypertwin::devices::GuestRam ram({{.guest_address = 0, .size = kRam, .host = base, .slot = 0}});
  try {
    hypertwin::boot::load_kernel(ram, {{data, size}, {data, size / 2}, "console=ttyS0"});
  } catch (const hypertwin::Error&) {
  }
  return 0;
}
