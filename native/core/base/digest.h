// Digests and checksums (XXH3 of xxHash). They find accidents, not forgeries: none is cryptographic.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace hypertwin {

struct Digest128 {
  uint64_t lo = 0;
  uint64_t hi = 0;
  auto operator<=>(const Digest128&) const = default;
  // 32 hexadecimal digits, `hi` first.
  std::string hex() const;
};

// XXH3_128bits_withSeed.
Digest128 digest128(std::span<const uint8_t> bytes, uint64_t seed = 0);
// XXH3_64bits_withSeed.
uint64_t checksum64(std::span<const uint8_t> bytes, uint64_t seed = 0);
// checksum64 of the bytes of both, as if they lay one behind the other.
uint64_t checksum64_of(std::span<const uint8_t> bytes, std::span<const uint8_t> more);

// digest128 of bytes that come in pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void reset();
  void update(std::span<const uint8_t> bytes);
  Digest128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The digest of everything that happened so far, cheap enough for every boundary: each update replaces
// the state by XXH3_128bits(state || number of words || words), so that order and grouping count.
class RollingDigest {
 public:
  RollingDigest() = default;
  // Continues from a value that was read before.
  explicit RollingDigest(Digest128 state) : state_(state) {}
  void update(std::span<const uint64_t> words);
  Digest128 value() const { return state_; }
  // What a check record keeps of each boundary.
  uint16_t prefix() const { return static_cast<uint16_t>(state_.lo); }

 private:
  Digest128 state_;
};

}  // namespace hypertwin
