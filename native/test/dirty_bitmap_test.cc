// The bitmap scans against a naive one, in every version that this CPU has.
#include "dirty/bitmap.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace hypertwin::dirty {
namespace {

// Runs, gaps and full words, at a length that leaves a tail for every vector width.
std::vector<uint64_t> pattern(std::mt19937_64& random, size_t words) {
  std::vector<uint64_t> out(words);
  for (size_t bit = 0; bit < words * 64;) {
    uint64_t gap = random() % 5 ? random() % 10 : random() % 3000;
    uint64_t run = random() % 5 ? random() % 10 : random() % 3000;
    bit += gap;
    for (uint64_t i = 0; i < run && bit < words * 64; ++i, ++bit) out[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  return out;
}

bool bit(const std::vector<uint64_t>& words, size_t i) { return words[i / 64] >> (i % 64) & 1; }

class Bitmap : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!use_isa(GetParam())) GTEST_SKIP() << "this CPU lacks the instructions";
  }
  void TearDown() override { use_isa(best_isa()); }
};

TEST_P(Bitmap, AgreesWithTheNaiveScan) {
  std::mt19937_64 random(7);
  for (size_t words = 0; words < 200; ++words) {
    auto a = pattern(random, words), b = pattern(random, words);
    uint64_t count = 0, fresh = 0;
    auto merged = a;
    for (size_t i = 0; i < words * 64; ++i) {
      count += bit(a, i);
      fresh += bit(b, i) && !bit(a, i);
      if (bit(b, i)) merged[i / 64] |= uint64_t{1} << (i % 64);
    }
    EXPECT_EQ(popcount(a), count);
    EXPECT_EQ(any(a), count != 0);
    auto into = a;
    EXPECT_EQ(merge_count_new(into, b), fresh);
    EXPECT_EQ(into, merged);
    into = a;
    merge(into, b);
    EXPECT_EQ(into, merged);
  }
}

TEST_P(Bitmap, RangesAreTheMaximalRunsInOrder) {
  std::mt19937_64 random(11);
  for (size_t words = 0; words < 200; ++words) {
    auto a = pattern(random, words);
    std::vector<uint64_t> rebuilt(words);
    uint64_t end = 0;
    bool first = true;
    for (auto [start, count] : Ranges(a)) {
      ASSERT_GT(count, 0u);
      ASSERT_LE(start + count, words * 64);
      if (!first) {
        ASSERT_GT(start, end);
      }
      first = false;
      end = start + count;
      for (uint64_t i = start; i < end; ++i) rebuilt[i / 64] |= uint64_t{1} << (i % 64);
    }
    EXPECT_EQ(rebuilt, a);
  }
}

TEST_P(Bitmap, FindsTheOneWordThatDiffers) {
  for (uint64_t value : {uint64_t{0}, ~uint64_t{0}}) {
    std::vector<uint64_t> words(100, value);
    EXPECT_EQ(find_other_than(words, 0, value), 100u);
    for (size_t at = 0; at < 100; ++at) {
      words[at] ^= uint64_t{1} << (at % 64);
      EXPECT_EQ(find_other_than(words, at / 2, value), at);
      EXPECT_EQ(find_other_than(words, at + 1, value), 100u);
      words[at] = value;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, Bitmap, testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& test) {
                           return test.param == Isa::kPortable ? "Portable"
                                  : test.param == Isa::kAvx2   ? "Avx2"
                                                               : "Avx512";
                         });

}  // namespace
}  // namespace hypertwin::dirty
