// All of a vCPU's state that a guest of the deterministic board can see: taken, given back, digested. The
// time-stamp counter is left out on purpose: it is the host's, and hidden from the guest.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

struct VcpuState {
  kvm_regs regs{};
  kvm_sregs sregs{};
  kvm_xcrs xcrs{};
  kvm_debugregs debugregs{};
  kvm_vcpu_events events{};
  kvm_mp_state mp_state{};
  std::vector<kvm_msr_entry> msrs;
  std::vector<uint8_t> xsave;

  // The vCPU must be stopped with no I/O pending (Vcpu::complete_io).
  static VcpuState take(const kvm::Vcpu& vcpu);
  void give(kvm::Vcpu& vcpu) const;

  void save(ByteWriter& out) const;
  static VcpuState load(ByteReader& in);

  // Equal for equal architectural states: XSAVE components in their initial state count as such whether or
  // not the host saved them.
  Digest128 digest() const;
  // What the digest is of.
  void save_canonical(ByteWriter& out) const;
};

// The MSRs above, as far as this host has them.
std::vector<uint32_t> saved_msrs(const kvm::System& system);

}  // namespace hypertwin::machine
