// All of a vCPU whose interrupt controller is the kernel's: beyond VcpuState its local APIC, its time and
// what KVM keeps for a paravirtual guest.
#pragma once

#include <vector>

#include "machine/vcpu_state.h"

namespace hypertwin::machine {

struct FullVcpu {
  VcpuState basic;
  kvm_lapic_state lapic{};
  std::vector<kvm_msr_entry> msrs;

  // The vCPU must be stopped with no access pending.
  static FullVcpu take(const kvm::Vcpu& vcpu);
  void give(kvm::Vcpu& vcpu) const;
  void save(ByteWriter& out) const;
  static FullVcpu load(ByteReader& in);
  // As VcpuState's, and without what goes on while the vCPU is stopped: time, and the interrupts that timers
  // ask for.
  void save_canonical(ByteWriter& out) const;
};

}  // namespace hypertwin::machine
