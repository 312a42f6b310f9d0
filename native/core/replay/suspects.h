// Finds instructions in guest code whose result no log holds, to name them before a recording and after a
// divergence. A search by opcode: what it finds may be data or the middle of another instruction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/guest_ram.h"

namespace hypertwin::replay {

struct Suspect {
  std::string instruction;  // "rdtsc"
  uint64_t address = 0;     // guest physical
  std::string text() const;
};

std::vector<Suspect> find_suspects(std::span<const uint8_t> code, uint64_t address);

// In the RAM within `reach` bytes of `address`, the nearest before it first; at most `limit`.
std::vector<Suspect> suspects_near(const devices::GuestRam& ram, uint64_t address, uint64_t reach,
                                   size_t limit);

}  // namespace hypertwin::replay
