// Xen's public PVH boot protocol.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "boot/kernel.h"
#include "boot/layout.h"

namespace hypertwin::boot {

namespace {

// arch-x86/hvm/start_info.h.
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

std::optional<uint32_t> find_entry(std::span<const uint8_t> notes) {
  uint64_t offset = 0;
  while (notes.size() - offset >= sizeof(Elf64_Nhdr)) {
    auto header = file_at<Elf64_Nhdr>(notes, offset, "a note");
    offset += sizeof(header);
    uint64_t name_size = (uint64_t{header.n_namesz} + 3) & ~uint64_t{3};
    uint64_t desc_size = (uint64_t{header.n_descsz} + 3) & ~uint64_t{3};
    if (name_size > notes.size() - offset || desc_size > notes.size() - offset - name_size)
      return std::nullopt;
    bool xen = header.n_namesz == 4 && std::memcmp(notes.data() + offset, "Xen", 4) == 0;
    if (xen && header.n_type == kNotePhys32Entry && header.n_descsz >= 4)
      return file_at<uint32_t>(notes, offset + name_size, "the PVH note");
    offset += name_size + desc_size;
  }
  return std::nullopt;
}

}  // namespace

Entry load_pvh(devices::GuestRam& ram, const Image& image) {
  const auto file = image.kernel;
  auto header = file_at<Elf64_Ehdr>(file, 0, "the ELF header");
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    bad_kernel("it is neither an ELF file nor a bzImage");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    bad_kernel("it is not a 64-bit x86 ELF file");
  if (header.e_phentsize != sizeof(Elf64_Phdr)) bad_kernel("its program headers have an unknown size");

  std::optional<uint32_t> entry;
  uint64_t end_of_kernel = kHighMemory;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    uint64_t where = header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr);
    if (where < header.e_phoff) bad_kernel("a program header lies outside the file");
    auto segment = file_at<Elf64_Phdr>(file, where, "a program header");
    if (segment.p_type != PT_LOAD && segment.p_type != PT_NOTE) continue;
    if (segment.p_offset > file.size() || segment.p_filesz > file.size() - segment.p_offset)
      bad_kernel("a segment lies outside the file");
    auto bytes = file.subspan(segment.p_offset, segment.p_filesz);
    if (segment.p_type == PT_NOTE) {
      if (!entry) entry = find_entry(bytes);
      continue;
    }
    if (segment.p_memsz < segment.p_filesz) bad_kernel("a segment is larger in the file than in memory");
    if (segment.p_memsz == 0) continue;
    if (segment.p_paddr < kHighMemory && segment.p_paddr + segment.p_memsz > kBootDataBegin)
      bad_kernel("a segment lies below 1 MiB, where the boot data go");
    if (!ram.contains(segment.p_paddr, segment.p_memsz))
      throw Error("NO_MEMORY", "the machine's memory is too small: the kernel needs memory up to " +
                                   std::to_string((segment.p_paddr + segment.p_memsz) >> 20) + " MiB");
    if (!bytes.empty() && !ram.write(segment.p_paddr, bytes)) bad_kernel("a segment lies outside RAM");
    end_of_kernel = std::max<uint64_t>(end_of_kernel, segment.p_paddr + segment.p_memsz);
  }
  if (!entry) bad_kernel("it has no PVH entry note (for Linux: CONFIG_PVH)");
  if (!ram.contains(*entry, 1)) bad_kernel("its PVH entry lies outside RAM");

  put_command_line(ram, image.command_line, kCommandLineMax - 1);

  StartInfo info;
  info.command_line = kCommandLine;
  info.rsdp = image.rsdp;
  if (!image.initrd.empty()) {
    const uint64_t address = put_initrd(ram, image.initrd, kHighMemory, end_of_kernel, UINT64_MAX);
    put(ram, kModules, Module{address, image.initrd.size(), 0, 0});
    info.modules = kModules;
    info.module_count = 1;
  }

  const auto map = memory_map(ram);
  for (size_t i = 0; i < map.size(); ++i)
    put(ram, kMemoryMap + i * sizeof(MemoryMapEntry),
        MemoryMapEntry{map[i].address, map[i].size, map[i].ram ? kTypeRam : kTypeReserved, 0});
  info.memory_map = kMemoryMap;
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  put(ram, kStartInfo, info);
  return {.rip = *entry, .rbx = kStartInfo};
}

}  // namespace hypertwin::boot
