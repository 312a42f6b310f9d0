// PCI configuration, windows and interrupts, and virtio's registers behind them.
#include <gtest/gtest.h>

#include "devices_board.h"

namespace hypertwin::devices {
namespace {

TEST(Pci, Mechanism1AsLinuxProbesIt) {
  TestBoard board;
  board.out(0xcfb, 1);
  board.out(0xcf8, 0x80000000, 4);
  EXPECT_EQ(board.in(0xcf8, 4), 0x80000000u);
  EXPECT_EQ(board.config(0, 0x0a, 2), 0x0600u);
  EXPECT_EQ(board.config(1, 0), 0x10411af4u);
  EXPECT_EQ(board.config(2, 0), 0x10421af4u);
  EXPECT_EQ(board.config(3, 0), 0xffffffffu);
  EXPECT_EQ(board.config(31, 0), 0xffffffffu);
  board.out(0xcf8, 0x80000100 | 1 << 11, 4);  // function 1
  EXPECT_EQ(board.in(0xcfc, 4), 0xffffffffu);
  board.out(0xcf8, 0x80010000, 4);  // bus 1
  EXPECT_EQ(board.in(0xcfc, 4), 0xffffffffu);
  board.out(0xcf8, 0, 4);  // not enabled
  EXPECT_EQ(board.in(0xcfc, 4), 0xffffffffu);
  board.out(0xcf8, 0x80000000, 4);
  EXPECT_EQ(board.in(0xcfe, 4), 0xffffffffu);  // across the register
}

TEST(Pci, WindowsAreAssignedSizedAndMoved) {
  TestBoard board;
  EXPECT_EQ(board.config(1, 0x10), 0xe0000000u);
  EXPECT_EQ(board.config(1, 0x18), 0xc001u);
  EXPECT_EQ(board.config(2, 0x10), 0xe0004000u);
  EXPECT_EQ(board.config(2, 0x18), 0xc101u);
  EXPECT_EQ(board.config(1, 0x3c, 2), 0x010au);
  EXPECT_EQ(board.config(1, 4, 2), 3u);
  board.set_config(1, 0x10, 0xffffffff);
  EXPECT_EQ(board.config(1, 0x10), 0xffffc000u);
  board.set_config(1, 0x18, 0xffffffff);
  EXPECT_EQ(board.config(1, 0x18), 0xff01u);
  board.set_config(1, 0x14, 0xffffffff);
  EXPECT_EQ(board.config(1, 0x14), 0u);
  board.set_config(1, 0x10, 0xd0000000);
  EXPECT_EQ(board.read(0xd0000012, 2), 2u);  // num_queues
  EXPECT_EQ(board.read(0xe0000012, 2), UINT64_MAX);
  board.set_config(1, 4, 0, 2);
  EXPECT_EQ(board.read(0xd0000012, 2), UINT64_MAX);
  board.set_config(1, 4, 1, 2);
  EXPECT_EQ(board.read(0xd0000012, 2), UINT64_MAX);
  board.set_config(1, 0, 0);  // read-only
  EXPECT_EQ(board.config(1, 0), 0x10411af4u);
  EXPECT_EQ(board.read(0xd0003ffe, 4), UINT64_MAX);  // beyond the end
}

TEST(Pci, CapabilitiesLeadToTheRegisters) {
  TestBoard board;
  struct Found {
    unsigned type, bar, offset, length, at;
  };
  std::vector<Found> found;
  for (uint8_t at = static_cast<uint8_t>(board.config(2, 0x34, 1)); at;
       at = static_cast<uint8_t>(board.config(2, static_cast<uint8_t>(at + 1), 1))) {
    ASSERT_LT(found.size(), 20u);
    EXPECT_EQ(board.config(2, at, 1), 0x09u);
    found.push_back(
        {board.config(2, static_cast<uint8_t>(at + 3), 1), board.config(2, static_cast<uint8_t>(at + 4), 1),
         board.config(2, static_cast<uint8_t>(at + 8)), board.config(2, static_cast<uint8_t>(at + 12)), at});
  }
  ASSERT_EQ(found.size(), 9u);
  for (unsigned i = 0; i < 8; ++i) {
    EXPECT_EQ(found[i].type, i % 4 + 1);
    EXPECT_EQ(found[i].bar, i < 4 ? 0u : 2u);
    EXPECT_LE(found[i].offset + found[i].length, i < 4 ? 0x4000u : 0x100u);
  }
  EXPECT_EQ(board.config(2, static_cast<uint8_t>(found[1].at + 16)), 4u);  // notify multiplier
  EXPECT_EQ(board.config(2, static_cast<uint8_t>(found[5].at + 16)), 0u);
  // The disk's capacity through memory, I/O, and the window in configuration space.
  uint64_t sectors = TestBoard::kDiskSize / 512;
  EXPECT_EQ(board.read(0xe0004000 + found[3].offset, 8), sectors);
  EXPECT_EQ(board.in(static_cast<uint16_t>(0xc100 + found[7].offset), 4), sectors);
  uint8_t window = static_cast<uint8_t>(found[8].at);
  EXPECT_EQ(found[8].type, 5u);
  board.set_config(2, static_cast<uint8_t>(window + 4), 0, 1);
  board.set_config(2, static_cast<uint8_t>(window + 8), found[3].offset);
  board.set_config(2, static_cast<uint8_t>(window + 12), 2);
  EXPECT_EQ(board.config(2, static_cast<uint8_t>(window + 16)) & 0xffff, sectors);
  for (uint32_t offset : {0x3fffu, 0x4000u, 0xfffffffeu}) {  // a window outside the bar reads as memory
    board.set_config(2, static_cast<uint8_t>(window + 8), offset);
    EXPECT_EQ(board.config(2, static_cast<uint8_t>(window + 16)), 0u);
  }
  board.set_config(2, static_cast<uint8_t>(window + 4), 0xff, 1);
  EXPECT_EQ(board.config(2, static_cast<uint8_t>(window + 16)), 0u);
}

TEST(VirtioPciRegisters, NegotiationRefusesWhatIsNotOffered) {
  TestBoard board;
  for (bool io : {false, true}) {
    Driver driver(board, 1, io);
    uint64_t offered = driver.offered();
    EXPECT_TRUE(offered & kVirtioVersion1);
    EXPECT_TRUE(offered & kVirtioIndirect);
    EXPECT_TRUE(offered & kVirtioEventIdx);
    EXPECT_FALSE(driver.negotiate(offered | 1));
    EXPECT_FALSE(driver.negotiate(offered & ~kVirtioVersion1));
    driver.set_status(15);  // without FEATURES_OK there is no DRIVER_OK
    EXPECT_EQ(driver.status(), 3);
    EXPECT_TRUE(driver.negotiate(kVirtioVersion1));
    driver.set_common(12, 4, 0);  // too late
    EXPECT_TRUE(driver.status() & 8);
    driver.set_common(0, 4, 7);
    EXPECT_EQ(driver.common(4, 4), 0u);
    driver.set_status(0);
    EXPECT_EQ(driver.status(), 0);
  }
}

TEST(VirtioPciRegisters, QueueSettings) {
  TestBoard board;
  Driver driver(board, 1);
  ASSERT_TRUE(driver.negotiate(kVirtioVersion1));
  EXPECT_EQ(driver.common(18, 2), 2u);
  driver.set_common(22, 2, 1);
  EXPECT_EQ(driver.common(24, 2), 256u);
  for (unsigned bad : {0u, 3u, 512u, 65535u}) {
    driver.set_common(24, 2, bad);
    EXPECT_EQ(driver.common(24, 2), 256u) << bad;
  }
  driver.set_common(24, 2, 64);
  EXPECT_EQ(driver.common(24, 2), 64u);
  EXPECT_EQ(driver.common(30, 2), 1u);
  driver.set_common(22, 2, 2);
  EXPECT_EQ(driver.common(24, 2), 0u);  // there is no such queue
  driver.set_common(28, 2, 1);
  driver.queue(0, 64, 0x10000, 0x11000, 0x12000);
  EXPECT_EQ(driver.common(28, 2), 1u);
  driver.set_common(32, 4, 0x5000);  // enabled: settled
  EXPECT_EQ(driver.common(32, 4), 0x10000u);
  EXPECT_EQ(driver.common(26, 2), 0xffffu);
}

TEST(VirtioPciRegisters, AQueueOutsideRamBreaksTheDevice) {
  struct Bad {
    uint64_t descriptors, driver, device;
  };
  for (Bad bad : {Bad{TestBoard::kRam, 0x1000, 0x2000}, Bad{0x1000, TestBoard::kRam - 4, 0x2000},
                  Bad{0x1000, 0x2000, ~uint64_t{7}}, Bad{0x1008, 0x2000, 0x3000}, Bad{0x1000, 0x2001, 0x3000},
                  Bad{0x1000, 0x2000, 0x3002}}) {
    TestBoard board;
    Driver driver(board, 1);
    ASSERT_TRUE(driver.negotiate(kVirtioVersion1));
    driver.queue(0, 256, bad.descriptors, bad.driver, bad.device);
    EXPECT_TRUE(driver.status() & VirtioDevice::kNeedsReset);
    EXPECT_EQ(driver.common(28, 2), 0u);
    driver.set_status(0);
    EXPECT_EQ(driver.status(), 0);
  }
}

// As Linux does before it starts another kernel.
TEST(VirtioPciRegisters, WithoutBusMasterTheDeviceLeavesMemoryAlone) {
  TestBoard board;
  constexpr uint64_t kBuffer = 0x40000;
  Ring rx(board, 0x10000, 16), requests(board, 0x20000, 16);
  auto start = [&](unsigned slot, Ring& ring) {
    Driver driver(board, slot);
    EXPECT_TRUE(driver.negotiate(kVirtioVersion1));
    driver.queue(0, 16, ring.descriptors(), ring.driver(), ring.device());
    driver.set_status(15);
    return driver;
  };
  Driver net = start(1, rx);
  Driver disk = start(2, requests);
  const std::vector<uint8_t> packet(60, 0x55);
  rx.offer(0, {{kBuffer, 2048, true}});
  rx.offer(1, {{kBuffer + 0x1000, 2048, true}});
  ASSERT_TRUE(board.net.receive(packet));
  EXPECT_EQ(rx.used_index(), 1);
  // A read of the first sector: the header is zeros.
  requests.offer(0, {{kBuffer + 0x2000, 16}, {kBuffer + 0x3000, 513, true}});
  disk.notify(0);
  ASSERT_EQ(board.host.requests.size(), 1u);

  std::vector<uint8_t> before(board.at(0), board.at(0) + TestBoard::kRam);
  for (unsigned slot : {1u, 2u}) board.set_config(slot, 4, 3, 2);
  EXPECT_EQ(net.status(), 0);
  EXPECT_EQ(disk.status(), 0);
  EXPECT_FALSE(board.net.receive(packet));
  EXPECT_FALSE(board.blk.complete(0, BlockStatus::kOk, std::vector<uint8_t>(512, 0x66)));
  net.notify(0);
  disk.notify(0);
  for (unsigned slot : {1u, 2u}) board.set_config(slot, 4, 7, 2);
  for (Driver* driver : {&net, &disk}) driver->set_status(15);  // not without features and queues
  EXPECT_FALSE(board.net.receive(packet));
  EXPECT_EQ(std::memcmp(board.at(0), before.data(), before.size()), 0);

  Ring anew(board, 0x10000, 16);
  start(1, anew);
  anew.offer(0, {{kBuffer, 2048, true}});
  EXPECT_TRUE(board.net.receive(packet));
  EXPECT_EQ(anew.used_index(), 1);
}

// Nobody gives it where there is no firmware and the driver does not.
TEST(VirtioPciRegisters, BusMasterThatWasNeverGivenIsNotMissed) {
  TestBoard board;
  Driver driver(board, 1);
  board.set_config(1, 4, 3, 2);
  Ring rx(board, 0x10000, 16);
  ASSERT_TRUE(driver.negotiate(kVirtioVersion1));
  driver.queue(0, 16, rx.descriptors(), rx.driver(), rx.device());
  driver.set_status(15);
  board.set_config(1, 4, 0x403, 2);
  EXPECT_EQ(driver.status(), 15);
  rx.offer(0, {{0x40000, 2048, true}});
  EXPECT_TRUE(board.net.receive(std::vector<uint8_t>(60, 0x55)));
  EXPECT_EQ(rx.used_index(), 1);
}

TEST(VirtioPciRegisters, QueuesAreServedElsewhere) {
  TestBoard board;
  FakeLine line;
  VirtioPci card(board.net, line);
  std::vector<unsigned> rung;
  card.serve_elsewhere([&](unsigned queue) { rung.push_back(queue); });
  card.bar_write(VirtioPci::kIoBar, VirtioPci::kIoNotify, 2, 1);
  card.bar_write(VirtioPci::kMemoryBar, VirtioPci::kMemoryNotify, 2, 0);
  card.bar_write(VirtioPci::kIoBar, VirtioPci::kIoNotify, 2, 2);
  card.bar_write(VirtioPci::kIoBar, VirtioPci::kIoNotify, 2, 0xffff);
  EXPECT_EQ(rung, (std::vector<unsigned>{1, 0})) << "and there are two";
}

TEST(VirtioPciRegisters, TheInterruptIsALevelUntilIsrIsRead) {
  TestBoard board;
  FakeLine line;
  VirtioPci card(board.net, line);
  card.config_write(4, 2, 7);
  card.queue_interrupt(0);
  card.config_interrupt();
  EXPECT_TRUE(line.level);
  EXPECT_TRUE(card.config_read(6, 2) & 8);
  card.config_write(4, 2, 0x407);  // INTx disabled
  EXPECT_FALSE(line.level);
  EXPECT_TRUE(card.config_read(6, 2) & 8);
  card.config_write(4, 2, 7);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(card.bar_read(0, VirtioPci::kMemoryIsr, 1), 3u);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(card.bar_read(2, VirtioPci::kIoIsr, 1), 0u);
}

}  // namespace
}  // namespace hypertwin::devices
