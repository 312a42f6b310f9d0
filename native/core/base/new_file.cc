#include "base/new_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

namespace hypertwin {

NewFile::NewFile(int folder, const std::string& name, const char* suffix)
    : folder_(folder), name_(name), partial_(name + suffix) {
  for (;;) {
    fd_ = Fd(::openat(folder_, partial_.c_str(), O_CREAT | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd_) throw_errno("openat", "creating " + partial_);
    if (!try_lock(fd_.get()))
      throw Error("BUSY", name_ + " is being written by somebody else: give another name, or wait");
    struct stat file {
    }, there{};
    if (::fstat(fd_.get(), &file) != 0) throw_errno("fstat", "looking at " + partial_);
    // Until it was locked here, the other writer may have given it its name, or removed it.
    if (::fstatat(folder_, partial_.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0 ||
        there.st_ino != file.st_ino || there.st_dev != file.st_dev)
      continue;
    // One that has its name as well is whole.
    if (file.st_nlink > 1) {
      if (::unlinkat(folder_, partial_.c_str(), 0) != 0) throw_errno("unlinkat", "removing " + partial_);
      continue;
    }
    if (::ftruncate(fd_.get(), 0) != 0) throw_errno("ftruncate", "creating " + partial_);
    return;
  }
}

NewFile::~NewFile() {
  if (!named_) ::unlinkat(folder_, partial_.c_str(), 0);
}

void NewFile::give_name(Over over) {
  const std::string attempted = "naming " + name_;
  const char *from = partial_.c_str(), *to = name_.c_str();
  if (over == Over::kAnother) {
    if (::renameat(folder_, from, folder_, to) != 0) throw_errno("renameat", attempted);
  } else if (::syscall(SYS_renameat2, folder_, from, folder_, to, RENAME_NOREPLACE) != 0) {
    // A file system that cannot do it.
    if (errno != EINVAL && errno != ENOSYS) throw_errno("renameat2", attempted);
    if (::linkat(folder_, from, folder_, to, 0) != 0) throw_errno("linkat", attempted);
    ::unlinkat(folder_, from, 0);
  }
  named_ = true;
  ::flock(fd_.get(), LOCK_UN);
}

}  // namespace hypertwin
