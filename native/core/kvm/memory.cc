// Guest memory: what backs it, and bounds-checked copies.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/hex.h"
#include "kvm/kvm.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

namespace hypertwin::kvm {
namespace {

void check_page_multiple(uint64_t value, uint64_t unit, const char* what) {
  if (value % unit != 0)
    throw Error("EALIGN", std::string(what) + " " + hex(value) + " is not a multiple of " +
                              std::to_string(unit) + " bytes: round it to the page size");
}

}  // namespace

std::shared_ptr<GuestMemory> GuestMemory::allocate(uint64_t size, const Options& options) {
  uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (size == 0) throw Error("ERANGE", "guest memory of 0 bytes: give at least one page");
  if (options.huge_page_size != 0) {
    if (!std::has_single_bit(options.huge_page_size) || options.huge_page_size <= page)
      throw Error("EINVAL", "huge page size " + std::to_string(options.huge_page_size) +
                                ": use 2 MiB or 1 GiB, or 0 for ordinary pages");
    page = options.huge_page_size;
  }
  check_page_multiple(size, page, "guest memory size");
  unsigned huge_log2 =
      options.huge_page_size ? static_cast<unsigned>(std::countr_zero(options.huge_page_size)) : 0;
  std::string what = "guest memory";
  if (huge_log2) what += " in huge pages (reserve some in /proc/sys/vm/nr_hugepages)";

  if (options.backing == Backing::kAnonymous && !huge_log2) {
    // KVM maps a huge page where guest and host addresses are equal within it.
    constexpr uint64_t kHuge = 2u << 20;
    Mapping mapping = Mapping::aligned(size, size < kHuge ? page : kHuge, what);
    // A host without them goes on with small ones.
    if (options.transparent_huge_pages) ::madvise(mapping.data(), size, MADV_HUGEPAGE);
    return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(mapping), {}));
  }
  Fd fd;
  int map_flags = MAP_NORESERVE;
  if (options.backing == Backing::kMemfd) {
    unsigned flags = MFD_CLOEXEC;
    if (huge_log2) flags |= MFD_HUGETLB | (huge_log2 << MAP_HUGE_SHIFT);
    fd = Fd(::memfd_create(options.name.c_str(), flags));
    if (!fd) throw_errno("memfd_create", "creating " + what);
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
      throw_errno("ftruncate", "giving " + what + " " + std::to_string(size) + " bytes");
    map_flags |= MAP_SHARED;
  } else {
    map_flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | static_cast<int>(huge_log2 << MAP_HUGE_SHIFT);
  }
  Mapping mapping = Mapping::map(size, PROT_READ | PROT_WRITE, map_flags, fd.get(), 0, what);
  return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(mapping), std::move(fd)));
}

std::shared_ptr<GuestMemory> GuestMemory::from_fd(Fd fd, uint64_t offset, uint64_t size, bool private_copy) {
  uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (size == 0) throw Error("ERANGE", "guest memory of 0 bytes: give at least one page");
  check_page_multiple(size, page, "guest memory size");
  check_page_multiple(offset, page, "offset in the file");
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) throw_errno("fstat", "reading the size of the guest memory's file");
  uint64_t length = static_cast<uint64_t>(st.st_size);
  if (offset > length || size > length - offset)
    throw Error("ERANGE", "guest memory of " + std::to_string(size) + " bytes at offset " + hex(offset) +
                              " does not fit in its file of " + std::to_string(length) + " bytes");
  Mapping mapping =
      Mapping::map(size, PROT_READ | PROT_WRITE, (private_copy ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE,
                   fd.get(), static_cast<off_t>(offset), "guest memory from a file");
  std::shared_ptr<GuestMemory> memory(new GuestMemory(std::move(mapping), std::move(fd)));
  memory->guard_ = std::make_unique<BusGuard>(memory->data(), memory->size());
  return memory;
}

namespace {
void check_range(uint64_t offset, uint64_t length, uint64_t size) {
  if (offset > size || length > size - offset)
    throw Error("ERANGE", std::to_string(length) + " bytes at offset " + hex(offset) +
                              " are outside of the guest memory of " + hex(size) + " bytes");
}
}  // namespace

void GuestMemory::read(uint64_t offset, std::span<uint8_t> into) const {
  check_range(offset, into.size(), size());
  if (!into.empty()) std::memcpy(into.data(), data() + offset, into.size());
}

void GuestMemory::write(uint64_t offset, std::span<const uint8_t> from) {
  check_range(offset, from.size(), size());
  if (!from.empty()) std::memcpy(data() + offset, from.data(), from.size());
}

}  // namespace hypertwin::kvm
