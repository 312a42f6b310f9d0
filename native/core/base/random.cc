#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "base/error.h"

namespace hypertwin {

void fill_random(std::span<uint8_t> bytes, const char* what) {
  while (!bytes.empty()) {
    const ssize_t n = ::getrandom(bytes.data(), bytes.size(), 0);
    if (n < 0 && errno != EINTR) throw_errno("getrandom", what);
    if (n > 0) bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

}  // namespace hypertwin
