#include "machine/full_vcpu.h"

#include <algorithm>

#include "base/error.h"

namespace hypertwin::machine {

namespace {

constexpr uint32_t kTsc = 0x10, kTscDeadline = 0x6e0;
// In the order in which they are given back: the deadline after the time that it is a deadline of.
constexpr uint32_t kMsrs[] = {
    kTsc,
    0x3b,   // IA32_TSC_ADJUST
    0x48,   // IA32_SPEC_CTRL
    0x2ff,  // IA32_MTRR_DEF_TYPE
    0x200,  // variable ranges
    0x201,        0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a,
    0x20b,        0x20c, 0x20d, 0x20e, 0x20f,
    0x250,  // fixed ranges
    0x258,        0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
    0xc0000103,  // TSC_AUX
    0xc001011f,  // VIRT_SPEC_CTRL
    0x4b564d00,  // KVM_WALL_CLOCK_NEW
    0x4b564d01,  // KVM_SYSTEM_TIME_NEW
    0x4b564d02,  // asynchronous page faults
    0x4b564d03,  // steal time
    0x4b564d04,  // paravirtual end of interrupt
    0x4b564d05,  // polling
    0x4b564d06,  // asynchronous page faults' interrupt
    kTscDeadline,
};
// Registers of the local APIC: the priority, which follows from others; the interrupts that wait; the timer's
// count.
constexpr size_t kPriority = 0xa0, kRequests = 0x200, kRequestsEnd = 0x280, kCount = 0x390;
constexpr uint64_t kMaxMsrs = 256;

}  // namespace

FullVcpu FullVcpu::take(const kvm::Vcpu& vcpu) {
  FullVcpu state;
  state.basic = VcpuState::take(vcpu);
  state.lapic = vcpu.get_lapic();
  for (uint32_t msr : kMsrs) {
    try {
      for (const auto& entry : vcpu.get_msrs(std::span(&msr, 1))) state.msrs.push_back(entry);
    } catch (const Error&) {
      // This CPU has none.
    }
  }
  return state;
}

void FullVcpu::give(kvm::Vcpu& vcpu) const {
  // The local APIC is enabled by a register of the basic state.
  vcpu.set_sregs(basic.sregs);
  vcpu.set_lapic(lapic);
  basic.give(vcpu);
  for (const auto& msr : msrs) {
    // A host that lacks one of them says so only when the guest had it in use.
    try {
      vcpu.set_msrs(std::span(&msr, 1));
    } catch (const Error&) {
      if (msr.data != 0) throw;
    }
  }
}

void FullVcpu::save(ByteWriter& out) const {
  basic.save(out);
  out.object(lapic);
  out.varint(msrs.size());
  for (const auto& msr : msrs) {
    out.u32(msr.index);
    out.u64(msr.data);
  }
}

void FullVcpu::save_canonical(ByteWriter& out) const {
  basic.save_canonical(out);
  kvm_lapic_state still = lapic;
  std::fill(still.regs + kRequests, still.regs + kRequestsEnd, char{0});
  for (size_t at : {kPriority, kCount}) std::fill_n(still.regs + at, sizeof(uint32_t), char{0});
  out.object(still);
  for (const auto& msr : msrs) {
    if (msr.index == kTsc || msr.index == kTscDeadline) continue;
    out.u32(msr.index);
    out.u64(msr.data);
  }
}

FullVcpu FullVcpu::load(ByteReader& in) {
  FullVcpu state;
  state.basic = VcpuState::load(in);
  state.lapic = in.object<kvm_lapic_state>();
  const uint64_t count = in.varint();
  if (count > kMaxMsrs) in.corrupt("the vCPU state lists too many MSRs");
  for (uint64_t i = 0; i < count; ++i) {
    kvm_msr_entry msr{};
    msr.index = in.u32();
    msr.data = in.u64();
    // No other register of the host's than those.
    if (std::find(std::begin(kMsrs), std::end(kMsrs), msr.index) == std::end(kMsrs))
      in.corrupt("an MSR that no vCPU state holds");
    state.msrs.push_back(msr);
  }
  return state;
}

}  // namespace hypertwin::machine
