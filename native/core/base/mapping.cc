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

void Mapping::reset() {
  if (data_) ::munmap(std::exchange(data_, nullptr), std::exchange(size_, 0));
}

}  // namespace hypertwin
