#include "machine/exits.h"

#include <string>

#include "base/hex.h"

namespace hypertwin::machine {

void serve_ring_full(const kvm::Vm& vm) {
  if (!vm.handle_ring_full())
    throw Error("RING_FULL", "the dirty ring is full and nobody harvests it: attach a tracker");
}

void throw_fatal_exit(const kvm::Vcpu& vcpu) {
  const kvm_run& run = *vcpu.run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_FAIL_ENTRY:
      throw Error("FAIL_ENTRY", "the CPU refused the guest's state (hardware reason " +
                                    hex(run.fail_entry.hardware_entry_failure_reason) + ")");
    case KVM_EXIT_INTERNAL_ERROR:
      throw Error("KVM_INTERNAL", "KVM could not go on with the guest near rip " + hex(vcpu.get_regs().rip) +
                                      " (KVM_EXIT_INTERNAL_ERROR suberror " +
                                      std::to_string(run.internal.suberror) + ")");
    default:
      throw Error("UNEXPECTED_EXIT", "KVM_RUN came back with exit reason " + std::to_string(run.exit_reason) +
                                         ", which this board does not handle");
  }
}

}  // namespace hypertwin::machine
