// Pages and disk blocks as they travel: zero, raw, compressed by LZ4, or as a difference from the last copy
// sent. Knows no channel and no machine; what it reads is hostile, and only what was checked comes out.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"

namespace hypertwin::migrate {

inline constexpr size_t kPage = 4096;
inline constexpr size_t kBlock = 64u << 10;

// What a side can read, as bits in kHello and kAccept.
inline constexpr uint32_t kFeatureLz4 = 1;
inline constexpr uint32_t kFeatureDelta = 2;
// LZ4 only where this build has it.
uint32_t spoken_features();

enum class Coding : uint8_t { kZero = 0, kRaw = 1, kLz4 = 2, kDelta = 3 };

bool is_zero(std::span<const uint8_t> bytes);
// A copy of memory that a guest may be writing: what is torn is dirty, and sent again.
void copy_live(std::span<uint8_t> into, const uint8_t* from);

// The compressed size, or 0 when it would take more than `into` has, or when there is no LZ4.
size_t compress(std::span<const uint8_t> from, std::span<uint8_t> into);
// False unless exactly into.size() bytes come out.
bool decompress(std::span<const uint8_t> from, std::span<uint8_t> into);

// The difference of two pages: pairs of (words that are equal, words that follow as XOR), 8-byte words. The
// size, or 0 when it would take more than `into` has, or when the pages are equal.
size_t encode_delta(std::span<const uint8_t, kPage> base, std::span<const uint8_t, kPage> page,
                    std::span<uint8_t> into);
// Throws Error("CORRUPT"); `page`, which holds the base, is then useless.
void apply_delta(std::span<const uint8_t> delta, std::span<uint8_t, kPage> page);

// ---- Payloads of kPages and kBlocks: entries in ascending order.

struct Entry {
  Coding coding{};
  uint64_t first = 0;  // page or block
  uint64_t count = 1;  // zero: how many
  std::span<const uint8_t> bytes;
};

// Throws Error("CORRUPT") for anything that a page of `page_count` cannot be, or that `features` excludes.
class PageReader {
 public:
  PageReader(std::span<const uint8_t> payload, uint64_t page_count, uint32_t features)
      : in_(payload, "a frame of pages"), page_count_(page_count), features_(features) {}
  bool next(Entry& entry);

 private:
  ByteReader in_;
  uint64_t page_count_;
  uint32_t features_;
  uint64_t at_ = 0;
};

// The bytes of the `index`th block of a disk.
size_t block_bytes(uint64_t index, uint64_t disk_size);

// As PageReader, for blocks of one disk. `sizes`: of all disks in bytes.
class BlockReader {
 public:
  BlockReader(std::span<const uint8_t> payload, std::span<const uint64_t> sizes, uint32_t features);
  size_t disk() const { return disk_; }
  bool next(Entry& entry);

 private:
  ByteReader in_;
  size_t disk_ = 0;
  uint64_t size_ = 0;
  uint32_t features_;
  uint64_t at_ = 0;
};

// Content of one entry that is not kZero: `into` holds what was there before. Throws Error("CORRUPT").
void decode(const Entry& entry, std::span<uint8_t> into);

struct EncoderCounts {
  uint64_t zero = 0, raw = 0, compressed = 0, delta = 0;
};

// Makes payloads of kPages, choosing the smallest coding without trying hard for what does not shrink.
class PageEncoder {
 public:
  struct Options {
    uint32_t features = 0;
    size_t cache_bytes = 0;  // of copies kept for differences
    uint64_t page_count = 0;
  };
  explicit PageEncoder(const Options& options);

  // What was used in neither this round nor the last one may leave the cache.
  void begin_round(uint32_t round) { round_ = round; }
  // Pages ascend within a payload.
  void add(uint64_t page, std::span<const uint8_t, kPage> bytes);
  size_t size() const { return out_.size(); }
  // Completes the payload. It is valid until clear().
  std::span<const uint8_t> payload();
  void clear();
  const EncoderCounts& counts() const { return counts_; }
  size_t cached() const { return cache_.size(); }

 private:
  struct Copy {
    uint64_t page = 0;
    uint32_t round = 0;
    std::unique_ptr<std::array<uint8_t, kPage>> bytes;
  };
  void put(Coding coding, uint64_t page);
  void end_zeros();
  void keep(uint64_t page, std::span<const uint8_t, kPage> bytes);
  bool worth_compressing();

  const Options options_;
  const size_t most_copies_;
  std::vector<uint8_t> out_;
  uint64_t at_ = 0;  // the first page that the next entry may have
  uint64_t zeros_ = 0, zero_first_ = 0;
  EncoderCounts counts_;
  uint32_t round_ = 0;
  unsigned failures_ = 0;   // of compressing, in a row
  std::list<Copy> copies_;  // the most recently used first
  std::unordered_map<uint64_t, std::list<Copy>::iterator> cache_;
};

}  // namespace hypertwin::migrate
