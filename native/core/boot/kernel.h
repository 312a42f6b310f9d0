// Puts a kernel into guest RAM and says how to start it: an ELF file with a PVH entry (guests of ours,
// vmlinux) or Linux's bzImage. The file is hostile input. Sets no vCPU state itself.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "devices/guest_ram.h"

namespace hypertwin::boot {

// How the first vCPU starts: 32-bit protected mode, paging off, interrupts off, flat segments.
struct Entry {
  uint64_t rip = 0;  // physical
  uint64_t rbx = 0;  // PVH: physical address of hvm_start_info
  uint64_t rsi = 0;  // bzImage: physical address of boot_params
  // Linux wants its flat segments (code 0x10, data 0x18) in a table; 0: any will do.
  uint64_t gdt = 0;
  uint16_t gdt_limit = 0;
};

struct Image {
  std::span<const uint8_t> kernel;
  std::span<const uint8_t> initrd;
  std::string command_line;
  uint64_t rsdp = 0;                   // physical address of ACPI's root pointer; 0: no ACPI
  std::span<const uint8_t> seed = {};  // for the kernel's random numbers; PVH has no place for it
};

using Seed = std::array<uint8_t, 32>;
Seed new_seed();

// Loads the kernel, the initrd (as high as it fits), the command line, the memory map and what the protocol
// wants. Throws Error("BAD_KERNEL") saying what is wrong with the file, or "NO_MEMORY" when the RAM is too
// small.
Entry load_kernel(devices::GuestRam& ram, const Image& image);

// The two protocols.
Entry load_pvh(devices::GuestRam& ram, const Image& image);
Entry load_bzimage(devices::GuestRam& ram, const Image& image);
bool is_bzimage(std::span<const uint8_t> file);

}  // namespace hypertwin::boot
