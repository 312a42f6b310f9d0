#include "base/fd.h"

#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace hypertwin {

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

bool try_lock(int fd) {
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS) return true;
    if (errno != EINTR) throw_errno("flock", "locking a file");
  }
  return true;
}

}  // namespace hypertwin
