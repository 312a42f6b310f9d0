// ioctl(2) with the project's error. Only for native/core/kvm.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>
#include <string_view>

#include "base/error.h"

namespace hypertwin::kvm {

// Returns the call's result, or -1 with errno. EINTR (a signal while the kernel waited) is tried again;
// KVM_RUN, which means something by EINTR, does not come through here.
template <typename Arg>
int try_ioctl(int fd, unsigned long request, Arg arg) {
  int result;
  do {
    result = ::ioctl(fd, request, arg);
  } while (result < 0 && errno == EINTR);
  return result;
}

// As try_ioctl, but throws Error naming the constant and what was attempted.
template <typename Arg>
int do_ioctl(int fd, unsigned long request, const char* name, Arg arg, std::string_view attempted) {
  int result = try_ioctl(fd, request, arg);
  if (result < 0) throw_errno(name, attempted);
  return result;
}

// The constant and its name in one.
#define HT_KVM(constant) constant, #constant

}  // namespace hypertwin::kvm
