#include "replay/suspects.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace hypertwin::replay {

std::string Suspect::text() const {
  char where[32];
  std::snprintf(where, sizeof(where), " at 0x%" PRIx64, address);
  return instruction + where;
}

std::vector<Suspect> find_suspects(std::span<const uint8_t> code, uint64_t address) {
  std::vector<Suspect> found;
  for (size_t i = 0; i + 1 < code.size(); ++i) {
    if (code[i] != 0x0f) continue;
    const uint8_t second = code[i + 1];
    const uint8_t third = i + 2 < code.size() ? code[i + 2] : 0;
    const char* name = nullptr;
    if (second == 0x31) name = "rdtsc";
    if (second == 0x33) name = "rdpmc";
    if (second == 0x01 && third == 0xf9) name = "rdtscp";
    if (second == 0xc7 && third >= 0xf0 && third <= 0xf7) name = "rdrand";
    if (second == 0xc7 && third >= 0xf8) name = i > 0 && code[i - 1] == 0xf3 ? "rdpid" : "rdseed";
    if (name) found.push_back({name, address + i});
  }
  return found;
}

std::vector<Suspect> suspects_near(const devices::GuestRam& ram, uint64_t address, uint64_t reach,
                                   size_t limit) {
  std::vector<Suspect> found;
  for (const auto& region : ram.regions()) {
    uint64_t begin = std::max(region.guest_address, address > reach ? address - reach : 0);
    uint64_t end = std::min(region.guest_address + region.size, address + reach);
    if (begin >= end) continue;
    auto part = find_suspects({region.host + (begin - region.guest_address), end - begin}, begin);
    found.insert(found.end(), part.begin(), part.end());
  }
  // What the guest executed last lies before its instruction pointer more often than behind it.
  auto distance = [address](const Suspect& s) {
    return s.address <= address ? address - s.address : (s.address - address) * 4;
  };
  std::sort(found.begin(), found.end(),
            [&](const Suspect& a, const Suspect& b) { return distance(a) < distance(b); });
  if (found.size() > limit) found.resize(limit);
  return found;
}

}  // namespace hypertwin::replay
