// Linux's x86 boot protocol from version 2.10 on, entered at its 32-bit entry point
// (Documentation/arch/x86/boot.rst).
#include <algorithm>
#include <array>
#include <cstring>

#include "base/random.h"
#include "boot/kernel.h"
#include "boot/layout.h"

namespace hypertwin::boot {

namespace {

// Offsets in the file, which are those in boot_params too.
constexpr uint64_t kSetupSectors = 0x1f1, kJump = 0x201, kMagic = 0x202, kVersion = 0x206,
                   kLoaderType = 0x210, kLoadFlags = 0x211, kCode32Start = 0x214, kRamdiskImage = 0x218,
                   kRamdiskSize = 0x21c, kCommandLinePointer = 0x228, kInitrdMax = 0x22c,
                   kCommandLineSize = 0x238, kSetupDataPointer = 0x250, kPreferredAddress = 0x258,
                   kInitSize = 0x260;
// In boot_params alone.
constexpr uint64_t kRsdp = 0x070, kE820Entries = 0x1e8, kE820Table = 0x2d0;
constexpr size_t kE820Size = 20, kE820Max = 128;
constexpr uint32_t kHdrS = 0x53726448;
constexpr uint8_t kLoadedHigh = 1, kOtherLoader = 0xff;
constexpr uint32_t kRandomSeed = 9;  // SETUP_RNG_SEED, of Linux 6.0; older ones take no notice

// One of a list; its data follow.
struct SetupData {
  uint64_t next = 0;
  uint32_t type = 0;
  uint32_t size = 0;
};

template <class T>
void set(std::array<uint8_t, 4096>& page, uint64_t offset, T value) {
  std::memcpy(page.data() + offset, &value, sizeof(T));
}

}  // namespace

bool is_bzimage(std::span<const uint8_t> file) {
  uint32_t magic = 0;
  if (file.size() < kMagic + sizeof(magic)) return false;
  std::memcpy(&magic, file.data() + kMagic, sizeof(magic));
  return magic == kHdrS;
}

Entry load_bzimage(devices::GuestRam& ram, const Image& image) {
  const auto file = image.kernel;
  const uint16_t version = file_at<uint16_t>(file, kVersion, "the boot protocol's version");
  if (version < 0x020a) bad_kernel("its boot protocol is older than 2.10");
  if (!(file_at<uint8_t>(file, kLoadFlags, "the load flags") & kLoadedHigh))
    bad_kernel("it is a zImage, which is loaded below 1 MiB");
  const uint8_t sectors = file_at<uint8_t>(file, kSetupSectors, "the setup's size");
  const uint64_t setup_size = (uint64_t{sectors ? sectors : 4u} + 1) * 512;
  if (setup_size >= file.size()) bad_kernel("it has no protected-mode part");
  const auto code = file.subspan(setup_size);

  // The decompressor moves itself to the end of init_size bytes from the preferred address on.
  const uint64_t preferred = file_at<uint64_t>(file, kPreferredAddress, "the preferred address");
  const uint64_t init_size = file_at<uint32_t>(file, kInitSize, "the initial size");
  const uint64_t run = std::max(preferred, kHighMemory);
  const uint64_t end = std::max(run + init_size, kHighMemory + code.size());
  if (run + init_size < run || !ram.contains(kHighMemory, end - kHighMemory))
    throw Error("NO_MEMORY", "the machine's memory is too small: the kernel needs memory up to " +
                                 std::to_string(end >> 20) + " MiB");
  if (!ram.write(kHighMemory, code)) bad_kernel("it does not fit in RAM");

  const uint32_t line_size = file_at<uint32_t>(file, kCommandLineSize, "the command line's size");
  put_command_line(ram, image.command_line, std::min<uint64_t>(line_size, kCommandLineMax - 1));

  std::array<uint8_t, 4096> page{};
  const uint64_t header_end =
      std::min<uint64_t>(kMagic + file_at<uint8_t>(file, kJump, "the header's size"), kE820Table);
  if (header_end > file.size()) bad_kernel("its header lies outside the file");
  std::copy(file.begin() + kSetupSectors, file.begin() + static_cast<ptrdiff_t>(header_end),
            page.begin() + kSetupSectors);
  set<uint8_t>(page, kLoaderType, kOtherLoader);
  set<uint32_t>(page, kCode32Start, kHighMemory);
  set<uint32_t>(page, kCommandLinePointer, kCommandLine);
  set<uint32_t>(page, kRamdiskImage, 0);
  set<uint32_t>(page, kRamdiskSize, 0);
  if (!image.initrd.empty()) {
    const uint64_t max = file_at<uint32_t>(file, kInitrdMax, "the initrd's highest address");
    set(page, kRamdiskImage, static_cast<uint32_t>(put_initrd(ram, image.initrd, run, end, max + 1)));
    set(page, kRamdiskSize, static_cast<uint32_t>(image.initrd.size()));
  }
  set<uint64_t>(page, kSetupDataPointer, 0);
  if (!image.seed.empty()) {
    const SetupData header{.type = kRandomSeed, .size = static_cast<uint32_t>(image.seed.size())};
    put(ram, kSetupData, header);
    if (!ram.write(kSetupData + sizeof(header), image.seed)) bad_kernel("its seed does not fit");
    set(page, kSetupDataPointer, kSetupData);
  }
  set(page, kRsdp, image.rsdp);
  const auto map = memory_map(ram);
  const size_t entries = std::min(map.size(), kE820Max);
  set(page, kE820Entries, static_cast<uint8_t>(entries));
  for (size_t i = 0; i < entries; ++i) {
    const uint64_t at = kE820Table + i * kE820Size;
    set(page, at, map[i].address);
    set(page, at + 8, map[i].size);
    set<uint32_t>(page, at + 16, map[i].ram ? 1 : 2);
  }
  put(ram, kZeroPage, page);

  // Null, unused, flat code (0x10), flat data (0x18).
  const std::array<uint64_t, 4> gdt{0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
  put(ram, kGdt, gdt);
  return {.rip = kHighMemory, .rsi = kZeroPage, .gdt = kGdt, .gdt_limit = sizeof(gdt) - 1};
}

Seed new_seed() {
  Seed seed;
  fill_random(seed, "for the guest's kernel");
  return seed;
}

Entry load_kernel(devices::GuestRam& ram, const Image& image) {
  return is_bzimage(image.kernel) ? load_bzimage(ram, image) : load_pvh(ram, image);
}

}  // namespace hypertwin::boot
