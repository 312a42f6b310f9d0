#include "machine/vcpu_state.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace hypertwin::machine {

namespace {

// Architectural MSRs that a kernel sets and later relies on.
constexpr uint32_t kSysenterEsp = 0x175, kSysenterEip = 0x176;
constexpr uint32_t kMsrs[] = {
    0x174,         // IA32_SYSENTER_CS
    kSysenterEsp,  //
    kSysenterEip,  //
    0x1a0,         // IA32_MISC_ENABLE
    0x277,         // IA32_PAT
    0xc0000081,    // STAR
    0xc0000082,    // LSTAR
    0xc0000083,    // CSTAR
    0xc0000084,    // SFMASK
    0xc0000102,    // KERNEL_GS_BASE
};

constexpr size_t kXsaveHeader = 512;
constexpr size_t kXsaveExtended = 576;
constexpr size_t kXsaveMax = 1u << 20;

// Components that the state does not hold are in their initial configuration; so are those that hold it.
std::vector<uint8_t> canonical_xsave(std::vector<uint8_t> area) {
  if (area.size() < kXsaveExtended) return area;
  uint64_t present;
  std::memcpy(&present, area.data() + kXsaveHeader, sizeof(present));
  if (!(present & 1)) {
    std::memset(area.data(), 0, 24);
    area[0] = 0x7f;  // FCW = 0x37f
    area[1] = 0x03;
    std::memset(area.data() + 32, 0, 128);
  }
  if (!(present & 2)) std::memset(area.data() + 160, 0, 256);
  for (unsigned component = 2; component < 63; ++component) {
    uint32_t size, offset, ecx, edx;
    if (!__get_cpuid_count(0xd, component, &size, &offset, &ecx, &edx) || size == 0) continue;
    if (present & (uint64_t{1} << component)) continue;
    if (offset < area.size())
      std::memset(area.data() + offset, 0, std::min<size_t>(size, area.size() - offset));
  }
  std::memset(area.data() + 28, 0, 4);     // MXCSR_MASK: the CPU's
  std::memset(area.data() + 416, 0, 160);  // available to software, and the header
  return area;
}

}  // namespace

std::vector<uint32_t> saved_msrs(const kvm::System& system) {
  auto offered = system.msr_index_list();
  std::vector<uint32_t> list;
  for (uint32_t msr : kMsrs)
    if (std::find(offered.begin(), offered.end(), msr) != offered.end()) list.push_back(msr);
  return list;
}

VcpuState VcpuState::take(const kvm::Vcpu& vcpu) {
  VcpuState state;
  // First: with an INIT or SIPI that waits, asking for it changes the registers.
  state.mp_state = vcpu.get_mp_state();
  state.regs = vcpu.get_regs();
  state.sregs = vcpu.get_sregs();
  state.xcrs = vcpu.get_xcrs();
  state.debugregs = vcpu.get_debugregs();
  state.events = vcpu.get_vcpu_events();
  state.msrs = vcpu.get_msrs(saved_msrs(*vcpu.vm()->system()));
  state.xsave = vcpu.get_xsave();
  return state;
}

void VcpuState::give(kvm::Vcpu& vcpu) const {
  vcpu.set_sregs(sregs);
  vcpu.set_xcrs(xcrs);
  vcpu.set_xsave(xsave);
  vcpu.set_msrs(msrs);
  vcpu.set_debugregs(debugregs);
  vcpu.set_regs(regs);
  vcpu.set_mp_state(mp_state);
  vcpu.set_vcpu_events(events);
}

void VcpuState::save(ByteWriter& out) const {
  out.u8(1);
  out.object(regs);
  out.object(sregs);
  out.object(xcrs);
  out.object(debugregs);
  out.object(events);
  out.object(mp_state);
  out.varint(msrs.size());
  for (const auto& msr : msrs) {
    out.u32(msr.index);
    out.u64(msr.data);
  }
  out.blob(xsave);
}

VcpuState VcpuState::load(ByteReader& in) {
  if (in.u8() != 1) throw Error("CORRUPT", "the vCPU state has an unknown version");
  VcpuState state;
  state.regs = in.object<kvm_regs>();
  state.sregs = in.object<kvm_sregs>();
  state.xcrs = in.object<kvm_xcrs>();
  state.debugregs = in.object<kvm_debugregs>();
  state.events = in.object<kvm_vcpu_events>();
  // Of the last one that was delivered. A machine that waits for its handler is not saved.
  if (!state.events.exception.injected && !state.events.exception.pending) state.events.exception.nr = 0;
  state.mp_state = in.object<kvm_mp_state>();
  uint64_t count = in.varint();
  if (count > 256) throw Error("CORRUPT", "the vCPU state lists too many MSRs");
  for (uint64_t i = 0; i < count; ++i) {
    kvm_msr_entry msr{};
    msr.index = in.u32();
    msr.data = in.u64();
    state.msrs.push_back(msr);
  }
  auto xsave = in.blob(kXsaveMax);
  state.xsave.assign(xsave.begin(), xsave.end());
  if (state.xsave.size() < sizeof(kvm_xsave))
    throw Error("CORRUPT", "the vCPU state's XSAVE area is too small");
  return state;
}

void VcpuState::save_canonical(ByteWriter& out) const {
  VcpuState canonical = *this;
  canonical.xsave = canonical_xsave(xsave);
  // Which flags of the events the kernel filled in is its own affair, and so is which event it injected last
  // (one that it had to inject again, since a page was in its way, is the last for some runs only).
  kvm_vcpu_events& told = canonical.events;
  told.flags = 0;
  if (!told.interrupt.injected) told.interrupt.nr = told.interrupt.soft = 0;
  if (!told.exception.injected && !told.exception.pending) {
    told.exception = {};
    told.exception_has_payload = 0;
    told.exception_payload = 0;
  }
  // AMD's KVM gives these back with 32 bits alone, which are all that such a CPU uses.
  for (auto& msr : canonical.msrs)
    if (msr.index == kSysenterEsp || msr.index == kSysenterEip) msr.data &= 0xffffffff;
  canonical.save(out);
}

Digest128 VcpuState::digest() const {
  ByteWriter bytes;
  save_canonical(bytes);
  return digest128(bytes.data());
}

}  // namespace hypertwin::machine
