// The CPUID table of the deterministic board: what the host offers, less everything that a replay on
// another core, at another time could answer differently.
#pragma once

#include "kvm/linux_kvm.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hypertwin::machine {

std::vector<kvm_cpuid_entry2> deterministic_cpuid(std::span<const kvm_cpuid_entry2> supported);

// The CPU as a log's header names it; two hosts must agree on all of it to replay each other's logs.
struct CpuIdentity {
  std::string vendor;
  uint32_t family = 0;
  uint32_t model = 0;
  uint32_t stepping = 0;
};
CpuIdentity cpu_identity(std::span<const kvm_cpuid_entry2> entries);

}  // namespace hypertwin::machine
