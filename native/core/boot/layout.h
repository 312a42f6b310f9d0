// What the boot protocols share: where the boot data lie in guest RAM, and how the command line, the initrd
// and the memory map get there.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "boot/kernel.h"
#include "devices/guest_ram.h"

namespace hypertwin::boot {

// Below the EBDA, above the real-mode IVT and BDA, out of the way of kernels.
inline constexpr uint64_t kBootDataBegin = 0x6000;
inline constexpr uint64_t kStartInfo = 0x6000;
inline constexpr uint64_t kSetupData = 0x6000;
inline constexpr uint64_t kMemoryMap = 0x6100;
inline constexpr uint64_t kModules = 0x6f00;
inline constexpr uint64_t kCommandLine = 0x7000;
inline constexpr uint64_t kCommandLineMax = 4096;
inline constexpr uint64_t kZeroPage = 0x8000;
inline constexpr uint64_t kGdt = 0x9000;
inline constexpr uint64_t kLowMemoryEnd = 0x9f000;
inline constexpr uint64_t kHighMemory = 0x100000;

[[noreturn]] void bad_kernel(const std::string& what);

// The bytes at `offset` of a hostile file.
template <class T>
T file_at(std::span<const uint8_t> file, uint64_t offset, const char* what) {
  if (offset > file.size() || file.size() - offset < sizeof(T))
    bad_kernel(std::string(what) + " lies outside the file");
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

template <class T>
void put(devices::GuestRam& ram, uint64_t address, const T& value) {
  if (!ram.store(address, value))
    throw Error("NO_MEMORY", "the machine's memory is too small for its boot data");
}

struct MemoryRange {
  uint64_t address = 0;
  uint64_t size = 0;
  bool ram = true;  // else reserved
};
std::vector<MemoryRange> memory_map(const devices::GuestRam& ram);

// NUL-terminated at kCommandLine. `limit`: of bytes without the NUL.
void put_command_line(devices::GuestRam& ram, const std::string& text, uint64_t limit);

// As high as it fits below `below` in the first region; gives its address. It does not reach into
// [kernel_begin, kernel_end).
uint64_t put_initrd(devices::GuestRam& ram, std::span<const uint8_t> initrd, uint64_t kernel_begin,
                    uint64_t kernel_end, uint64_t below);

}  // namespace hypertwin::boot
