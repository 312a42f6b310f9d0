#include "boot/layout.h"

#include <algorithm>

namespace hypertwin::boot {

void bad_kernel(const std::string& what) {
  throw Error("BAD_KERNEL", "the kernel cannot be loaded: " + what);
}

std::vector<MemoryRange> memory_map(const devices::GuestRam& ram) {
  std::vector<MemoryRange> map;
  for (const auto& region : ram.regions()) {
    uint64_t begin = region.guest_address;
    const uint64_t end = begin + region.size;
    if (begin == 0) {
      map.push_back({0, std::min(kLowMemoryEnd, end), true});
      map.push_back({kLowMemoryEnd, kHighMemory - kLowMemoryEnd, false});
      begin = kHighMemory;
    }
    if (end > begin) map.push_back({begin, end - begin, true});
  }
  return map;
}

void put_command_line(devices::GuestRam& ram, const std::string& text, uint64_t limit) {
  if (text.size() > limit)
    throw Error("BAD_CONFIG", "the command line is longer than the " + std::to_string(limit) +
                                  " bytes that this kernel takes");
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.push_back(0);
  if (!ram.write(kCommandLine, bytes)) throw Error("NO_MEMORY", "the machine has no memory below 640 KiB");
}

uint64_t put_initrd(devices::GuestRam& ram, std::span<const uint8_t> initrd, uint64_t kernel_begin,
                    uint64_t kernel_end, uint64_t below) {
  const auto& low = ram.regions().front();
  const uint64_t top = std::min(low.guest_address + low.size, below);
  const uint64_t size = initrd.size();
  auto fits = [&](uint64_t floor, uint64_t ceiling) {
    return size <= ceiling && ((ceiling - size) & ~uint64_t{0xfff}) >= floor;
  };
  uint64_t ceiling = top;
  if (!fits(kernel_end, top)) {
    ceiling = std::min(top, kernel_begin);
    if (!fits(kHighMemory, ceiling))
      throw Error("NO_MEMORY", "the machine's memory is too small for kernel and initrd");
  }
  const uint64_t address = (ceiling - size) & ~uint64_t{0xfff};
  if (!ram.write(address, initrd)) throw Error("NO_MEMORY", "the initrd does not fit");
  return address;
}

}  // namespace hypertwin::boot
