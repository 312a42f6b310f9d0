#include "boot/pvh.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"

namespace hypertwin::boot {

namespace {

// Where the boot data lie: below the EBDA, above the real-mode IVT and BDA, out of the way of kernels.
constexpr uint64_t kStartInfo = 0x6000;
constexpr uint64_t kMemoryMap = 0x6100;
constexpr uint64_t kModules = 0x6f00;
constexpr uint64_t kCommandLine = 0x7000;
constexpr uint64_t kCommandLineMax = 4096;
constexpr uint64_t kLowMemoryEnd = 0x9f000;
constexpr uint64_t kHighMemory = 0x100000;

// The boot protocol's structures (Xen's public PVH interface, arch-x86/hvm/start_info.h).
struct StartInfo {
  uint32_t magic = 0x336ec578;
  uint32_t version = 1;
  uint32_t flags = 0;
  uint32_t module_count = 0;
  uint64_t modules = 0;
  uint64_t command_line = 0;
  uint64_t rsdp = 0;
  uint64_t memory_map = 0;
  uint32_t memory_map_entries = 0;
  uint32_t reserved = 0;
};
struct Module {
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t command_line = 0;
  uint64_t reserved = 0;
};
struct MemoryMapEntry {
  uint64_t address = 0;
  uint64_t size = 0;
  uint32_t type = 0;
  uint32_t reserved = 0;
};
constexpr uint32_t kTypeRam = 1;
constexpr uint32_t kTypeReserved = 2;
constexpr uint32_t kNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

[[noreturn]] void bad(const std::string& what) {
  throw Error("BAD_KERNEL", "the kernel cannot be loaded: " + what);
}

template <class T>
T at(std::span<const uint8_t> file, uint64_t offset, const char* what) {
  if (offset > file.size() || file.size() - offset < sizeof(T))
    bad(std::string(what) + " lies outside the file");
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

std::optional<uint32_t> find_entry(std::span<const uint8_t> notes) {
  uint64_t offset = 0;
  while (notes.size() - offset >= sizeof(Elf64_Nhdr)) {
    auto header = at<Elf64_Nhdr>(notes, offset, "a note");
    offset += sizeof(header);
    uint64_t name_size = (uint64_t{header.n_namesz} + 3) & ~uint64_t{3};
    uint64_t desc_size = (uint64_t{header.n_descsz} + 3) & ~uint64_t{3};
    if (name_size > notes.size() - offset || desc_size > notes.size() - offset - name_size)
      return std::nullopt;
    bool xen = header.n_namesz == 4 && std::memcmp(notes.data() + offset, "Xen", 4) == 0;
    if (xen && header.n_type == kNotePhys32Entry && header.n_descsz >= 4)
      return at<uint32_t>(notes, offset + name_size, "the PVH note");
    offset += name_size + desc_size;
  }
  return std::nullopt;
}

template <class T>
void put(devices::GuestRam& ram, uint64_t address, const T& value) {
  if (!ram.store(address, value))
    throw Error("NO_MEMORY", "the machine's memory is too small for its boot data");
}

}  // namespace

Entry load_pvh(devices::GuestRam& ram, const Image& image) {
  const auto file = image.kernel;
  auto header = at<Elf64_Ehdr>(file, 0, "the ELF header");
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    bad("it is not an ELF file (extract vmlinux from a bzImage)");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    bad("it is not a 64-bit x86 ELF file");
  if (header.e_phentsize != sizeof(Elf64_Phdr)) bad("its program headers have an unknown size");

  std::optional<uint32_t> entry;
  uint64_t end_of_kernel = kHighMemory;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    uint64_t where = header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr);
    if (where < header.e_phoff) bad("a program header lies outside the file");
    auto segment = at<Elf64_Phdr>(file, where, "a program header");
    if (segment.p_type != PT_LOAD && segment.p_type != PT_NOTE) continue;
    if (segment.p_offset > file.size() || segment.p_filesz > file.size() - segment.p_offset)
      bad("a segment lies outside the file");
    auto bytes = file.subspan(segment.p_offset, segment.p_filesz);
    if (segment.p_type == PT_NOTE) {
      if (!entry) entry = find_entry(bytes);
      continue;
    }
    if (segment.p_memsz < segment.p_filesz) bad("a segment is larger in the file than in memory");
    if (segment.p_memsz == 0) continue;
    if (segment.p_paddr < kHighMemory && segment.p_paddr + segment.p_memsz > kStartInfo)
      bad("a segment lies below 1 MiB, where the boot data go");
    if (!ram.contains(segment.p_paddr, segment.p_memsz))
      throw Error("NO_MEMORY", "the machine's memory is too small: the kernel needs memory up to " +
                                   std::to_string((segment.p_paddr + segment.p_memsz) >> 20) + " MiB");
    if (!bytes.empty() && !ram.write(segment.p_paddr, bytes)) bad("a segment lies outside RAM");
    end_of_kernel = std::max<uint64_t>(end_of_kernel, segment.p_paddr + segment.p_memsz);
  }
  if (!entry) bad("it has no PVH entry note (for Linux: CONFIG_PVH)");
  if (!ram.contains(*entry, 1)) bad("its PVH entry lies outside RAM");

  if (image.command_line.size() >= kCommandLineMax)
    throw Error("BAD_CONFIG", "the command line is longer than 4095 bytes");
  std::vector<uint8_t> command_line(image.command_line.begin(), image.command_line.end());
  command_line.push_back(0);
  if (!ram.write(kCommandLine, command_line))
    throw Error("NO_MEMORY", "the machine has no memory below 640 KiB");

  StartInfo info;
  info.command_line = kCommandLine;
  if (!image.initrd.empty()) {
    const auto& low = ram.regions().front();
    uint64_t top = low.guest_address + low.size;
    uint64_t size = image.initrd.size();
    if (size > top || ((top - size) & ~uint64_t{0xfff}) < end_of_kernel)
      throw Error("NO_MEMORY", "the machine's memory is too small for kernel and initrd");
    uint64_t address = (top - size) & ~uint64_t{0xfff};
    if (!ram.write(address, image.initrd)) throw Error("NO_MEMORY", "the initrd does not fit");
    put(ram, kModules, Module{address, size, 0, 0});
    info.modules = kModules;
    info.module_count = 1;
  }

  std::vector<MemoryMapEntry> map;
  for (const auto& region : ram.regions()) {
    uint64_t begin = region.guest_address;
    uint64_t end = begin + region.size;
    if (begin == 0) {
      map.push_back({0, std::min(kLowMemoryEnd, end), kTypeRam, 0});
      map.push_back({kLowMemoryEnd, kHighMemory - kLowMemoryEnd, kTypeReserved, 0});
      begin = kHighMemory;
    }
    if (end > begin) map.push_back({begin, end - begin, kTypeRam, 0});
  }
  for (size_t i = 0; i < map.size(); ++i) put(ram, kMemoryMap + i * sizeof(MemoryMapEntry), map[i]);
  info.memory_map = kMemoryMap;
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  put(ram, kStartInfo, info);
  return {*entry, kStartInfo};
}

}  // namespace hypertwin::boot
