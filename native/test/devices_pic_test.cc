// The 8259A pair at its registers.
#include <gtest/gtest.h>

#include "devices_board.h"

namespace hypertwin::devices {
namespace {

class PicTest : public testing::Test {
 protected:
  void SetUp() override { init(0x01); }
  void init(uint8_t icw4) {
    for (uint16_t base : {uint16_t{0x20}, uint16_t{0xa0}}) {
      pic.port_write(base, 1, 0x11);
      pic.port_write(base + 1, 1, base == 0x20 ? 0x30 : 0x38);
      pic.port_write(base + 1, 1, base == 0x20 ? 4 : 2);
      pic.port_write(base + 1, 1, icw4);
    }
  }
  void pulse(unsigned irq) {
    pic.line(irq).set(true);
    pic.line(irq).set(false);
  }
  uint8_t isr(uint16_t base = 0x20) {
    pic.port_write(base, 1, 0x0b);
    return static_cast<uint8_t>(pic.port_read(base, 1));
  }
  uint8_t irr(uint16_t base = 0x20) {
    pic.port_write(base, 1, 0x0a);
    return static_cast<uint8_t>(pic.port_read(base, 1));
  }
  void eoi(uint16_t base = 0x20) { pic.port_write(base, 1, 0x20); }
  Pic pic;
};

TEST_F(PicTest, AnEdgeIsLatchedOnceAndServedUntilEoi) {
  pic.line(3).set(true);
  ASSERT_TRUE(pic.interrupt_pending());
  EXPECT_EQ(irr(), 0x08);
  EXPECT_EQ(pic.acknowledge(), 0x33);
  EXPECT_EQ(irr(), 0);
  EXPECT_EQ(isr(), 0x08);
  EXPECT_FALSE(pic.interrupt_pending());  // still high, but that is no edge
  eoi();
  EXPECT_EQ(isr(), 0);
  EXPECT_FALSE(pic.interrupt_pending());
  pic.line(3).set(false);
  pic.line(3).set(true);
  EXPECT_TRUE(pic.interrupt_pending());
}

TEST_F(PicTest, AMoreUrgentRequestNestsAndALessUrgentOneWaits) {
  pulse(4);
  EXPECT_EQ(pic.acknowledge(), 0x34);
  pulse(5);
  EXPECT_FALSE(pic.interrupt_pending());
  pulse(1);
  ASSERT_TRUE(pic.interrupt_pending());
  EXPECT_EQ(pic.acknowledge(), 0x31);
  EXPECT_EQ(isr(), 0x12);
  eoi();  // the most urgent in service
  EXPECT_EQ(isr(), 0x10);
  eoi();
  EXPECT_EQ(pic.acknowledge(), 0x35);
}

TEST_F(PicTest, TheMaskHidesButKeepsARequest) {
  pic.port_write(0x21, 1, 0x08);
  EXPECT_EQ(pic.port_read(0x21, 1), 0x08u);
  pulse(3);
  EXPECT_FALSE(pic.interrupt_pending());
  EXPECT_EQ(irr(), 0x08);
  pic.port_write(0x21, 1, 0);
  EXPECT_EQ(pic.acknowledge(), 0x33);
}

TEST_F(PicTest, TheSlaveComesThroughIrq2WithItsOwnVector) {
  pulse(10);
  ASSERT_TRUE(pic.interrupt_pending());
  EXPECT_EQ(pic.acknowledge(), 0x3a);
  EXPECT_EQ(isr(), 0x04);
  EXPECT_EQ(isr(0xa0), 0x04);
  pulse(9);  // more urgent on the slave, but the master waits for its EOI
  EXPECT_FALSE(pic.interrupt_pending());
  eoi();
  EXPECT_EQ(pic.acknowledge(), 0x39);
  eoi(0xa0);
  eoi(0xa0);
  eoi();
  EXPECT_EQ(isr(0xa0), 0);
  EXPECT_FALSE(pic.interrupt_pending());
}

TEST_F(PicTest, SlaveRequestsFollowEachOther) {
  pulse(12);
  pulse(14);
  pulse(8);
  for (uint8_t vector : {0x38, 0x3c, 0x3e}) {
    ASSERT_TRUE(pic.interrupt_pending());
    EXPECT_EQ(pic.acknowledge(), vector);
    eoi(0xa0);
    eoi();
  }
  EXPECT_FALSE(pic.interrupt_pending());
}

TEST_F(PicTest, SpecialFullyNestedLetsTheSlaveNest) {
  init(0x11);
  pulse(10);
  EXPECT_EQ(pic.acknowledge(), 0x3a);
  pulse(9);
  ASSERT_TRUE(pic.interrupt_pending());
  EXPECT_EQ(pic.acknowledge(), 0x39);
}

TEST_F(PicTest, ALevelComesAgainAfterEoiWhileItIsHigh) {
  pic.port_write(0x4d1, 1, 0x08);
  EXPECT_EQ(pic.port_read(0x4d0, 2), 0x0800u);
  IrqLine& a = pic.new_source(11);
  IrqLine& b = pic.new_source(11);
  a.set(true);
  b.set(true);
  EXPECT_EQ(pic.acknowledge(), 0x3b);
  a.set(false);
  eoi(0xa0);
  eoi();
  ASSERT_TRUE(pic.interrupt_pending());  // b still asks
  EXPECT_EQ(pic.acknowledge(), 0x3b);
  b.set(false);
  eoi(0xa0);
  eoi();
  EXPECT_FALSE(pic.interrupt_pending());
}

TEST_F(PicTest, ElcrLeavesTheTimerByEdge) {
  pic.port_write(0x4d0, 2, 0xffff);
  EXPECT_EQ(pic.port_read(0x4d0, 2), 0xdef8u);
}

TEST_F(PicTest, NothingThereGivesTheSpuriousVector) {
  EXPECT_EQ(pic.acknowledge(), 0x37);
  EXPECT_EQ(isr(), 0);
}

TEST_F(PicTest, AWithdrawnLevelIsForgottenThroughTheCascade) {
  pic.port_write(0x4d1, 1, 0x08);
  pic.line(11).set(true);
  EXPECT_TRUE(pic.interrupt_pending());
  pic.line(11).set(false);
  EXPECT_FALSE(pic.interrupt_pending());
  EXPECT_EQ(isr(0xa0), 0);
  EXPECT_EQ(isr(), 0);
}

TEST_F(PicTest, AutoEoiLeavesNothingInService) {
  init(0x03);
  pulse(5);
  EXPECT_EQ(pic.acknowledge(), 0x35);
  EXPECT_EQ(isr(), 0);
}

TEST_F(PicTest, RotationMakesTheServedOneTheLeastUrgent) {
  pulse(3);
  EXPECT_EQ(pic.acknowledge(), 0x33);
  pic.port_write(0x20, 1, 0xa0);  // rotate on non-specific EOI: now 4 is the most urgent
  pulse(3);
  pulse(5);
  pulse(0);
  EXPECT_EQ(pic.acknowledge(), 0x35);
  pic.port_write(0x20, 1, 0x65);  // specific EOI
  pic.port_write(0x20, 1, 0xc7);  // set priority: 0 is the most urgent again
  EXPECT_EQ(pic.acknowledge(), 0x30);
}

TEST_F(PicTest, SpecialMaskModeLetsLessUrgentOnesPass) {
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x31);
  pulse(6);
  EXPECT_FALSE(pic.interrupt_pending());
  pic.port_write(0x21, 1, 0x02);
  pic.port_write(0x20, 1, 0x68);
  EXPECT_EQ(pic.acknowledge(), 0x36);
  eoi();  // not the masked one
  EXPECT_EQ(isr(), 0x02);
}

TEST_F(PicTest, PollingAcknowledges) {
  pulse(6);
  pic.port_write(0x20, 1, 0x0c);
  EXPECT_EQ(pic.port_read(0x20, 1), 0x86u);
  EXPECT_EQ(isr(), 0x40);
  pic.port_write(0x20, 1, 0x0c);
  EXPECT_EQ(pic.port_read(0x20, 1), 0u);
}

TEST_F(PicTest, LinesThatAreNotThereAreRefused) {
  EXPECT_ANY_THROW(pic.line(2));
  EXPECT_ANY_THROW(pic.line(16));
  for (int i = 0; i < 32; ++i) pic.new_source(7);
  EXPECT_ANY_THROW(pic.new_source(7));
}

}  // namespace
}  // namespace hypertwin::devices
