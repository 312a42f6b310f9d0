#include "machine/standard_cpuid.h"

#include <algorithm>
#include <bit>

namespace hypertwin::machine {

std::vector<kvm_cpuid_entry2> standard_cpuid(std::span<const kvm_cpuid_entry2> supported, uint32_t id,
                                             uint32_t vcpus, bool tsc_deadline) {
  constexpr uint32_t kHypervisor = 1u << 31, kTscDeadline = 1u << 24, kOsxsave = 1u << 27, kHtt = 1u << 28,
                     kApic = 1u << 9, kVmx = 1u << 5, kSvm = 1u << 2;
  const auto id_bits = static_cast<uint32_t>(std::bit_width(vcpus - 1));
  std::vector<kvm_cpuid_entry2> table;
  for (kvm_cpuid_entry2 entry : supported) {
    switch (entry.function) {
      case 0x1:
        entry.ebx = (entry.ebx & 0xff00) | id << 24 | std::min(vcpus, 255u) << 16;
        // No machine in the machine: a snapshot would not hold it.
        entry.ecx = (entry.ecx | kHypervisor) & ~(kOsxsave | kVmx);
        if (tsc_deadline) entry.ecx |= kTscDeadline;
        entry.edx |= kApic;
        entry.edx = vcpus > 1 ? entry.edx | kHtt : entry.edx & ~kHtt;
        break;
      case 0x4:  // caches: the first two levels are a core's, further ones the socket's
      case 0x8000001d: {
        const uint32_t level = entry.eax >> 5 & 7;
        const uint32_t sharing = level >= 3 ? vcpus : 1;
        const uint32_t cores = entry.function == 4 ? std::min(vcpus, 64u) - 1 : 0;
        if (entry.eax & 0x1f)
          entry.eax = (entry.eax & 0x3fff) | (sharing - 1) << 14 | (entry.function == 4 ? cores << 26 : 0);
        break;
      }
      case 0xb:
      case 0x1f:  // level 0: threads of a core; 1: cores of the socket
        if (entry.index == 0) {
          entry.eax = 0;
          entry.ebx = 1;
          entry.ecx = 1 << 8;
        } else if (entry.index == 1) {
          entry.eax = id_bits;
          entry.ebx = vcpus;
          entry.ecx = 2 << 8 | 1;
        } else {
          entry.eax = entry.ebx = 0;
          entry.ecx = entry.index;
        }
        entry.edx = id;
        break;
      case 0x80000001:
        entry.ecx &= ~kSvm;
        break;
      case 0x8000000a:  // SVM's
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case 0x80000008:
        entry.ecx = id_bits << 12 | (vcpus - 1);
        break;
      case 0x8000001e:
        entry.eax = id;
        entry.ebx = id;
        entry.ecx = 0;
        break;
      default:
        break;
    }
    table.push_back(entry);
  }
  // Some kernels list level 0 alone.
  for (uint32_t leaf : {0xbu, 0x1fu}) {
    const auto has = [&](uint32_t index) {
      return std::any_of(table.begin(), table.end(),
                         [&](const auto& e) { return e.function == leaf && e.index == index; });
    };
    if (!has(0) || has(1)) continue;
    kvm_cpuid_entry2 cores{};
    cores.function = leaf;
    cores.index = 1;
    cores.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    cores.eax = id_bits;
    cores.ebx = vcpus;
    cores.ecx = 2 << 8 | 1;
    cores.edx = id;
    table.push_back(cores);
  }
  return table;
}

}  // namespace hypertwin::machine
