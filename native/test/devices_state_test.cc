// A device loaded from its state goes on as if nothing had happened, and hostile states are refused.
#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "devices_random.h"

namespace hypertwin::devices {
namespace {

TEST(DeviceState, ABoardMovedAtRandomMomentsCannotBeToldFromOneThatStayed) {
  uint64_t requests = 0, packets = 0, received = 0, vectors = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 one(seed), two(seed), moments(seed + 1000);
    TestBoard stays;
    auto moves = std::make_unique<TestBoard>();
    RandomDeeds a(stays, [&] { return static_cast<uint32_t>(one()); });
    RandomDeeds b(*moves, [&] { return static_cast<uint32_t>(two()); });
    a.step();
    b.step();
    for (int i = 0; i < 3000; ++i) {
      if (moments() % 100 == 0) {
        auto next = std::make_unique<TestBoard>();
        next->copy_memory(*moves);
        next->load(moves->save());
        next->host = moves->host;
        b.move_to(*next);
        moves = std::move(next);
      }
      uint64_t seen = a.step();
      ASSERT_EQ(seen, b.step()) << "seed " << seed << " step " << i;
      vectors += seen >= 8 && seen < 0x100;
    }
    EXPECT_EQ(stays.save(), moves->save()) << seed;
    EXPECT_EQ(std::memcmp(stays.at(0), moves->at(0), TestBoard::kRam), 0) << seed;
    EXPECT_EQ(stays.host.packets, moves->host.packets);
    EXPECT_EQ(stays.host.console, moves->host.console);
    EXPECT_EQ(stays.host.power_events, moves->host.power_events);
    ASSERT_EQ(stays.host.requests.size(), moves->host.requests.size());
    for (size_t i = 0; i < stays.host.requests.size(); ++i) {
      EXPECT_EQ(stays.host.requests[i].ordinal, moves->host.requests[i].ordinal);
      EXPECT_EQ(stays.host.requests[i].data, moves->host.requests[i].data);
    }
    requests += stays.host.requests.size();
    packets += stays.host.packets.size();
    received += stays.net.counters().received;
  }
  // The deeds do reach the devices.
  EXPECT_GT(requests, 500u);
  EXPECT_GT(packets, 500u);
  EXPECT_GT(received, 500u);
  EXPECT_GT(vectors, 500u);
}

// Of every state byte that a guest could have seen change, a change is either refused or kept.
TEST(DeviceState, HostileStatesAreRefusedOrHarmless) {
  std::mt19937 random(1);
  TestBoard from;
  RandomDeeds deeds(from, [&] { return static_cast<uint32_t>(random()); });
  for (int i = 0; i < 2000; ++i) deeds.step();
  std::vector<uint8_t> good = from.save();
  for (size_t size = 0; size < good.size(); size += 7) {
    TestBoard board;
    EXPECT_THROW(board.load(std::span(good).first(size)), Error);
  }
  unsigned refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<uint8_t> bad = good;
    for (unsigned n = 1 + random() % 3; n; --n) bad[random() % bad.size()] = static_cast<uint8_t>(random());
    TestBoard board;
    board.copy_memory(from);
    try {
      board.load(bad);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CORRUPT");
      ++refused;
      continue;
    }
    RandomDeeds more(board, [&] { return static_cast<uint32_t>(random()); });
    for (int i = 0; i < 50; ++i) more.step();
  }
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace hypertwin::devices
