// Digests and checksums by xxHash, compiled in here and nowhere else.
#include "base/digest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bytes.h"

namespace hypertwin {

static_assert(std::endian::native == std::endian::little, "RollingDigest hashes words as they lie in memory");

namespace {

Digest128 from(XXH128_hash_t hash) { return {hash.low64, hash.high64}; }

}  // namespace

std::string Digest128::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (size_t i = 0; i < 16; i++) {
    text[15 - i] = kDigits[(hi >> (4 * i)) & 15];
    text[31 - i] = kDigits[(lo >> (4 * i)) & 15];
  }
  return text;
}

Digest128 digest128(std::span<const uint8_t> bytes, uint64_t seed) {
  return from(XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed));
}

uint64_t checksum64(std::span<const uint8_t> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t checksum64_of(std::span<const uint8_t> bytes, std::span<const uint8_t> more) {
  if (more.empty()) return checksum64(bytes);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, bytes.data(), bytes.size());
  XXH3_64bits_update(&state, more.data(), more.size());
  return XXH3_64bits_digest(&state);
}

struct Hasher::State {
  XXH3_state_t xxh;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { reset(); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::reset() { XXH3_128bits_reset(&state_->xxh); }

void Hasher::update(std::span<const uint8_t> bytes) {
  XXH3_128bits_update(&state_->xxh, bytes.data(), bytes.size());
}

Digest128 Hasher::digest() const { return from(XXH3_128bits_digest(&state_->xxh)); }

void RollingDigest::update(std::span<const uint64_t> words) {
  // Up to 240 bytes XXH3 needs no long loop: 3 words of ours and 27 of the caller's.
  constexpr size_t kPiece = 27;
  do {
    size_t count = std::min(words.size(), kPiece);
    uint64_t block[3 + kPiece];
    block[0] = state_.lo;
    block[1] = state_.hi;
    block[2] = words.size();
    if (count != 0) std::memcpy(block + 3, words.data(), count * sizeof(uint64_t));
    state_ = from(XXH3_128bits(block, (3 + count) * sizeof(uint64_t)));
    words = words.subspan(count);
  } while (!words.empty());
}

}  // namespace hypertwin
