#include "libvirt/exclusive.h"

#include <atomic>
#include <string>

#include "base/error.h"

namespace hypertwin::libvirt {

void claim_process(Class kind, const char* function) {
  static std::atomic<Class> claimed{Class::none};
  Class before = Class::none;
  if (claimed.compare_exchange_strong(before, kind) || before == kind) return;
  const std::string used =
      before == Class::connect ? "connections to a hypervisor" : "a connection to a daemon's administration";
  throw Error(
      "LIBVIRT_CONFLICT",
      std::string(function) + ": this process has used " + used +
          ", and libvirt cannot do both in one process (it would crash): do one of them in a process of "
          "its own, for example by child_process.fork()");
}

}  // namespace hypertwin::libvirt
