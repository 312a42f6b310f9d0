// The first vCPU's state when a kernel begins.
#pragma once

#include "boot/kernel.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

void set_entry(kvm::Vcpu& vcpu, const boot::Entry& entry);

}  // namespace hypertwin::machine
