// virtio-net against a driver in plain C++: normal traffic, and rings that break the rules.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kMergeable = 1 << 15;
constexpr uint64_t kBuffers = 0x40000;

std::vector<uint8_t> packet_of(size_t size, uint8_t seed = 1) {
  std::vector<uint8_t> packet(size);
  std::iota(packet.begin(), packet.end(), seed);
  return packet;
}

class VirtioNetTest : public testing::Test {
 protected:
  void start(uint64_t features = 0, uint16_t size = 16, bool io = false) {
    driver = std::make_unique<Driver>(board, 1, io);
    rx = std::make_unique<Ring>(board, 0x10000, size);
    tx = std::make_unique<Ring>(board, 0x20000, size);
    ASSERT_TRUE(driver->negotiate(kVirtioVersion1 | features));
    driver->queue(0, size, rx->descriptors(), rx->driver(), rx->device());
    driver->queue(1, size, tx->descriptors(), tx->driver(), tx->device());
    driver->set_status(15);
  }
  std::vector<uint8_t> bytes(uint64_t address, size_t size) {
    return {board.at(address), board.at(address) + size};
  }
  void put(uint64_t address, std::span<const uint8_t> data) {
    std::copy(data.begin(), data.end(), board.at(address));
  }
  bool broken() { return driver->status() & VirtioDevice::kNeedsReset; }

  TestBoard board;
  std::unique_ptr<Driver> driver;
  std::unique_ptr<Ring> rx, tx;
};

TEST_F(VirtioNetTest, Configuration) {
  start();
  EXPECT_EQ(driver->device_config(0, 4), 0x00000002u);
  EXPECT_EQ(driver->device_config(4, 2), 0x0100u);
  EXPECT_EQ(driver->device_config(6, 2), 1u);
  EXPECT_EQ(driver->device_config(10, 2), 1500u);
  EXPECT_EQ(driver->device_config(60, 4), 0u);
  uint64_t generation = driver->common(21, 1);
  board.net.set_link(false);
  EXPECT_EQ(driver->device_config(6, 2), 0u);
  EXPECT_NE(driver->common(21, 1), generation);
  EXPECT_EQ(driver->isr(), 2);
}

TEST_F(VirtioNetTest, TransmitsAcrossDescriptors) {
  for (bool io : {false, true}) {
    start(0, 16, io);
    board.host.packets.clear();
    auto packet = packet_of(1000);
    put(kBuffers + 12, std::span(packet).first(10));
    put(kBuffers + 0x1000, std::span(packet).subspan(10));
    tx->offer(3, {{kBuffers, 22}, {kBuffers + 0x1000, 990}});
    driver->notify(1);
    ASSERT_EQ(board.host.packets.size(), 1u);
    EXPECT_EQ(board.host.packets[0], packet);
    EXPECT_EQ(tx->used_index(), 1);
    EXPECT_EQ(tx->used(0), std::pair(3u, 0u));
    EXPECT_EQ(driver->isr(), 1);
  }
}

TEST_F(VirtioNetTest, TransmitsByAnIndirectTable) {
  start(kVirtioIndirect);
  auto packet = packet_of(100);
  put(kBuffers + 12, packet);
  uint64_t table = kBuffers + 0x2000;
  tx->write_descriptor(table, kBuffers, 12, 1, 2);
  tx->write_descriptor(table + 32, kBuffers + 12, 100, 0, 0);
  tx->descriptor(5, table, 48, 4);
  tx->offer(5);
  driver->notify(1);
  ASSERT_EQ(board.host.packets.size(), 1u);
  EXPECT_EQ(board.host.packets[0], packet);
  EXPECT_EQ(tx->used(0).first, 5u);
}

