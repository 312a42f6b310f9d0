// The 16550A at its registers, and the two small port devices.
#include <gtest/gtest.h>

#include "devices_board.h"

namespace hypertwin::devices {
namespace {

class SerialTest : public testing::Test {
 protected:
  FakeHost host;
  FakeLine irq;
  Serial serial{host, 0, irq};
  uint8_t get(unsigned reg) {
    return static_cast<uint8_t>(serial.port_read(static_cast<uint16_t>(0x3f8 + reg), 1));
  }
  void set(unsigned reg, uint8_t value) { serial.port_write(static_cast<uint16_t>(0x3f8 + reg), 1, value); }
  size_t receive(std::string_view text) { return serial.receive(as_bytes(text)); }
};

TEST_F(SerialTest, WritesLeaveAtOnce) {
  for (char c : std::string("boot\n")) {
    EXPECT_EQ(get(5), 0x60);
    set(0, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(host.console, "boot\n");
}

TEST_F(SerialTest, DivisorHidesTheDataRegisters) {
  EXPECT_EQ(get(3), 0);
  set(3, 0x83);
  set(0, 0x34);
  set(1, 0x12);
  EXPECT_EQ(get(0), 0x34);
  EXPECT_EQ(get(1), 0x12);
  set(3, 0x03);
  EXPECT_EQ(get(1), 0);
  EXPECT_EQ(host.console, "");
  set(7, 0xa5);
  EXPECT_EQ(get(7), 0xa5);
}

TEST_F(SerialTest, ReceivesWithoutFifo) {
  EXPECT_EQ(receive("ab"), 2u);
  EXPECT_EQ(get(5), 0x61);
  EXPECT_EQ(get(0), 'a');
  EXPECT_EQ(get(5), 0x61);
  EXPECT_EQ(get(0), 'b');
  EXPECT_EQ(get(5), 0x60);
  EXPECT_EQ(get(0), 0);
}

TEST_F(SerialTest, ReceiveInterruptByTriggerLevelAndTimeout) {
  set(2, 0xc1);  // FIFO, 14 bytes
  set(4, 0x08);
  set(1, 0x01);
  EXPECT_EQ(get(2), 0xc1);
  receive("0123456789abc");
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get(2), 0xcc);  // below the level: a time-out
  receive("d");
  EXPECT_EQ(get(2), 0xc4);
  for (int i = 0; i < 14; ++i) get(0);
  EXPECT_EQ(get(2), 0xc1);
  EXPECT_FALSE(irq.level);
}

TEST_F(SerialTest, InputBehindTheFifoIsBoundedAndKept) {
  set(2, 0x01);
  std::string big(6000, 'x');
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>('a' + i % 26);
  size_t accepted = receive(big);
  EXPECT_EQ(accepted, Serial::kMaxInput);
  EXPECT_EQ(receive(big.substr(accepted)), 16u);  // the FIFO took as many
  std::string read;
  while (get(5) & 1) read.push_back(static_cast<char>(get(0)));
  EXPECT_EQ(read, big.substr(0, Serial::kMaxInput + 16));
  EXPECT_EQ(serial.input_space(), Serial::kMaxInput);
}

TEST_F(SerialTest, TransmitterInterrupt) {
  set(4, 0x08);
  set(1, 0x02);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get(2), 0x02);  // reading it is the acknowledgement
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(get(2), 0x01);
  set(0, 'x');
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(irq.rises, 2);
  set(0, 'y');
  EXPECT_EQ(irq.rises, 3);  // an edge for each byte
}

TEST_F(SerialTest, Out2GatesTheInterrupt) {
  set(1, 0x02);
  EXPECT_FALSE(irq.level);
  set(4, 0x08);
  EXPECT_TRUE(irq.level);
}

TEST_F(SerialTest, Loopback) {
  EXPECT_EQ(get(6), 0xb0);
  set(4, 0x1a);  // loop, RTS, OUT2
  EXPECT_EQ(get(6) & 0xf0, 0x90);
  EXPECT_EQ(get(6) & 0x0f, 0);  // changes are read once
  receive("outside");
  set(0, 'i');
  EXPECT_EQ(host.console, "");
  EXPECT_EQ(get(0), 'i');
  EXPECT_EQ(get(5), 0x60);
  set(0, '1');
  set(0, '2');
  EXPECT_EQ(get(5), 0x63);  // overrun
  EXPECT_EQ(get(5), 0x61);
  set(4, 0x08);
  get(0);
  EXPECT_EQ(get(0), 'o');
}

TEST_F(SerialTest, ClearingTheFifoDropsWhatIsInIt) {
  set(2, 0x01);
  receive("abc");
  set(2, 0x03);
  EXPECT_EQ(get(5), 0x60);
}

TEST(PowerPort, OffAndReset) {
  TestBoard board;
  EXPECT_EQ(board.in(0x64), 0xffu);
  board.out(0x604, 0x0001, 2);
  board.out(0x64, 0xaa);
  board.out(0xcf9, 0x02);
  EXPECT_TRUE(board.host.power_events.empty());
  board.out(0x604, 0x2000, 2);
  board.out(0x64, 0xfe);
  board.out(0xcf9, 0x06);
  EXPECT_EQ(board.host.power_events,
            (std::vector{PowerEvent::kPowerOff, PowerEvent::kReset, PowerEvent::kReset}));
}

TEST(DebugPort, MarkersAreCountedAndHandedOn) {
  std::vector<uint32_t> seen;
  DebugPort port([&](uint32_t value) { seen.push_back(value); });
  port.port_write(0x5000, 4, 17);
  port.port_write(0x5001, 1, 99);
  port.port_write(0x5000, 1, 99);
  port.port_write(0x5008, 1, 99);
  port.port_write(0x5000, 4, 18);
  EXPECT_EQ(seen, (std::vector<uint32_t>{17, 18}));
  EXPECT_EQ(port.port_read(0x5000, 4), 18u);
  EXPECT_EQ(port.port_read(0x5004, 4), 2u);
  EXPECT_EQ(port.port_read(0x5008, 1), UINT32_MAX);
}

}  // namespace
}  // namespace hypertwin::devices
