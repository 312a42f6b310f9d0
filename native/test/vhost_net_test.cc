// vhost-net against a driver in plain C++ and a tap, where the host has both.
#include "backends/vhost_net.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/event.h"
#include "devices_virtio.h"
#include "tap_util.h"

namespace hypertwin::backends {
namespace {

using devices::Ring;

constexpr uint64_t kBuffers = 0x40000;
constexpr unsigned kReceive = 0, kTransmit = 1;

class VhostNetTest : public testing::Test {
 protected:
  void SetUp() override {
    try {
      tap = std::make_unique<Tap>("", Tap::Frames::kHeaded);
      vhost = std::make_unique<VhostNet>(board.ram);
    } catch (const Error& error) {
      GTEST_SKIP() << "no vhost-net here: " << error.what();
    }
    ASSERT_NO_FATAL_FAILURE(take_up(*tap, control.get()));
    for (auto& fd : kicks) fd = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    for (auto& fd : calls) fd = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  }
  VhostNet::Queue queue(unsigned i, uint16_t next) {
    const Ring& ring = rings[i];
    return {.size = ring.size,
            .descriptors = ring.descriptors(),
            .driver = ring.driver(),
            .device = ring.device(),
            .next_available = next,
            .kick = kicks[i].get(),
            .call = calls[i].get()};
  }
  [[nodiscard]] bool start(uint16_t received = 0, uint16_t sent = 0) {
    std::array both{queue(kReceive, received), queue(kTransmit, sent)};
    return vhost->start(devices::kVirtioVersion1, both, tap->fd());
  }
  static bool readable(int fd, int milliseconds = 20'000) {
    pollfd one{fd, POLLIN, 0};
    return ::poll(&one, 1, milliseconds) == 1;
  }
  // A frame that the host has no use for.
  void send() {
    std::memset(board.at(kBuffers), 0, 12);
    std::memset(board.at(kBuffers + 12), 0xff, 60);
    rings[kTransmit].offer(0, {{kBuffers, 72}});
    ring(kicks[kTransmit].get());
  }
  // Until so many are used.
  void until(unsigned queue, uint16_t used) {
    while (rings[queue].used_index() != used) {
      ASSERT_TRUE(readable(calls[queue].get()));
      unring(calls[queue].get());
    }
  }
  uint64_t sent() {
    uint64_t count = 0;
    std::ifstream("/sys/class/net/" + tap->name() + "/statistics/rx_packets") >> count;
    return count;
  }

  devices::TestBoard board;
  std::unique_ptr<Tap> tap;
  std::unique_ptr<VhostNet> vhost;
  Fd control{socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  std::array<Fd, 2> kicks, calls;
  std::array<Ring, 2> rings{Ring(board, 0x10000, 16), Ring(board, 0x20000, 16)};
};

TEST_F(VhostNetTest, CarriesPacketsBothWaysAndGoesOnAfterAStop) {
  EXPECT_TRUE(
      vhost->can_serve(devices::kVirtioVersion1 | devices::kVirtioEventIdx | devices::kVirtioIndirect));
  ASSERT_TRUE(start());
  const uint64_t before = sent();
  send();
  ASSERT_NO_FATAL_FAILURE(until(kTransmit, 1));
  EXPECT_EQ(sent(), before + 1);

  uint16_t received = 0;
  bool asked = false;
  while (!asked) {
    rings[kReceive].offer(0, {{kBuffers + 0x1000, 2000, true}});
    ring(kicks[kReceive].get());
    ASSERT_NO_FATAL_FAILURE(make_it_ask(control.get()));
    ASSERT_NO_FATAL_FAILURE(until(kReceive, ++received));
    asked = asks({board.at(kBuffers + 0x1000 + 12), rings[kReceive].used(received - 1).second - 12});
  }

  const auto next = vhost->stop();
  EXPECT_FALSE(vhost->running());
  EXPECT_EQ(next[kReceive], received);
  EXPECT_EQ(next[kTransmit], 1);
  unring(calls[kTransmit].get());
  send();
  EXPECT_FALSE(readable(calls[kTransmit].get(), 50)) << "nobody serves it";
  ASSERT_TRUE(start(next[kReceive], next[kTransmit]));
  ring(kicks[kTransmit].get());
  ASSERT_NO_FATAL_FAILURE(until(kTransmit, 2));
  EXPECT_EQ(sent(), before + 2);
}

TEST_F(VhostNetTest, WhatItWritesIsMarkedWhileSomebodyLooks) {
  ASSERT_TRUE(start());
  std::vector<uint64_t> marks(devices::TestBoard::kRam / devices::kPageSize / 64);
  const auto marked = [&](uint64_t address) {
    const uint64_t page = address / devices::kPageSize;
    return (marks[page / 64] >> page % 64 & 1) != 0;
  };
  const auto receive = [&](uint16_t index) {
    rings[kReceive].offer(0, {{kBuffers + 0x1000, 2000, true}});
    ring(kicks[kReceive].get());
    ASSERT_NO_FATAL_FAILURE(make_it_ask(control.get()));
    ASSERT_NO_FATAL_FAILURE(until(kReceive, index));
    std::fill(marks.begin(), marks.end(), 0);
    board.ram.take_written(0, marks);
  };
  ASSERT_NO_FATAL_FAILURE(receive(1));
  EXPECT_FALSE(marked(kBuffers + 0x1000)) << "nobody looks";
  board.ram.watch();
  ASSERT_NO_FATAL_FAILURE(receive(2));
  EXPECT_TRUE(marked(kBuffers + 0x1000));
  EXPECT_TRUE(marked(rings[kReceive].device()));
  EXPECT_FALSE(marked(kBuffers));
  board.ram.unwatch();
  ASSERT_NO_FATAL_FAILURE(receive(3));
  EXPECT_FALSE(marked(kBuffers + 0x1000)) << "nobody looks any more";
}

TEST_F(VhostNetTest, ABrokenRingIsTold) {
  ASSERT_TRUE(start());
  rings[kTransmit].offer(16);
  ring(kicks[kTransmit].get());
  EXPECT_TRUE(readable(vhost->broken()));
  vhost->stop();
}

// The first of them has begun when the second is refused.
TEST_F(VhostNetTest, ServesNoRingOutsideOfMemory) {
  std::array both{queue(kReceive, 0), queue(kTransmit, 7)};
  both[kTransmit].device = devices::TestBoard::kRam - 4;
  EXPECT_FALSE(vhost->start(devices::kVirtioVersion1, both, tap->fd()));
  EXPECT_FALSE(vhost->running());
  EXPECT_EQ(both[kReceive].next_available, 0);
  EXPECT_EQ(both[kTransmit].next_available, 7);
  ASSERT_TRUE(start());
  vhost.reset();  // while it runs
}

TEST_F(VhostNetTest, ServesNoTapThatIsNone) {
  std::array both{queue(kReceive, 3), queue(kTransmit, 7)};
  EXPECT_FALSE(vhost->start(devices::kVirtioVersion1, both, calls[0].get()));
  EXPECT_EQ(both[kReceive].next_available, 3);
  ASSERT_TRUE(start());
  vhost->stop();
}

TEST(VhostNet, SaysWhyItCannotBe) {
  devices::TestBoard board;
  try {
    VhostNet vhost(board.ram);
    GTEST_SKIP() << "this host has vhost-net";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/dev/vhost-net"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hypertwin::backends