TEST_F(VirtioNetTest, ReceivesIntoABufferAndMarksItsPage) {
  start();
  rx->offer(0, {{kBuffers, 12, true}, {kBuffers + 0x100, 2000, true}});
  driver->notify(0);
  std::vector<uint64_t> marks(4);
  board.ram.take_written(0, marks);
  std::fill(marks.begin(), marks.end(), 0);
  auto packet = packet_of(60);
  EXPECT_TRUE(board.net.receive(packet));
  EXPECT_EQ(rx->used_index(), 1);
  EXPECT_EQ(rx->used(0), std::pair(0u, 72u));
  EXPECT_EQ(bytes(kBuffers, 12), (std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(bytes(kBuffers + 0x100, 60), packet);
  EXPECT_EQ(driver->isr(), 1);
  board.ram.take_written(0, marks);
  EXPECT_EQ(marks[1], uint64_t{1} << (kBuffers / 4096 - 64));
  EXPECT_EQ(marks[0], uint64_t{1} << (rx->device() / 4096));
}

TEST_F(VirtioNetTest, PacketsWaitForBuffersInOrderAndAreBounded) {
  start(0, 256);
  for (unsigned i = 0; i < VirtioNet::kMaxPending; ++i)
    EXPECT_TRUE(board.net.receive(packet_of(60, static_cast<uint8_t>(i))));
  EXPECT_FALSE(board.net.receive(packet_of(60)));
  EXPECT_EQ(board.net.counters().dropped, 1u);
  for (uint16_t i = 0; i < 100; ++i) rx->offer(i, {{kBuffers + 2048u * i, 2048, true}});
  driver->notify(0);
  EXPECT_EQ(rx->used_index(), 100);
  for (uint16_t i = 0; i < 100; ++i) EXPECT_EQ(*board.at(kBuffers + 2048u * i + 12), i);
  EXPECT_EQ(board.net.pending(), VirtioNet::kMaxPending - 100);
  driver->set_status(0);
  EXPECT_EQ(board.net.pending(), 0u);
  EXPECT_FALSE(board.net.receive(packet_of(60)));  // no driver
}

TEST_F(VirtioNetTest, LongPacketsNeedTheMtuAndMergedBuffers) {
  start(kMergeable);
  EXPECT_FALSE(board.net.receive(packet_of(1519)));
  for (uint16_t i = 0; i < 4; ++i) rx->offer(i, {{kBuffers + 512u * i, 512, true}});
  auto packet = packet_of(1400);
  EXPECT_TRUE(board.net.receive(packet));
  ASSERT_EQ(rx->used_index(), 3);
  EXPECT_EQ(rx->used(0).second, 512u);
  EXPECT_EQ(rx->used(2).second, 1412u - 1024);
  EXPECT_EQ(*board.at(kBuffers + 10), 3);
  EXPECT_EQ(bytes(kBuffers + 12, 1400), packet);
  EXPECT_TRUE(board.net.receive(packet));  // one buffer left: waits, and takes nothing
  EXPECT_EQ(rx->used_index(), 3);
  for (uint16_t i = 4; i < 6; ++i) rx->offer(i, {{kBuffers + 512u * i, 512, true}});
  driver->notify(0);
  EXPECT_EQ(rx->used_index(), 6);
  EXPECT_EQ(bytes(kBuffers + 512 * 3 + 12, 1400), packet);
}

TEST_F(VirtioNetTest, ABufferTooSmallLosesThePacketNotTheBuffer) {
  start();
  rx->offer(0, {{kBuffers, 50, true}});
  EXPECT_FALSE(board.net.receive(packet_of(60)));
  EXPECT_EQ(rx->used_index(), 0);
  EXPECT_TRUE(board.net.receive(packet_of(38)));
  EXPECT_EQ(rx->used_index(), 1);
}

TEST_F(VirtioNetTest, InterruptsAreSuppressedByTheFlag) {
  start();
  rx->set_flags(1);
  rx->offer(0, {{kBuffers, 2048, true}});
  rx->offer(1, {{kBuffers + 2048, 2048, true}});
  board.net.receive(packet_of(60));
  EXPECT_EQ(driver->isr(), 0);
  rx->set_flags(0);
  board.net.receive(packet_of(60));
  EXPECT_EQ(driver->isr(), 1);
}

TEST_F(VirtioNetTest, EventIndexAsksForOneInterruptAndOneNotification) {
  start(kVirtioEventIdx);
  for (uint16_t i = 0; i < 8; ++i) rx->offer(i, {{kBuffers + 2048u * i, 2048, true}});
  rx->set_used_event(2);
  for (int expected : {0, 0, 1, 0, 0}) {
    board.net.receive(packet_of(60));
    EXPECT_EQ(driver->isr(), expected);
  }
  tx->offer(0, {{kBuffers, 100}});
  driver->notify(1);
  EXPECT_EQ(tx->available_event(), 1);
  EXPECT_EQ(tx->used_index(), 1);
}

TEST_F(VirtioNetTest, ManyWrapsOfTheIndices) {
  start(kVirtioEventIdx, 4);
  auto packet = packet_of(64);
  put(kBuffers + 12, packet);
  for (unsigned i = 0; i < 70000; ++i) {
    tx->set_used_event(tx->available);
    tx->offer(static_cast<uint16_t>(i % 4), {{kBuffers, 76}});
    driver->notify(1);
    ASSERT_EQ(tx->used_index(), tx->available);
    ASSERT_EQ(driver->isr(), 1);
    board.host.packets.clear();
  }
}

// Each breaks the rules of the transmit ring in its own way; the device must break and the host must not.
struct Hostile {
  const char* name;
  std::function<void(TestBoard&, Ring&)> write;
};

class HostileRing : public testing::TestWithParam<Hostile> {};

TEST_P(HostileRing, BreaksTheDeviceAndResetMendsIt) {
  TestBoard board;
  Driver driver(board, 1);
  Ring tx(board, 0x20000, 16);
  auto start = [&] {
    tx = Ring(board, 0x20000, 16);
    ASSERT_TRUE(driver.negotiate(kVirtioVersion1 | kVirtioIndirect));
    driver.queue(1, 16, tx.descriptors(), tx.driver(), tx.device());
    driver.set_status(15);
  };
  start();
  GetParam().write(board, tx);
  driver.notify(1);
  EXPECT_TRUE(driver.status() & VirtioDevice::kNeedsReset);
  EXPECT_EQ(driver.isr() & 2, 2);
  EXPECT_TRUE(board.host.packets.empty());
  EXPECT_EQ(tx.used_index(), 0);
  driver.notify(1);
  EXPECT_EQ(tx.used_index(), 0);
  start();
  tx.offer(0, {{kBuffers, 100}});
  driver.notify(1);
  EXPECT_EQ(tx.used_index(), 1);
  EXPECT_EQ(board.host.packets.size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(
    Rings, HostileRing,
    testing::Values(Hostile{"Loop",
                            [](TestBoard&, Ring& ring) {
                              ring.descriptor(0, kBuffers, 64, 1, 1);
                              ring.descriptor(1, kBuffers, 64, 1, 0);
                              ring.offer(0);
                            }},
                    Hostile{"HeadOutside", [](TestBoard&, Ring& ring) { ring.offer(16); }},
                    Hostile{"NextOutside",
                            [](TestBoard&, Ring& ring) {
                              ring.descriptor(0, kBuffers, 64, 1, 16);
                              ring.offer(0);
                            }},
                    Hostile{"AddressOutside",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{TestBoard::kRam - 10, 11}});
                            }},
                    Hostile{"AddressWraps",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{UINT64_MAX - 10, 100}});
                            }},
                    Hostile{"HugeLength",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{kBuffers, 0xffffffff}});
                            }},
                    Hostile{"ZeroLength",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{kBuffers, 0}});
                            }},
                    Hostile{"ReadableAfterWritable",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{kBuffers, 64}, {kBuffers, 64, true}, {kBuffers, 64}});
                            }},
                    Hostile{"IndexJumps",
                            [](TestBoard&, Ring& ring) {
                              ring.available = 16;
                              ring.offer(0, {{kBuffers, 64}});
                            }},
                    Hostile{"NoHeader",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{kBuffers, 11}});
                            }},
                    Hostile{"OnlyWritable",
                            [](TestBoard&, Ring& ring) {
                              ring.offer(0, {{kBuffers, 64, true}});
                            }},
                    Hostile{"IndirectInIndirect",
                            [](TestBoard&, Ring& ring) {
                              ring.write_descriptor(kBuffers, kBuffers, 16, 4, 0);
                              ring.descriptor(0, kBuffers, 16, 4);
                              ring.offer(0);
                            }},
                    Hostile{"IndirectLoop",
                            [](TestBoard&, Ring& ring) {
                              ring.write_descriptor(kBuffers, kBuffers, 16, 1, 0);
                              ring.descriptor(0, kBuffers, 16, 4);
                              ring.offer(0);
                            }},
                    Hostile{"IndirectOddLength",
                            [](TestBoard&, Ring& ring) {
                              ring.descriptor(0, kBuffers, 17, 4);
                              ring.offer(0);
                            }},
                    Hostile{"IndirectHuge",
                            [](TestBoard&, Ring& ring) {
                              ring.descriptor(0, 0, 16 * 4096, 4);
                              ring.offer(0);
                            }},
                    Hostile{"IndirectOutside",
                            [](TestBoard&, Ring& ring) {
                              ring.descriptor(0, TestBoard::kRam - 16, 32, 4);
                              ring.offer(0);
                            }},
                    Hostile{"IndirectWithNext",
                            [](TestBoard&, Ring& ring) {
                              ring.write_descriptor(kBuffers, kBuffers, 64, 0, 0);
                              ring.descriptor(0, kBuffers, 16, 5, 1);
                              ring.offer(0);
                            }}),
    [](const auto& hostile) { return std::string(hostile.param.name); });

