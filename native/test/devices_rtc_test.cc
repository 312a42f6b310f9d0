// The MC146818 at its registers.
#include <gtest/gtest.h>

#include "devices_board.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kSecond = 1000000000;

class RtcTest : public testing::Test {
 protected:
  FakeHost host;
  FakeLine irq;
  Rtc rtc{host, irq, TestBoard::kStart, 64 << 20};

  uint8_t get(uint8_t index) {
    rtc.port_write(0x70, 1, index);
    return static_cast<uint8_t>(rtc.port_read(0x71, 1));
  }
  void set(uint8_t index, uint8_t value) {
    rtc.port_write(0x70, 1, index);
    rtc.port_write(0x71, 1, value);
  }
  void advance(uint64_t to) {
    host.time = to;
    rtc.advance(to);
  }
};

TEST_F(RtcTest, TellsTheStartTimePlusVirtualTimeInBcd) {
  for (auto [index, value] :
       {std::pair{0, 0x20}, {2, 0x13}, {4, 0x22}, {6, 3}, {7, 0x14}, {8, 0x11}, {9, 0x23}, {0x32, 0x20}})
    EXPECT_EQ(get(static_cast<uint8_t>(index)), value) << index;
  host.time = 2 * 3600 * kSecond;
  EXPECT_EQ(get(4), 0x00);
  EXPECT_EQ(get(7), 0x15);
  EXPECT_EQ(get(6), 4);
}

TEST_F(RtcTest, BinaryAndTwelveHours) {
  set(11, 0x06);
  EXPECT_EQ(get(4), 22);
  set(11, 0x04);
  EXPECT_EQ(get(4), 0x80 | 10);
  set(11, 0x00);
  EXPECT_EQ(get(4), 0x90);
  host.time = 2 * 3600 * kSecond;
  EXPECT_EQ(get(4), 0x12);  // midnight is 12 AM
}

TEST_F(RtcTest, IsSetWhileSetIsOn) {
  host.time = 10 * kSecond;
  set(11, 0x82);
  for (auto [index, value] :
       {std::pair{0, 0x58}, {2, 0x59}, {4, 0x23}, {7, 0x28}, {8, 0x02}, {9, 0x24}, {0x32, 0x20}})
    set(static_cast<uint8_t>(index), static_cast<uint8_t>(value));
  host.time = 11 * kSecond;
  EXPECT_EQ(get(0), 0x58);  // stands still
  set(11, 0x02);
  EXPECT_EQ(get(0), 0x58);
  host.time = 13 * kSecond;
  EXPECT_EQ(get(0), 0x00);
  EXPECT_EQ(get(7), 0x29);  // a leap year
  EXPECT_EQ(get(8), 0x02);
}

TEST_F(RtcTest, UpdateInProgressPrecedesTheSecond) {
  host.time = kSecond - 244001;
  EXPECT_EQ(get(10) & 0x80, 0);
  host.time = kSecond - 1;
  EXPECT_EQ(get(10) & 0x80, 0x80);
  host.time = kSecond;
  EXPECT_EQ(get(10) & 0x80, 0);
}

TEST_F(RtcTest, PeriodicInterrupt) {
  EXPECT_FALSE(rtc.deadline());
  set(11, 0x42);  // PIE at rate 6: 1024 Hz
  ASSERT_TRUE(rtc.deadline());
  EXPECT_EQ(*rtc.deadline(), 976563u);
  advance(976562);
  EXPECT_EQ(irq.rises, 0);
  advance(976563);
  EXPECT_EQ(irq.rises, 1);
  EXPECT_FALSE(rtc.deadline());  // until register C is read
  EXPECT_EQ(get(12), 0xc0);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(*rtc.deadline(), 1953125u);
  host.time = kSecond;
  rtc.advance(kSecond);
  EXPECT_EQ(get(12), 0xc0 | 0x10);  // the second ended too, its interrupt is not enabled
  EXPECT_EQ(*rtc.deadline(), kSecond + 976563);
}

TEST_F(RtcTest, UpdateEndedInterrupt) {
  host.time = kSecond / 2;
  set(11, 0x12);
  EXPECT_EQ(*rtc.deadline(), kSecond);
  advance(kSecond);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get(12) & 0x90, 0x90);
  EXPECT_EQ(*rtc.deadline(), 2 * kSecond);
}

TEST_F(RtcTest, AlarmAtATimeAndWithWildcards) {
  set(1, 0x30);
  set(3, 0x00);
  set(5, 0x23);
  set(11, 0x22);  // 23:00:30 is 47 minutes and 10 seconds away
  EXPECT_EQ(*rtc.deadline(), (46 * 60 + 40 + 30) * kSecond);
  advance(*rtc.deadline());
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get(12) & 0xa0, 0xa0);
  uint64_t first = host.time;
  EXPECT_EQ(*rtc.deadline(), first + 86400 * kSecond);
  set(5, 0xff);
  set(3, 0xc0);
  EXPECT_EQ(*rtc.deadline(), first + 60 * kSecond);
  set(1, 0x75);  // no such second
  EXPECT_FALSE(rtc.deadline());
}

TEST_F(RtcTest, FlagsAreThereForPollingWithoutInterrupts) {
  host.time = 5 * kSecond;
  EXPECT_EQ(get(12) & 0x50, 0x50);
  EXPECT_EQ(get(12), 0);
  EXPECT_EQ(irq.rises, 0);
}

TEST_F(RtcTest, MemorySizeAndPlainBytes) {
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x17) | get(0x18) << 8, 63 * 1024);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, 48 * 16);
  set(0x40, 0x5a);
  EXPECT_EQ(get(0x40), 0x5a);
  EXPECT_EQ(get(13), 0x80);
  set(13, 0);
  EXPECT_EQ(get(13), 0x80);
}

}  // namespace
}  // namespace hypertwin::devices
