// What a vCPU of the standard board answers to CPUID.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvm/linux_kvm.h"

namespace hypertwin::machine {

// The host's, with this vCPU's APIC id and one socket of `vcpus` cores with a thread each.
std::vector<kvm_cpuid_entry2> standard_cpuid(std::span<const kvm_cpuid_entry2> supported, uint32_t id,
                                             uint32_t vcpus, bool tsc_deadline);

}  // namespace hypertwin::machine
