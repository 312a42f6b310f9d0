// Finds out what a tracking mode really does on this host by doing it: hosts exist whose kernel offers a mode
// and then loses pages or never returns from KVM_RUN. So probe() is for a process that can be killed; who
// watches that process decides by its silence. x86-64.
#pragma once

#include <memory>
#include <string>

#include "dirty/tracker.h"
#include "kvm/kvm.h"

namespace hypertwin::dirty {

struct ProbeResult {
  bool works = false;  // no written page was missing
  std::string reason;  // one sentence
};

// A small guest writes known pages from CPL 3 (`user`) or CPL 0, many more than a small ring holds; every
// harvest is compared page for page. Never throws for what the host does. May never return.
ProbeResult probe(const std::shared_ptr<kvm::System>& system, Mode mode, bool user);

}  // namespace hypertwin::dirty
