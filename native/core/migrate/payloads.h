// What the frames of a migration hold besides pages and blocks (docs/migration-protocol.md): encoded, and
// read as hostile input. Knows no channel.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"
#include "migrate/migrate.h"

namespace hypertwin::migrate {

// Readers throw Error("CORRUPT"), and decode_hello what MachineConfig::check() throws too.

std::vector<uint8_t> encode_hello(const Hello& hello);
Hello decode_hello(std::span<const uint8_t> payload);

struct Accept {
  uint32_t features = 0;
  std::vector<bool> disks;  // whose contents are wanted
};
std::vector<uint8_t> encode_accept(const Accept& accept);
Accept decode_accept(std::span<const uint8_t> payload);

// Of kRefuse and kAbort.
struct Refusal {
  std::string code;
  std::string message;
};
std::vector<uint8_t> encode_refusal(std::string_view code, std::string_view message);
Refusal decode_refusal(std::span<const uint8_t> payload);

struct RoundEnd {
  uint32_t round = 0;
  bool final = false;  // the machine stands still, and this is the last of its memory and disks
  uint64_t pages = 0, blocks = 0;
};
std::vector<uint8_t> encode_round_end(const RoundEnd& end);
RoundEnd decode_round_end(std::span<const uint8_t> payload);

struct MovedState {
  bool running = false;
  bool memory_verified = false;  // digest.memory counts
  machine::StateDigest digest;
  std::vector<Digest128> disks;  // of those wanted: over the checksums of all their blocks
  std::vector<uint8_t> machine;  // Machine::save_state
};
std::vector<uint8_t> encode_state(const MovedState& state);
MovedState decode_state(std::span<const uint8_t> bytes);

// kState may come in parts: one byte that says whether it is the last, then bytes.
inline constexpr size_t kStatePart = 1u << 20;
inline constexpr size_t kMostState = 256u << 20;
class StateParts {
 public:
  // True when it was the last part.
  bool add(std::span<const uint8_t> payload);
  bool complete() const { return complete_; }
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
  bool complete_ = false;
};

}  // namespace hypertwin::migrate