// A host's side that takes packets that are not finished.
struct FakeUnfinished : UnfinishedHost {
  struct Sent {
    NetHeader header;
    std::vector<uint8_t> frame;
    size_t parts = 0;
    const void* second = nullptr;
  };
  std::vector<uint64_t> finishes;
  std::vector<Sent> sent;

  void guest_finishes(uint32_t, uint64_t features) override { finishes.push_back(features); }
  void transmit_unfinished(uint32_t, std::span<const iovec> parts) override {
    Sent each;
    ASSERT_EQ(parts[0].iov_len, sizeof each.header);
    std::memcpy(&each.header, parts[0].iov_base, sizeof each.header);
    for (const iovec& part : parts.subspan(1)) {
      const auto* at = static_cast<const uint8_t*>(part.iov_base);
      each.frame.insert(each.frame.end(), at, at + part.iov_len);
    }
    each.parts = parts.size();
    each.second = parts[1].iov_base;
    sent.push_back(std::move(each));
  }
};

constexpr uint64_t kChecksum = 1 << 0, kHostTcp4 = 1 << 11, kHostTcp6 = 1 << 12, kHostCongestion = 1 << 13;
constexpr uint64_t kGuestAll = VirtioNet::kGuestChecksum | VirtioNet::kGuestTcp4 | VirtioNet::kGuestTcp6;

