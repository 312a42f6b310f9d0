// What differs between KVM implementations and shows in a log: found out by doing, once a process.
#pragma once

#include <memory>
#include <string>

#include "kvm/kvm.h"

namespace hypertwin::machine {

// "rip-at-pio=past" or "rip-at-pio=at": where the registers stand at a port-I/O exit.
std::string kvm_quirks(const std::shared_ptr<kvm::System>& system);

}  // namespace hypertwin::machine
