#include "base/mapping.h"

#include <sys/mman.h>

#include <string>

#include "base/error.h"

namespace hypertwin {

Mapping Mapping::map(size_t size, int prot, int flags, int fd, off_t offset, std::string_view what) {
  void* address = ::mmap(nullptr, size, prot, flags, fd, offset);
  if (address == MAP_FAILED)
    throw_errno("mmap", "mapping " + std::to_string(size) + " bytes of " + std::string(what));
  return Mapping(static_cast<uint8_t*>(address), size);
}

Mapping Mapping::aligned(size_t size, size_t alignment, std::string_view what) {
  Mapping wide =
      map(size + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, what);
  const size_t before = -reinterpret_cast<uintptr_t>(wide.data_) & (alignment - 1);
  if (before > 0) ::munmap(wide.data_, before);
  if (before < alignment) ::munmap(wide.data_ + before + size, alignment - before);
  wide.size_ = size;
  wide.data_ += before;
  return wide;
}

void Mapping::reset() {
  if (data_) ::munmap(std::exchange(data_, nullptr), std::exchange(size_, 0));
}

}  // namespace hypertwin
