// Bounds of guest RAM, and the marks of pages written.
#include <gtest/gtest.h>

#include <numeric>

#include "devices/guest_ram.h"

namespace hypertwin::devices {
namespace {

class GuestRamTest : public testing::Test {
 protected:
  // [0, 8 KiB), [8 KiB, 12 KiB) adjacent but apart in the host, a hole, [20 KiB, 24 KiB).
  std::vector<uint8_t> a = std::vector<uint8_t>(8192), b = std::vector<uint8_t>(4096),
                       c = std::vector<uint8_t>(4096);
  GuestRam ram{{{20480, 4096, c.data(), 2}, {0, 8192, a.data(), 0}, {8192, 4096, b.data(), 1}}};
};

TEST_F(GuestRamTest, ContainsExactlyWhatIsThere) {
  EXPECT_EQ(ram.size(), 16384u);
  for (uint64_t from = 0; from <= 26000; from += 512)
    for (uint64_t size : {uint64_t{1}, uint64_t{512}, uint64_t{4096}, uint64_t{4097}, uint64_t{12288}}) {
      uint64_t end = from + size;
      bool expected = end <= 12288 || (from >= 20480 && end <= 24576);
      EXPECT_EQ(ram.contains(from, size), expected) << from << "+" << size;
      std::vector<uint8_t> bytes(size);
      EXPECT_EQ(ram.read(from, bytes), expected) << from << "+" << size;
      EXPECT_EQ(ram.write(from, bytes), expected) << from << "+" << size;
    }
  for (uint64_t from : {UINT64_MAX, UINT64_MAX - 4095, uint64_t{1} << 63}) {
    EXPECT_FALSE(ram.contains(from, 1));
    EXPECT_FALSE(ram.contains(from, 8192));
    EXPECT_EQ(ram.translate(from, 1), nullptr);
  }
  EXPECT_FALSE(ram.contains(0, UINT64_MAX));
  EXPECT_FALSE(ram.contains(4096, UINT64_MAX));
  EXPECT_TRUE(ram.contains(999999, 0));
  EXPECT_TRUE(ram.read(999999, {}));
}

TEST_F(GuestRamTest, TranslatesWithinOneRegion) {
  EXPECT_EQ(ram.translate(8191, 1), a.data() + 8191);
  EXPECT_EQ(ram.translate(8191, 2), nullptr);
  EXPECT_EQ(ram.translate(8192, 4096), b.data());
  EXPECT_EQ(ram.translate(12288, 1), nullptr);
  EXPECT_EQ(ram.translate(20480, 4097), nullptr);
}

TEST_F(GuestRamTest, CopiesAcrossRegionsAndMarksThePages) {
  std::vector<uint8_t> bytes(4288);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  ASSERT_TRUE(ram.write(8000, bytes));
  std::vector<uint8_t> back(4288);  // up to 12288
  EXPECT_FALSE(ram.write(8000, std::vector<uint8_t>(4289)));
  ASSERT_TRUE(ram.read(8000, back));
  EXPECT_TRUE(std::equal(back.begin(), back.end(), bytes.begin()));
}

TEST_F(GuestRamTest, TakesMarksOnce) {
  ASSERT_TRUE(ram.write(4095, std::vector<uint8_t>(2)));
  ASSERT_TRUE(ram.write(9000, std::vector<uint8_t>(1)));
  uint64_t bits = 0;
  ram.take_written(0, {&bits, 1});
  EXPECT_EQ(bits, 3u);
  bits = 0;
  ram.take_written(0, {&bits, 1});
  EXPECT_EQ(bits, 0u);
  ram.take_written(1, {&bits, 1});
  EXPECT_EQ(bits, 1u);
  bits = 8;
  ram.take_written(2, {&bits, 1});
  EXPECT_EQ(bits, 8u);
}

struct Other : OtherWriter {
  explicit Other(GuestRam& its) : ram(its) {}
  GuestRam& ram;
  bool logs = false, wrote = false;
  void set_log(bool on) override { logs = on; }
  void mark_written() override {
    if (logs && wrote) ram.mark_written(4096, 1);
    wrote = false;
  }
};

TEST_F(GuestRamTest, OthersAreAskedWhatTheyWroteWhileSomebodyLooks) {
  Other first(ram), second(ram);
  ram.add_writer(first);
  EXPECT_FALSE(first.logs);
  ram.watch();
  ram.add_writer(second);
  EXPECT_TRUE(first.logs && second.logs);
  second.wrote = true;
  uint64_t bits = 0;
  ram.take_written(0, {&bits, 1});
  EXPECT_EQ(bits, 2u);
  ram.watch();
  ram.unwatch();
  EXPECT_TRUE(first.logs) << "one still looks";
  ram.remove_writer(second);
  ram.unwatch();
  EXPECT_FALSE(first.logs);
  EXPECT_TRUE(second.logs) << "it was removed before";
}

TEST_F(GuestRamTest, RefusesBadRegions) {
  EXPECT_ANY_THROW(GuestRam({{0, 4095, a.data(), 0}}));
  EXPECT_ANY_THROW(GuestRam({{1, 4096, a.data(), 0}}));
  EXPECT_ANY_THROW(GuestRam({{0, 8192, a.data(), 0}, {4096, 4096, b.data(), 1}}));
  EXPECT_ANY_THROW(GuestRam({{UINT64_MAX - 4095, 8192, a.data(), 0}}));
}

}  // namespace
}  // namespace hypertwin::devices
