// Scans of page bitmaps (one bit a page, 64-bit words) at memory speed: count, merge, ranges. Knows nothing
// of KVM. Bits beyond the last page are the caller's to keep zero.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>

namespace hypertwin::dirty {

constexpr size_t words_for(uint64_t pages) { return static_cast<size_t>((pages + 63) / 64); }

// Number of set bits.
uint64_t popcount(std::span<const uint64_t> words);
// Sets `count` bits from `first` on.
inline void set_range(std::span<uint64_t> words, uint64_t first, uint64_t count) {
  for (uint64_t bit = first; bit < first + count; ++bit) words[bit / 64] |= uint64_t{1} << (bit % 64);
}
// into |= from; the spans have the same length.
void merge(std::span<uint64_t> into, std::span<const uint64_t> from);
// As merge; returns how many bits became set that were not.
uint64_t merge_count_new(std::span<uint64_t> into, std::span<const uint64_t> from);
// Index of the first word at or after `from` that is not `value`; words.size() when there is none.
size_t find_other_than(std::span<const uint64_t> words, size_t from, uint64_t value);
inline bool any(std::span<const uint64_t> words) { return find_other_than(words, 0, 0) != words.size(); }

// The scans above exist in several versions, the fastest of which the CPU chooses at run time.
enum class Isa { kPortable, kAvx2, kAvx512 };
Isa best_isa();
// For tests and benchmarks: false when this CPU does not have it. Not for use while others scan.
bool use_isa(Isa isa);

struct Range {
  uint64_t first = 0;  // page
  uint64_t count = 0;  // pages
};

// The set bits as maximal runs, in order: for (auto [first, count] : Ranges(words)).
class Ranges {
 public:
  explicit Ranges(std::span<const uint64_t> words) : words_(words) {}

  class Iterator {
   public:
    using value_type = Range;
    using difference_type = std::ptrdiff_t;
    Iterator() = default;
    explicit Iterator(std::span<const uint64_t> words) : words_(words) {
      left_ = words_.empty() ? 0 : words_[0];
      advance();
    }
    const Range& operator*() const { return range_; }
    const Range* operator->() const { return &range_; }
    Iterator& operator++() {
      advance();
      return *this;
    }
    void operator++(int) { advance(); }
    bool operator==(std::default_sentinel_t) const { return range_.count == 0; }

   private:
    void advance() {
      if (left_ == 0) {
        do {
          if (++word_ >= words_.size()) {
            range_ = {};
            return;
          }
          // One look at the neighbour before the call: most gaps of a scattered bitmap are short.
          if (words_[word_] == 0) word_ = find_other_than(words_, word_, 0);
          if (word_ >= words_.size()) {
            range_ = {};
            return;
          }
          left_ = words_[word_];
        } while (left_ == 0);
      }
      int begin = std::countr_zero(left_);
      range_.first = uint64_t{word_} * 64 + static_cast<unsigned>(begin);
      uint64_t filled = left_ | ((uint64_t{1} << begin) - 1);
      if (~filled) {
        int end = std::countr_one(filled);
        range_.count = static_cast<unsigned>(end - begin);
        left_ &= ~uint64_t{0} << end;
        return;
      }
      word_ = find_other_than(words_, word_ + 1, ~uint64_t{0});
      int more = 0;
      if (word_ < words_.size()) {
        more = std::countr_one(words_[word_]);
        left_ = words_[word_] & (~uint64_t{0} << more);
      } else {
        left_ = 0;
      }
      range_.count = uint64_t{word_} * 64 + static_cast<unsigned>(more) - range_.first;
    }

    std::span<const uint64_t> words_;
    size_t word_ = 0;
    uint64_t left_ = 0;  // bits of words_[word_] not yet reported
    Range range_;
  };

  Iterator begin() const { return Iterator(words_); }
  std::default_sentinel_t end() const { return {}; }

 private:
  std::span<const uint64_t> words_;
};

}  // namespace hypertwin::dirty