class UnfinishedNetTest : public testing::Test {
 protected:
  std::unique_ptr<VirtioNet> make(UnfinishedHost* to) {
    return std::make_unique<VirtioNet>(
        board.host, 0, "net", board.ram,
        VirtioNet::Options{.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .link_up = true, .unfinished = to});
  }
  void put(uint64_t address, const NetHeader& header, std::span<const uint8_t> frame) {
    std::memcpy(board.at(address), &header, sizeof header);
    std::copy(frame.begin(), frame.end(), board.at(address + sizeof header));
  }
  static std::vector<uint8_t> headed(const NetHeader& header, std::span<const uint8_t> frame) {
    std::vector<uint8_t> bytes(sizeof header + frame.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    std::copy(frame.begin(), frame.end(), bytes.begin() + sizeof header);
    return bytes;
  }
  // One packet of 200 bytes with this header; whether it came out.
  bool passes(NetHeader header) {
    const size_t before = host.sent.size();
    put(kBuffers, header, packet_of(200));
    driver.give(1, 0, {{kBuffers, 212}});
    EXPECT_FALSE(driver.broken());
    return host.sent.size() > before;
  }

  TestBoard board;
  FakeUnfinished host;
  std::unique_ptr<VirtioNet> net = make(&host);
  BareDriver driver{board, *net};
};

TEST_F(UnfinishedNetTest, IsOfferedOnlyWhereTheHostTakesIt) {
  const uint64_t all = kChecksum | kHostTcp4 | kHostTcp6 | kHostCongestion | kGuestAll;
  EXPECT_EQ(net->offered() & all, all);
  EXPECT_EQ(board.net.offered() & all, 0u);
}

TEST_F(UnfinishedNetTest, TransmitsSegmentsStraightFromRam) {
  ASSERT_TRUE(driver.start(kChecksum | kHostTcp4));
  const auto frame = packet_of(30000);
  const NetHeader header{.flags = NetHeader::kNeedsChecksum | 2,
                         .segments = NetHeader::kTcp4,
                         .header_size = 54,
                         .segment_size = 1448,
                         .checksum_start = 34,
                         .checksum_offset = 16,
                         .buffers = 77};
  put(kBuffers, header, frame);
  driver.give(1, 0, {{kBuffers, 12}, {kBuffers + 12, 10000}, {kBuffers + 10012, 20000}});
  ASSERT_EQ(host.sent.size(), 1u);
  EXPECT_EQ(host.sent[0].frame, frame);
  EXPECT_EQ(host.sent[0].parts, 3u);
  EXPECT_EQ(host.sent[0].second, board.at(kBuffers + 12)) << "not a copy";
  const NetHeader& sent = host.sent[0].header;
  EXPECT_EQ(sent.flags, NetHeader::kNeedsChecksum) << "the other flag is the device's";
  EXPECT_EQ(sent.buffers, 0u);
  EXPECT_EQ(sent.segments, NetHeader::kTcp4);
  EXPECT_EQ(sent.segment_size, 1448u);
  EXPECT_EQ(driver.rings[1].used_index(), 1);
  EXPECT_TRUE(board.host.packets.empty());
}

TEST_F(UnfinishedNetTest, RefusesWhatWasNotNegotiatedOrLiesOutside) {
  const NetHeader whole{};
  const NetHeader checksum{.flags = 1, .checksum_start = 34, .checksum_offset = 16};
  const NetHeader tcp4{.flags = 1,
                       .segments = NetHeader::kTcp4,
                       .header_size = 54,
                       .segment_size = 100,
                       .checksum_start = 34,
                       .checksum_offset = 16};
  auto changed = [](NetHeader header, auto change) {
    change(header);
    return header;
  };
  ASSERT_TRUE(driver.start(kChecksum | kHostTcp4));
  EXPECT_TRUE(passes(whole));
  EXPECT_TRUE(passes(checksum));
  EXPECT_TRUE(passes(tcp4));
  EXPECT_TRUE(passes(changed(checksum, [](auto& h) { h.checksum_start = 182; })))
      << "its last byte is the 200th";
  const std::vector<NetHeader> bad = {
      changed(checksum, [](auto& h) { h.checksum_start = 183; }),
      changed(checksum, [](auto& h) { h.checksum_start = h.checksum_offset = 0xffff; }),
      changed(tcp4, [](auto& h) { h.segments = NetHeader::kTcp6; }),
      changed(tcp4, [](auto& h) { h.segments = NetHeader::kTcp4 | NetHeader::kCongestion; }),
      changed(tcp4, [](auto& h) { h.segments = NetHeader::kCongestion; }),
      changed(tcp4, [](auto& h) { h.segments = 3; }),  // UDP
      changed(tcp4, [](auto& h) { h.segments = 0x7f; }),
      changed(tcp4, [](auto& h) { h.segment_size = 0; }),
      changed(tcp4, [](auto& h) { h.flags = 0; }),
      changed(tcp4, [](auto& h) { h.header_size = 201; })};
  for (size_t i = 0; i < bad.size(); ++i) EXPECT_FALSE(passes(bad[i])) << i;
  EXPECT_EQ(net->counters().refused, bad.size());
  ASSERT_TRUE(driver.start(kChecksum | kHostTcp4 | kHostTcp6 | kHostCongestion));
  EXPECT_TRUE(passes(bad[2]));
  EXPECT_TRUE(passes(bad[3]));
  // A driver that has agreed to nothing gives a header without a meaning.
  ASSERT_TRUE(driver.start());
  EXPECT_TRUE(passes(tcp4));
  EXPECT_EQ(host.sent.back().header.flags, 0);
  EXPECT_EQ(host.sent.back().header.segments, NetHeader::kNone);
}

TEST_F(UnfinishedNetTest, ReceivesLargePacketsAndShowsThemTogether) {
  ASSERT_TRUE(driver.start(kGuestAll | kMergeable));
  for (uint16_t i = 0; i < 8; ++i) driver.rings[0].offer(i, {{kBuffers + 4096u * i, 4096, true}});
  driver.rings[0].set_flags(0);
  const auto frame = packet_of(10000);
  const NetHeader header{.flags = 1, .segments = NetHeader::kTcp4, .segment_size = 1448, .buffers = 9};
  driver.transport.queue_interrupts = 0;
  EXPECT_TRUE(net->receive_unfinished(headed(header, frame)));
  EXPECT_TRUE(net->receive_unfinished(headed({}, packet_of(60))));
  EXPECT_EQ(driver.rings[0].used_index(), 0);
  net->show_received();
  EXPECT_EQ(driver.transport.queue_interrupts, 1);
  ASSERT_EQ(driver.rings[0].used_index(), 4);
  NetHeader seen;
  std::memcpy(&seen, board.at(kBuffers), sizeof seen);
  EXPECT_EQ(seen.segments, NetHeader::kTcp4);
  EXPECT_EQ(seen.segment_size, 1448u);
  EXPECT_EQ(seen.buffers, 3u);
  std::vector<uint8_t> data(board.at(kBuffers + 12), board.at(kBuffers + 12 + 10000));
  EXPECT_EQ(data, frame);
  EXPECT_EQ(driver.rings[0].used(2).second, 10012u - 8192);
  std::memcpy(&seen, board.at(kBuffers + 3 * 4096), sizeof seen);
  EXPECT_EQ(seen.flags, 0);
  EXPECT_EQ(seen.buffers, 1u);
  EXPECT_FALSE(net->receive_unfinished(headed({}, std::vector<uint8_t>(VirtioNet::kMaxPacket + 1))));
  EXPECT_FALSE(net->receive_unfinished(std::vector<uint8_t>(11))) << "not even a header";
  EXPECT_FALSE(net->receive_unfinished(headed({}, {})));
}

TEST_F(UnfinishedNetTest, TheHostKnowsWhatTheGuestFinishes) {
  ASSERT_TRUE(driver.start(kGuestAll));
  EXPECT_EQ(host.finishes.back() & kGuestAll, kGuestAll);
  net->reset();
  EXPECT_EQ(host.finishes.back(), 0u);
  // One of the last guest's packets that is still on its way.
  ASSERT_TRUE(driver.start());
  EXPECT_EQ(host.finishes.back() & kGuestAll, 0u);
  driver.rings[0].offer(0, {{kBuffers, 2048, true}});
  EXPECT_FALSE(net->receive_unfinished(headed({.flags = 1}, packet_of(60))));
  EXPECT_FALSE(net->receive_unfinished(headed({.segments = NetHeader::kTcp4}, packet_of(60))));
  EXPECT_TRUE(net->receive_unfinished(headed({.flags = 2}, packet_of(60)))) << "found to be right already";
  EXPECT_EQ(*board.at(kBuffers), 0) << "of which this guest knows nothing";
  EXPECT_FALSE(net->receive_unfinished(headed({}, packet_of(1519)))) << "longer than its MTU";
}

TEST_F(UnfinishedNetTest, WaitingPacketsKeepTheirHeadersInAState) {
  ASSERT_TRUE(driver.start(kGuestAll | kMergeable));
  const NetHeader header{.flags = 1, .segments = NetHeader::kTcp6, .segment_size = 99};
  EXPECT_TRUE(net->receive_unfinished(headed(header, packet_of(5000))));
  EXPECT_TRUE(net->receive(packet_of(60, 7))) << "a whole one from elsewhere";
  const auto state = state_of(*net);
  auto other = make(&host);
  load_state_of(*other, state);
  EXPECT_EQ(host.finishes.back() & kGuestAll, kGuestAll);
  EXPECT_EQ(state_of(*other), state);
  for (uint16_t i = 0; i < 3; ++i) driver.rings[0].offer(i, {{kBuffers + 4096u * i, 4096, true}});
  other->notify(0);
  EXPECT_EQ(other->pending(), 0u);
  NetHeader seen;
  std::memcpy(&seen, board.at(kBuffers), sizeof seen);
  EXPECT_EQ(seen.segments, NetHeader::kTcp6);
  std::memcpy(&seen, board.at(kBuffers + 8192), sizeof seen);
  EXPECT_EQ(seen.segments, NetHeader::kNone);
  EXPECT_EQ(*board.at(kBuffers + 8192 + 12), 7);
  auto plain = make(nullptr);
  try {
    load_state_of(*plain, state);
    FAIL() << "its guest leaves work to a tap";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "BAD_CONFIG");
    EXPECT_NE(std::string(error.what()).find("tap"), std::string::npos);
  }
  EXPECT_GT(try_bad_states(
                state_of(*other), [&] { return make(&host); },
                [](VirtioDevice& device) {
                  device.notify(0);
                  device.notify(1);
                }),
            10);
}

