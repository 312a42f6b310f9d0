// Where hosts were killed: which steps of the protocol, and which blocks and records of the log, sent or
// acknowledged.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

namespace hypertwin::campaign {

enum class Side : uint8_t { kPrimary, kBackup };

class Coverage {
 public:
  static constexpr uint64_t kBlocks = 160, kRecords = 1000;  // the first of a protection
  // Of each: the primary when it has sent it, when it knows it acknowledged, the backup when it has
  // acknowledged it; of records also both, one after the other.
  enum Where : uint8_t { kSent, kKnown, kAcknowledged, kBoth, kPlaces };

  // Throws Error("CAMPAIGN") for a step that nobody knows.
  void step(Side side, const std::string& name);
  void block(Where where, uint64_t nth) { blocks_.set(where * kBlocks + nth); }
  void record(Where where, uint64_t nth) { records_.set(where * kRecords + nth); }
  void operator+=(const Coverage& other);
  // JSON fields with a comma before each; nothing of what has none.
  std::string json() const;

 private:
  std::bitset<64> steps_;
  std::bitset<kBoth * kBlocks> blocks_;
  std::bitset<kPlaces * kRecords> records_;
};

// The steps of a beginning, in order.
const std::vector<std::string>& first_steps(Side side);

}  // namespace hypertwin::campaign
