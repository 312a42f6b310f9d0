// How long something takes, counted in buckets of about 6 %. One thread adds, any thread asks.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace hypertwin::ha {

class Histogram {
 public:
  void add(uint64_t ns) {
    auto& bucket = counts_[bucket_of(ns)];
    bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (ns > max_.load(std::memory_order_relaxed)) max_.store(ns, std::memory_order_relaxed);
  }
  // The upper edge of the bucket that holds this share; 0 when there is nothing.
  uint64_t quantile(double share) const {
    uint64_t total = 0;
    for (const auto& count : counts_) total += count.load(std::memory_order_relaxed);
    if (total == 0) return 0;
    const auto rank = static_cast<uint64_t>(static_cast<double>(total - 1) * share) + 1;
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i].load(std::memory_order_relaxed);
      if (seen >= rank) return std::min(upper(i), max());
    }
    return max();
  }
  uint64_t max() const { return max_.load(std::memory_order_relaxed); }

 private:
  static constexpr int kBits = 4;  // 16 buckets for each power of two

  static size_t bucket_of(uint64_t ns) {
    if (ns < (1u << kBits)) return static_cast<size_t>(ns);
    const int shift = std::bit_width(ns) - kBits - 1;
    return (static_cast<size_t>(shift + 1) << kBits) +
           static_cast<size_t>((ns >> shift) & ((1u << kBits) - 1));
  }
  static uint64_t upper(size_t bucket) {
    if (bucket < (1u << kBits)) return bucket;
    const auto shift = static_cast<int>(bucket >> kBits) - 1;
    const uint64_t low = (uint64_t{1} << kBits) | (bucket & ((1u << kBits) - 1));
    return (low << shift) + ((uint64_t{1} << shift) - 1);
  }

  std::array<std::atomic<uint64_t>, (64 - kBits + 1) << kBits> counts_{};
  std::atomic<uint64_t> max_{0};
};

}  // namespace hypertwin::ha
