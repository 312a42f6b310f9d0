// The 8254 at its registers, and that it does not drift.
#include <gtest/gtest.h>

#include "devices_board.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kSecond = 1000000000;

uint64_t at_clock(uint64_t clock) {
  return static_cast<uint64_t>((static_cast<__uint128_t>(clock) * kSecond + Pit::kFrequency - 1) /
                               Pit::kFrequency);
}

class PitTest : public testing::Test {
 protected:
  FakeHost host;
  FakeLine irq;
  Pit pit{host, irq};

  void program(unsigned channel, unsigned mode, uint16_t count, bool bcd = false) {
    pit.port_write(0x43, 1, channel << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0));
    pit.port_write(static_cast<uint16_t>(0x40 + channel), 1, count & 0xff);
    pit.port_write(static_cast<uint16_t>(0x40 + channel), 1, count >> 8);
  }
  uint16_t latched(unsigned channel) {
    pit.port_write(0x43, 1, channel << 6);
    return read(channel);
  }
  uint16_t read(unsigned channel) {
    uint16_t port = static_cast<uint16_t>(0x40 + channel);
    uint32_t low = pit.port_read(port, 1);
    return static_cast<uint16_t>(low | pit.port_read(port, 1) << 8);
  }
};

TEST_F(PitTest, NothingIsDueBeforeItIsProgrammed) {
  EXPECT_FALSE(pit.deadline());
  pit.advance(kSecond);
  EXPECT_EQ(irq.rises, 0);
}

TEST_F(PitTest, RateGeneratorTicksWithoutDrift) {
  host.time = 12345;
  program(0, 2, 11932);  // 100.0 Hz nearly
  // 1193182 * 11932 clocks are exactly 11932 s: no rounding may remain.
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(pit.deadline());
    host.time = *pit.deadline();
    ASSERT_EQ(host.time, 12345 + at_clock(uint64_t{11932} * static_cast<uint64_t>(i + 1)));
    pit.advance(host.time - 1);
    ASSERT_EQ(irq.rises, i);
    pit.advance(host.time);
    ASSERT_EQ(irq.rises, i + 1);
  }
  host.time = 12345 + 11932 * kSecond;
  pit.advance(host.time);
  EXPECT_EQ(irq.rises, 5001);  // all that was missed is one
  EXPECT_EQ(*pit.deadline(), host.time + at_clock(11932));
}

TEST_F(PitTest, OneShotsFireOnce) {
  program(0, 0, 1000);
  EXPECT_EQ(*pit.deadline(), at_clock(1000));
  pit.advance(at_clock(1000));
  EXPECT_EQ(irq.rises, 1);
  EXPECT_FALSE(pit.deadline());
  pit.advance(kSecond);
  EXPECT_EQ(irq.rises, 1);
  // Mode 4 strobes one clock later, and a new count starts it again.
  host.time = kSecond;
  program(0, 4, 1000);
  EXPECT_EQ(*pit.deadline(), kSecond + at_clock(1001));
  pit.advance(*pit.deadline());
  EXPECT_EQ(irq.rises, 2);
  host.time = 2 * kSecond;
  pit.port_write(0x40, 1, 0x10);
  pit.port_write(0x40, 1, 0);
  EXPECT_EQ(*pit.deadline(), 2 * kSecond + at_clock(0x11));
}

TEST_F(PitTest, CountsDownAndLatches) {
  program(0, 2, 0);  // 65536
  host.time = at_clock(1);
  pit.port_write(0x43, 1, 0);
  host.time = at_clock(100);
  EXPECT_EQ(read(0), 65535);        // the latch
  EXPECT_EQ(read(0), 65536 - 100);  // live again
  host.time = at_clock(65536 + 3);
  EXPECT_EQ(latched(0), 65536 - 3);
  program(0, 3, 1000);
  host.time += at_clock(10);
  EXPECT_EQ(latched(0), 1000 - 20);  // by twos
  program(0, 0, 5);
  host.time += at_clock(7);
  EXPECT_EQ(latched(0), 65534);  // goes on below zero
}

TEST_F(PitTest, Bcd) {
  program(0, 2, 0x1234, true);
  host.time = at_clock(35);
  EXPECT_EQ(latched(0), 0x1199);
  EXPECT_EQ(*pit.deadline(), at_clock(1234));
}

TEST_F(PitTest, ByteAccessModes) {
  pit.port_write(0x43, 1, 0x14);  // channel 0, low byte only, mode 2
  pit.port_write(0x40, 1, 200);
  EXPECT_EQ(*pit.deadline(), at_clock(200));
  EXPECT_EQ(pit.port_read(0x40, 1), 200u);
  EXPECT_EQ(pit.port_read(0x40, 1), 200u);
  pit.port_write(0x43, 1, 0x24);  // high byte only
  pit.port_write(0x40, 1, 2);
  EXPECT_EQ(*pit.deadline(), at_clock(512));
  EXPECT_EQ(pit.port_read(0x40, 1), 2u);
}

TEST_F(PitTest, ReadBackGivesStatusThenCount) {
  pit.port_write(0x43, 1, 0x34);
  pit.port_write(0x43, 1, 0xe2);                           // status of channel 0
  EXPECT_EQ(pit.port_read(0x40, 1), 0x80u | 0x40 | 0x34);  // OUT high, no count yet
  pit.port_write(0x40, 1, 0x34);
  pit.port_write(0x40, 1, 0x12);
  pit.port_write(0x43, 1, 0xc2);  // both
  EXPECT_EQ(pit.port_read(0x40, 1), 0x80u | 0x34);
  EXPECT_EQ(read(0), 0x1234);
}

TEST_F(PitTest, Port61GatesChannel2AndShowsItsOutput) {
  program(2, 0, 1000);
  host.time = at_clock(5000);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0u);  // gate is low: not counting
  pit.port_write(0x61, 1, 1);
  host.time += at_clock(999) - 1;
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x21, 0x01u);
  host.time += at_clock(2);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x21, 0x21u);
  // A one-shot by the gate.
  pit.port_write(0x61, 1, 0);
  program(2, 1, 100);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0x20u);
  pit.port_write(0x61, 1, 1);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0u);
  host.time += at_clock(100) + 1;
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0x20u);
  // A square wave is high in its first half.
  program(2, 3, 100);
  host.time += at_clock(49);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0x20u);
  host.time += at_clock(2);
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x20, 0u);
}

TEST_F(PitTest, TheRefreshBitToggles) {
  uint32_t first = pit.port_read(0x61, 1) & 0x10;
  host.time = 15085;
  EXPECT_NE(pit.port_read(0x61, 1) & 0x10, first);
  host.time = 2 * 15085;
  EXPECT_EQ(pit.port_read(0x61, 1) & 0x10, first);
}

}  // namespace
}  // namespace hypertwin::devices
