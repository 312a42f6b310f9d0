#include "machine/memory_scan.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/bytes.h"

namespace hypertwin::machine {

namespace {

constexpr uint64_t kPage = devices::kPageSize;

// The first word decides nearly always. The guest may be writing meanwhile: who scans a running one's memory
// looks again at what it wrote.
__attribute__((no_sanitize("thread"))) bool is_zero(const uint8_t* page) {
  const auto* words = reinterpret_cast<const volatile uint64_t*>(page);
  for (uint64_t i = 0; i < kPage / sizeof(uint64_t); ++i)
    if (words[i] != 0) return false;
  return true;
}

// [begin, end) of the next stretch that the kernel has pages for, from `from` on; false when none is left.
bool next_data(const kvm::GuestMemory& memory, uint64_t from, uint64_t& begin, uint64_t& end) {
  if (from >= memory.size()) return false;
  begin = from;
  end = memory.size();
  if (memory.fd() < 0) return true;
  off_t data = ::lseek(memory.fd(), static_cast<off_t>(from), SEEK_DATA);
  if (data < 0) return errno != ENXIO;  // ENXIO: nothing more; else: cannot tell, look at all
  begin = static_cast<uint64_t>(data) & ~(kPage - 1);
  if (begin >= memory.size()) return false;
  off_t hole = ::lseek(memory.fd(), data, SEEK_HOLE);
  if (hole >= 0) end = std::min(memory.size(), (static_cast<uint64_t>(hole) + kPage - 1) & ~(kPage - 1));
  return true;
}

}  // namespace

void for_each_run(const kvm::GuestMemory& memory, const std::function<void(uint64_t, uint64_t)>& run) {
  uint64_t begin = 0, end = 0;
  for (uint64_t from = 0; next_data(memory, from, begin, end); from = end) {
    uint64_t first = begin / kPage;
    const uint64_t last = end / kPage;
    while (first < last) {
      if (is_zero(memory.data() + first * kPage)) {
        ++first;
        continue;
      }
      uint64_t stop = first + 1;
      while (stop < last && !is_zero(memory.data() + stop * kPage)) ++stop;
      run(first, stop - first);
      first = stop;
    }
  }
}

Digest128 memory_digest(const kvm::GuestMemory& memory) {
  Hasher hasher;
  for_each_run(memory, [&](uint64_t first, uint64_t pages) {
    for (uint64_t page = first; page < first + pages; ++page) {
      uint8_t number[8];
      put_le(number, page);
      hasher.update(number);
      hasher.update({memory.data() + page * kPage, kPage});
    }
  });
  return hasher.digest();
}

}  // namespace hypertwin::machine
