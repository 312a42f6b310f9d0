#include "machine/cpuid.h"

namespace hypertwin::machine {

namespace {
constexpr uint32_t bit(unsigned n) { return uint32_t{1} << n; }
}  // namespace

std::vector<kvm_cpuid_entry2> deterministic_cpuid(std::span<const kvm_cpuid_entry2> supported) {
  std::vector<kvm_cpuid_entry2> table;
  for (kvm_cpuid_entry2 entry : supported) {
    switch (entry.function) {
      case 0x1:
        entry.ebx = (entry.ebx & 0x0000ff00) | (1 << 16);  // APIC id 0, one logical processor
        // MONITOR, PCID, x2APIC, TSC deadline, OSXSAVE (follows CR4), RDRAND, hypervisor
        entry.ecx &= ~(bit(3) | bit(17) | bit(21) | bit(24) | bit(27) | bit(30) | bit(31));
        entry.edx &= ~(bit(4) | bit(9) | bit(28));  // TSC, APIC, HTT
        break;
      case 0x4:
      case 0x8000001d:
        entry.eax &= 0x00003fff;  // no sharing between cores
        break;
      case 0x7:
        if (entry.index == 0) {
          entry.ebx &= ~(bit(1) | bit(4) | bit(11) | bit(18));  // TSC_ADJUST, HLE, RTM, RDSEED
          entry.ecx &= ~(bit(5) | bit(22));                     // WAITPKG, RDPID
        }
        break;
      case 0xa:   // performance counters
      case 0xb:   // topology, with this core's x2APIC id
      case 0x15:  // TSC and core crystal
      case 0x16:  // frequencies
      case 0x1f:  // topology again
      case 0x8000001e:
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case 0x80000001:
        entry.ecx &= ~bit(29);  // MWAITX
        entry.edx &= ~bit(27);  // RDTSCP
        break;
      case 0x80000007:
        entry.edx &= ~bit(8);  // invariant TSC
        break;
      case 0x80000008:
        entry.ecx = 0;  // cores in the package
        break;
      default:
        if (entry.function >= 0x40000000 && entry.function < 0x50000000) continue;  // paravirtual leaves
        break;
    }
    table.push_back(entry);
  }
  return table;
}

CpuIdentity cpu_identity(std::span<const kvm_cpuid_entry2> entries) {
  CpuIdentity cpu;
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function == 0) {
      for (uint32_t word : {entry.ebx, entry.edx, entry.ecx})
        for (unsigned i = 0; i < 4; ++i) {
          char c = static_cast<char>(word >> (8 * i));
          if (c >= ' ' && c <= '~') cpu.vendor += c;
        }
    } else if (entry.function == 1) {
      uint32_t family = (entry.eax >> 8) & 0xf;
      uint32_t model = (entry.eax >> 4) & 0xf;
      if (family == 0x6 || family == 0xf) model |= (entry.eax >> 12) & 0xf0;
      if (family == 0xf) family += (entry.eax >> 20) & 0xff;
      cpu.family = family;
      cpu.model = model;
      cpu.stepping = entry.eax & 0xf;
    }
  }
  return cpu;
}

}  // namespace hypertwin::machine