TEST_F(UnfinishedNetTest, OthersHaveATurnAfterABatch) {
  ASSERT_TRUE(driver.start(kChecksum, 256));
  put(kBuffers, {}, packet_of(60));
  for (uint16_t i = 0; i < 100; ++i) driver.rings[1].offer(i, {{kBuffers, 72}});
  net->notify(1);
  EXPECT_EQ(host.sent.size(), VirtioNet::kMaxBatch);
  EXPECT_EQ(board.host.nets_ready, 1u);
  net->notify(1);
  EXPECT_EQ(host.sent.size(), 100u);
  EXPECT_EQ(board.host.nets_ready, 1u);
}

// While somebody else has the queues, this leaves them alone; then it goes on where the other has stopped.
TEST_F(UnfinishedNetTest, LendsItsQueues) {
  EXPECT_FALSE(net->lend_queues()) << "no driver";
  ASSERT_TRUE(driver.start(kChecksum));
  put(kBuffers, {}, packet_of(60));
  driver.give(1, 0, {{kBuffers, 72}});
  EXPECT_EQ(host.sent.size(), 1u);
  ASSERT_TRUE(net->lend_queues());
  driver.give(1, 1, {{kBuffers, 72}});
  driver.give(1, 2, {{kBuffers, 72}});
  EXPECT_EQ(host.sent.size(), 1u);
  EXPECT_EQ(board.host.nets_ready, 2u);
  // The other has used one, and wants no notifications at the moment.
  const uint16_t used = 2, quiet = 1;
  std::memcpy(board.at(driver.rings[1].device()), &quiet, sizeof quiet);
  std::memcpy(board.at(driver.rings[1].device() + 2), &used, sizeof used);
  const uint16_t next[] = {0, 2};
  net->take_queues(next);
  EXPECT_EQ(*board.at(driver.rings[1].device()), 0);
  net->notify(1);
  EXPECT_EQ(host.sent.size(), 2u);
  EXPECT_EQ(driver.rings[1].used_index(), 3);
  ASSERT_TRUE(net->lend_queues());
  ASSERT_TRUE(driver.start(kChecksum)) << "a reset takes them back";
  EXPECT_FALSE(net->lent());
  driver.give(1, 0, {{kBuffers, 72}});
  EXPECT_EQ(host.sent.size(), 3u);
  std::vector<uint8_t> packet(sizeof(NetHeader) + 60);
  EXPECT_TRUE(net->receive_unfinished(packet));
  EXPECT_FALSE(net->lend_queues()) << "a packet waits";
  ASSERT_TRUE(driver.start(kChecksum, 16, 1));
  EXPECT_FALSE(net->lend_queues()) << "a queue is missing";
}

// Whoever notifies: the network's thread learns that its packets have room again.
TEST_F(UnfinishedNetTest, RoomIsToldOf) {
  ASSERT_TRUE(driver.start(kChecksum | VirtioNet::kGuestChecksum, 256));
  std::vector<uint8_t> packet(sizeof(NetHeader) + 60);
  EXPECT_TRUE(net->receive_unfinished(packet));
  EXPECT_EQ(net->pending(), 1u);
  net->notify(0);
  EXPECT_EQ(board.host.nets_ready, 0u);
  driver.rings[0].offer(0, {{kBuffers, 1526, true}});
  net->notify(0);
  EXPECT_EQ(net->pending(), 0u);
  EXPECT_EQ(board.host.nets_ready, 1u);
}

}  // namespace
}  // namespace hypertwin::devices
