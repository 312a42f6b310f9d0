// Puts an ELF kernel with a PVH entry (guests of ours, vmlinux) into guest RAM and says how to start it.
// The ELF file is hostile input. Sets no vCPU state itself.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "devices/guest_ram.h"

namespace hypertwin::boot {

struct Entry {
  // Physical address of the first instruction: 32-bit protected mode, paging off.
  uint64_t rip = 0;
  // Physical address of hvm_start_info, for EBX.
  uint64_t start_info = 0;
};

struct Image {
  std::span<const uint8_t> kernel;
  std::span<const uint8_t> initrd;
  std::string command_line;
};

// Loads the segments, the initrd (as high as it fits), the command line, the memory map and
// hvm_start_info. Throws Error("BAD_KERNEL") saying what is wrong with the file, or "NO_MEMORY" when the RAM
// is too small.
Entry load_pvh(devices::GuestRam& ram, const Image& image);

}  // namespace hypertwin::boot
