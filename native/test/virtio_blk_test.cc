// virtio-blk against a driver in plain C++.
#include <gtest/gtest.h>

#include <memory>

#include "base/error.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kHeaders = 0x40000, kData = 0x50000, kStatus = 0x48000;

class VirtioBlkTest : public testing::Test {
 protected:
  void SetUp() override { start(board); }
  void start(TestBoard& on, uint64_t features = 0) {
    driver = std::make_unique<Driver>(on, 2);
    ring = std::make_unique<Ring>(on, 0x10000, 64);
    ASSERT_TRUE(driver->negotiate(kVirtioVersion1 | features));
    driver->queue(0, 64, ring->descriptors(), ring->driver(), ring->device());
    driver->set_status(15);
    heads = 0;
  }
  // Offers a request and returns its head; the status byte is preset to 0xee.
  uint16_t request(uint32_t type, uint64_t sector, std::vector<Driver::Piece> data) {
    unsigned i = heads / 4;
    uint64_t header = kHeaders + 16 * i;
    put_le(board.at(header), type);
    put_le<uint32_t>(board.at(header + 4), 0);
    put_le(board.at(header + 8), sector);
    *board.at(kStatus + i) = 0xee;
    std::vector<Driver::Piece> pieces{{header, 16}};
    pieces.insert(pieces.end(), data.begin(), data.end());
    pieces.push_back({kStatus + i, 1, true});
    uint16_t head = static_cast<uint16_t>(heads);
    ring->offer(head, pieces);
    heads += 4;
    return head;
  }
  uint8_t status(uint16_t head) { return *board.at(kStatus + head / 4); }

  TestBoard board;
  std::unique_ptr<Driver> driver;
  std::unique_ptr<Ring> ring;
  unsigned heads = 0;
};

TEST_F(VirtioBlkTest, Configuration) {
  EXPECT_EQ(driver->device_config(0, 8), TestBoard::kDiskSize / 512);
  EXPECT_EQ(driver->device_config(12, 4), VirtioBlk::kMaxSegments);
  EXPECT_EQ(driver->device_config(20, 4), 512u);
  EXPECT_FALSE(driver->offered() & 1 << 5);
  EXPECT_TRUE(driver->offered() & 1 << 9);
}

TEST_F(VirtioBlkTest, ReadsWritesAndFlushesOutOfOrder) {
  std::memset(board.at(kData), 0x5a, 1024);
  uint16_t write = request(1, 3, {{kData, 512}, {kData + 512, 512}});
  uint16_t read = request(0, 5, {{kData + 0x1000, 512, true}, {kData + 0x2000, 1024, true}});
  uint16_t flush = request(4, 0, {});
  driver->notify(0);
  ASSERT_EQ(board.host.requests.size(), 3u);
  const auto& requests = board.host.requests;
  EXPECT_EQ(requests[0].operation, BlockOperation::kWrite);
  EXPECT_EQ(requests[0].offset, 3u * 512);
  EXPECT_EQ(requests[0].data, std::vector<uint8_t>(1024, 0x5a));
  EXPECT_EQ(requests[1].operation, BlockOperation::kRead);
  EXPECT_EQ(requests[1].offset, 5u * 512);
  EXPECT_EQ(requests[1].size, 1536u);
  EXPECT_EQ(requests[2].operation, BlockOperation::kFlush);
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(requests[i].ordinal, i);
  EXPECT_EQ(ring->used_index(), 0);
  EXPECT_EQ(board.blk.in_flight().size(), 3u);

  std::vector<uint8_t> data(1536, 0x77);
  EXPECT_TRUE(board.blk.complete(1, BlockStatus::kOk, data));
  EXPECT_EQ(driver->isr(), 1);
  EXPECT_EQ(ring->used(0), std::pair(uint32_t{read}, 1537u));
  EXPECT_EQ(status(read), 0);
  EXPECT_EQ(status(write), 0xee);
  EXPECT_EQ(*board.at(kData + 0x1000 + 511), 0x77);
  EXPECT_EQ(*board.at(kData + 0x2000 + 1023), 0x77);
  EXPECT_EQ(*board.at(kData + 0x2000 + 1024), 0);
  EXPECT_TRUE(board.blk.complete(2, BlockStatus::kOk, {}));
  EXPECT_TRUE(board.blk.complete(0, BlockStatus::kIoError, {}));
  EXPECT_EQ(ring->used(1), std::pair(uint32_t{flush}, 1u));
  EXPECT_EQ(ring->used(2), std::pair(uint32_t{write}, 1u));
  EXPECT_EQ(status(write), 1);
  EXPECT_FALSE(board.blk.complete(0, BlockStatus::kOk, {}));
  EXPECT_FALSE(board.blk.complete(99, BlockStatus::kOk, {}));
  EXPECT_TRUE(board.blk.in_flight().empty());
}

TEST_F(VirtioBlkTest, WritesAreDurableWhereTheGuestCannotFlush) {
  for (bool flushes : {false, true}) {
    start(board, flushes ? 1 << 9 : 0);
    board.host.requests.clear();
    request(1, 0, {{kData, 512}});
    request(0, 0, {{kData, 512, true}});
    driver->notify(0);
    ASSERT_EQ(board.host.requests.size(), 2u);
    EXPECT_EQ(board.host.requests[0].durable, !flushes);
    EXPECT_EQ(board.blk.in_flight()[0].durable, !flushes);
    EXPECT_FALSE(board.host.requests[1].durable);
  }
}

TEST_F(VirtioBlkTest, BadRequestsEndAtOnce) {
  uint64_t sectors = TestBoard::kDiskSize / 512;
  uint16_t beyond = request(0, sectors, {{kData, 512, true}});
  uint16_t across = request(0, sectors - 1, {{kData, 1024, true}});
  uint16_t wraps = request(1, UINT64_MAX, {{kData, 512}});
  uint16_t odd = request(0, 0, {{kData, 511, true}});
  uint16_t empty = request(1, 0, {});
  uint16_t unknown = request(77, 0, {{kData, 512, true}});
  uint16_t id = request(8, 0, {{kData, 20, true}});
  driver->notify(0);
  EXPECT_TRUE(board.host.requests.empty());
  EXPECT_EQ(ring->used_index(), 7);
  for (uint16_t head : {beyond, across, wraps, odd, empty}) EXPECT_EQ(status(head), 1) << head;
  EXPECT_EQ(status(unknown), 2);
  EXPECT_EQ(status(id), 0);
  EXPECT_STREQ(reinterpret_cast<char*>(board.at(kData)), "serial-17");
  EXPECT_FALSE(driver->status() & VirtioDevice::kNeedsReset);
}

TEST_F(VirtioBlkTest, NoRoomForAStatusOrAHeaderBreaksTheDevice) {
  ring->offer(0, {{kHeaders, 16}});
  driver->notify(0);
  EXPECT_TRUE(driver->status() & VirtioDevice::kNeedsReset);
  start(board);
  ring->offer(0, {{kHeaders, 15}, {kData, 513, true}});
  driver->notify(0);
  EXPECT_TRUE(driver->status() & VirtioDevice::kNeedsReset);
}

TEST_F(VirtioBlkTest, ShortReadsAreErrorsAndLateCompletionsAreIgnored) {
  uint16_t read = request(0, 0, {{kData, 512, true}});
  driver->notify(0);
  EXPECT_TRUE(board.blk.complete(0, BlockStatus::kOk, std::vector<uint8_t>(511)));
  EXPECT_EQ(status(read), 1);
  request(0, 0, {{kData, 512, true}});
  driver->notify(0);
  start(board);
  EXPECT_FALSE(board.blk.complete(1, BlockStatus::kOk, std::vector<uint8_t>(512)));
  EXPECT_EQ(ring->used_index(), 0);
  EXPECT_EQ(board.blk.next_ordinal(), 2u);
}

TEST_F(VirtioBlkTest, ARequestIsAsTheGuestSubmittedIt) {
  std::memset(board.at(kData), 1, 512);
  request(1, 0, {{kData, 512}});
  uint16_t read = request(0, 0, {{kData + 4096, 512, true}});
  driver->notify(0);
  std::memset(board.at(kData), 2, 512);
  ring->descriptor(static_cast<uint16_t>(read + 1), TestBoard::kRam, 512, 3, static_cast<uint16_t>(read + 2));
  EXPECT_EQ(board.host.requests[0].data, std::vector<uint8_t>(512, 1));
  EXPECT_EQ(board.blk.in_flight()[0].data, std::vector<uint8_t>(512, 1));
  EXPECT_TRUE(board.blk.complete(1, BlockStatus::kOk, std::vector<uint8_t>(512, 9)));
  EXPECT_EQ(*board.at(kData + 4096), 9);
}

TEST_F(VirtioBlkTest, InFlightRequestsSurviveSaveAndLoad) {
  std::memset(board.at(kData), 0x33, 512);
  request(1, 7, {{kData, 512}});
  uint16_t read = request(0, 1, {{kData + 4096, 512, true}});
  driver->notify(0);
  TestBoard other;
  other.copy_memory(board);
  other.load(board.save());
  auto flying = other.blk.in_flight();
  ASSERT_EQ(flying.size(), 2u);
  EXPECT_EQ(flying[0].operation, BlockOperation::kWrite);
  EXPECT_EQ(flying[0].offset, 7u * 512);
  EXPECT_EQ(flying[0].data, std::vector<uint8_t>(512, 0x33));
  EXPECT_EQ(flying[1].size, 512u);
  for (TestBoard* each : {&board, &other}) {
    EXPECT_TRUE(each->blk.complete(1, BlockStatus::kOk, std::vector<uint8_t>(512, 4)));
    EXPECT_EQ(*each->at(kData + 4096), 4);
    EXPECT_EQ(*each->at(kStatus + read / 4), 0);
  }
  EXPECT_EQ(board.save(), other.save());
}

TEST(VirtioBlk, BytesInFlightAreBoundedAndTheRestWaits) {
  FakeHost host;
  std::vector<uint8_t> memory((1 << 20) + 4096);
  GuestRam ram({{0, 1 << 20, TestBoard::aligned(memory.data()), 0}});
  VirtioBlk blk(host, 0, "big", ram, {.size = 1 << 30, .read_only = true, .block_size = 4096, .serial = ""});
  FakeLine line;
  VirtioPci card(blk, line);
  // The chain of each head reads 1 MiB into the same 16 KiB, 64 times.
  uint8_t* base = TestBoard::aligned(memory.data());
  auto describe = [&](uint64_t at, uint64_t address, uint32_t length, uint16_t flags, uint16_t next) {
    put_le(put_le(put_le(put_le(base + at, address), length), flags), next);
  };
  put_le<uint32_t>(base + 0x8000, 0);
  describe(0x9000, 0x8000, 16, 1, 1);
  for (uint16_t i = 1; i <= 64; ++i)
    describe(0x9000 + 16u * i, 0x10000, 16384, 3, static_cast<uint16_t>(i + 1));
  describe(0x9000 + 16 * 65, 0x8010, 1, 2, 0);
  for (uint16_t i = 0; i < 64; ++i) {
    describe(16u * i, 0x9000, 16 * 66, 4, 0);
    put_le<uint16_t>(base + 0x1004 + 2u * i, i);
  }
  put_le<uint16_t>(base + 0x1002, 64);
  blk.set_driver_features(kVirtioVersion1 | kVirtioIndirect);
  blk.set_status(11);
  VirtQueue& queue = blk.queues()[0];
  queue.size = 64;
  queue.descriptors = 0;
  queue.driver = 0x1000;
  queue.device = 0x2000;
  blk.enable_queue(0);
  blk.set_status(15);
  EXPECT_EQ(host.requests.size(), 32u);
  std::vector<uint8_t> data(1 << 20);
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_TRUE(blk.complete(i, BlockStatus::kOk, data));
    EXPECT_EQ(host.requests.size(), std::min<uint64_t>(64, 33 + i));
  }
  EXPECT_EQ(get_le<uint16_t>(base + 0x2002), 64);
  // Read-only.
  EXPECT_TRUE(blk.offered() & 1 << 5);
}

// Data straight into and out of guest memory.
class VirtioBlkDirectTest : public testing::Test, protected DirectDiskHost {
 protected:
  static constexpr uint64_t kFlush = 1 << 9;

  void SetUp() override { ASSERT_TRUE(driver.start(kFlush)); }
  void block_cancel(uint32_t) override { ++cancelled; }
  VirtioBlk::Options options(DirectDiskHost* direct) {
    return {.size = 1 << 20,
            .read_only = false,
            .block_size = 512,
            .serial = "",
            .discard = false,
            .direct = direct};
  }
  // One of two pieces of 512 bytes, a page apart.
  void request(uint32_t type, uint16_t head, uint64_t data) {
    put_le(board.at(kHeaders + 16 * head), type);
    put_le<uint64_t>(board.at(kHeaders + 16 * head + 8), 8);
    *board.at(kStatus + head) = 0xee;
    const bool read = type == 0;
    driver.give(0, head,
                {{kHeaders + 16u * head, 16},
                 {data, 512, read},
                 {data + 4096, 512, read},
                 {kStatus + head, 1, true}});
  }
  // Whether the page was marked as written; takes all marks.
  bool marked(uint64_t address) {
    std::vector<uint64_t> marks(4);
    board.ram.take_written(0, marks);
    return marks[address / 4096 / 64] >> (address / 4096 % 64) & 1;
  }

  TestBoard board;
  FakeHost host;
  int cancelled = 0;
  VirtioBlk blk{host, 0, "disk", board.ram, options(this)};
  BareDriver driver{board, blk};
};

TEST_F(VirtioBlkDirectTest, RequestsNameGuestMemoryAndItsPagesAreMarkedWhenTheDataIsThere) {
  request(0, 0, kData);
  request(1, 4, kData + 0x8000);
  ASSERT_EQ(host.requests.size(), 2u);
  for (const auto& each : host.requests) {
    EXPECT_TRUE(each.data.empty());
    EXPECT_EQ(each.size, 1024u);
    ASSERT_EQ(each.parts.size(), 2u) << "the status byte is not data";
    EXPECT_EQ(each.parts[1].iov_len, 512u);
  }
  EXPECT_EQ(host.requests[0].parts[0].iov_base, board.at(kData));
  EXPECT_EQ(host.requests[1].parts[1].iov_base, board.at(kData + 0x9000));
  std::memset(host.requests[0].parts[0].iov_base, 0x77, 512);
  EXPECT_FALSE(marked(kData));
  blk.mark_reads();
  EXPECT_TRUE(marked(kData)) << "while a machine stands still";
  driver.transport.queue_interrupts = 0;
  EXPECT_TRUE(blk.complete_one(0, BlockStatus::kOk, {}));
  EXPECT_TRUE(marked(kData));
  EXPECT_EQ(*board.at(kStatus), 0);
  EXPECT_EQ(driver.rings[0].used_index(), 0);
  EXPECT_TRUE(blk.complete_one(1, BlockStatus::kIoError, {}));
  EXPECT_FALSE(marked(kData + 0x8000)) << "it was written from";
  blk.show_completed();
  EXPECT_EQ(driver.transport.queue_interrupts, 1);
  ASSERT_EQ(driver.rings[0].used_index(), 2);
  EXPECT_EQ(driver.rings[0].used(0), std::pair(0u, 1025u));
  EXPECT_EQ(*board.at(kStatus + 4), 1);
  EXPECT_EQ(*board.at(kData), 0x77);
  EXPECT_FALSE(blk.complete_one(0, BlockStatus::kOk, {}));
}

TEST_F(VirtioBlkDirectTest, AReadThatFailedMayHaveWrittenTooAndIsMarked) {
  request(0, 0, kData);
  marked(0);
  EXPECT_TRUE(blk.complete_one(0, BlockStatus::kIoError, {}));
  EXPECT_TRUE(marked(kData));
  EXPECT_EQ(*board.at(kStatus), 1);
}

TEST_F(VirtioBlkDirectTest, AResetWaitsUntilNothingTouchesTheGuestsMemory) {
  blk.reset();
  EXPECT_EQ(cancelled, 0) << "there is nothing";
  ASSERT_TRUE(driver.start(kFlush));
  request(0, 0, kData);
  blk.reset();
  EXPECT_EQ(cancelled, 1);
  EXPECT_FALSE(blk.complete_one(0, BlockStatus::kOk, {}));
  blk.show_completed();
}

TEST_F(VirtioBlkDirectTest, AStateHasTheDataAndGoesOnAnywhere) {
  std::memset(board.at(kData), 0x11, 512);
  std::memset(board.at(kData + 4096), 0x22, 512);
  request(1, 0, kData);
  request(0, 4, kData + 0x8000);
  const auto state = state_of(blk);
  for (DirectDiskHost* direct : {static_cast<DirectDiskHost*>(this), static_cast<DirectDiskHost*>(nullptr)}) {
    VirtioBlk other(host, 0, "disk", board.ram, options(direct));
    load_state_of(other, state);
    EXPECT_EQ(state_of(other), state);
    const auto flying = other.in_flight();
    ASSERT_EQ(flying.size(), 2u);
    EXPECT_EQ(flying[0].data[511], 0x11);
    EXPECT_EQ(flying[0].data[512], 0x22);
    EXPECT_TRUE(flying[1].parts.empty());
    EXPECT_TRUE(other.complete_one(1, BlockStatus::kOk, std::vector<uint8_t>(1024, 0x33)));
    EXPECT_EQ(*board.at(kData + 0x9000), 0x33);
  }
}

class VirtioBlkDiscardTest : public testing::Test {
 protected:
  static constexpr uint64_t kFeatures = 1 << 9 | 1 << 13 | 1 << 14;
  static constexpr VirtioBlk::Options kOptions{
      .size = 4ull << 30, .read_only = false, .block_size = 512, .serial = "", .discard = true};

  void SetUp() override { ASSERT_TRUE(driver.start(kFeatures)); }
  uint8_t* status(uint16_t head) { return board.at(kStatus + head / 4); }
  uint16_t request(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags, uint32_t bytes = 16) {
    const uint16_t head = heads;
    heads = static_cast<uint16_t>((heads + 4) % 16);
    uint8_t* p = put_le<uint64_t>(put_le(board.at(kHeaders + 64 * head), type), 0) + 4;
    put_le(put_le(put_le(p, sector), sectors), flags);
    *status(head) = 0xee;
    driver.give(
        0, head,
        {{kHeaders + 64 * head, 16}, {kHeaders + 64 * head + 16, bytes}, {kStatus + head / 4, 1, true}});
    return head;
  }

  TestBoard board;
  FakeHost host;
  VirtioBlk blk{host, 0, "disk", board.ram, kOptions};
  BareDriver driver{board, blk};
  uint16_t heads = 0;
};

TEST_F(VirtioBlkDiscardTest, LimitsAreInTheConfiguration) {
  EXPECT_EQ(blk.offered() & (3 << 13), 3u << 13);
  EXPECT_EQ(driver.config(36, 4), VirtioBlk::kMaxDiscard / 512);
  EXPECT_EQ(driver.config(40, 4), 1u);
  EXPECT_EQ(driver.config(44, 4), 8u);
  EXPECT_EQ(driver.config(48, 4), VirtioBlk::kMaxWriteZeroes / 512);
  EXPECT_EQ(driver.config(52, 4), 1u);
  EXPECT_EQ(driver.config(56, 4), 1u);
  EXPECT_FALSE(board.blk.offered() & (3 << 13));
  EXPECT_EQ(board.blk.config().size(), 36u);
  VirtioBlk::Options read_only = kOptions;
  read_only.read_only = true;
  VirtioBlk other(host, 0, "ro", board.ram, read_only);
  EXPECT_FALSE(other.offered() & (3 << 13));
}

TEST_F(VirtioBlkDiscardTest, RangesGoOutAndComplete) {
  uint16_t discard = request(11, 8, VirtioBlk::kMaxDiscard / 512, 0);
  uint16_t zero = request(13, 3, 5, 0);
  uint16_t unmap = request(13, 3, VirtioBlk::kMaxWriteZeroes / 512, 1);
  ASSERT_EQ(host.requests.size(), 3u);
  EXPECT_EQ(host.requests[0].operation, BlockOperation::kDiscard);
  EXPECT_EQ(host.requests[0].offset, 8u * 512);
  EXPECT_EQ(host.requests[0].size, VirtioBlk::kMaxDiscard);
  EXPECT_EQ(host.requests[1].operation, BlockOperation::kWriteZeroes);
  EXPECT_EQ(host.requests[1].size, 5u * 512);
  EXPECT_FALSE(host.requests[1].unmap);
  EXPECT_FALSE(host.requests[1].durable);
  EXPECT_TRUE(host.requests[2].unmap);
  EXPECT_TRUE(blk.complete(0, BlockStatus::kOk, {}));
  EXPECT_TRUE(blk.complete(2, BlockStatus::kIoError, {}));
  EXPECT_TRUE(blk.complete(1, BlockStatus::kOk, {}));
  EXPECT_EQ(*status(discard), 0);
  EXPECT_EQ(*status(zero), 0);
  EXPECT_EQ(*status(unmap), 1);
  EXPECT_EQ(driver.rings[0].used(0), std::pair(uint32_t{discard}, 1u));
}

TEST_F(VirtioBlkDiscardTest, WhatIsNotARangeEndsAtOnce) {
  const uint64_t sectors = kOptions.size / 512;
  struct {
    uint32_t type;
    uint64_t sector;
    uint32_t count, flags, bytes;
    uint8_t status;
  } bad[] = {
      {11, sectors, 1, 0, 16, 1},
      {11, sectors - 1, 2, 0, 16, 1},
      {11, UINT64_MAX, 2, 0, 16, 1},
      {11, 0, 0, 0, 16, 1},
      {11, 0, VirtioBlk::kMaxDiscard / 512 + 1, 0, 16, 1},
      {11, 0, UINT32_MAX, 0, 16, 1},
      {13, 0, VirtioBlk::kMaxWriteZeroes / 512 + 1, 0, 16, 1},
      {11, 0, 8, 1, 16, 2},  // a discard has no flags
      {13, 0, 8, 2, 16, 2},  // not known
      {11, 0, 8, 0, 15, 1},
      {11, 0, 8, 0, 32, 1},  // two ranges
      {14, 0, 8, 0, 16, 2},  // secure erase
  };
  for (const auto& each : bad) {
    uint16_t head = request(each.type, each.sector, each.count, each.flags, each.bytes);
    EXPECT_EQ(*status(head), each.status) << each.type << ' ' << each.sector << ' ' << each.count;
  }
  EXPECT_TRUE(host.requests.empty());
  ASSERT_TRUE(driver.start(1 << 13));
  heads = 0;
  EXPECT_EQ(*status(request(13, 0, 8, 0)), 2);  // not negotiated
  EXPECT_TRUE(host.requests.empty());
  EXPECT_FALSE(driver.broken());
}

TEST_F(VirtioBlkDiscardTest, ZeroingIsDurableWhereTheGuestCannotFlushAndSurvivesSaveAndLoad) {
  ASSERT_TRUE(driver.start(3 << 13));
  request(13, 1, 8, 1);
  request(11, 1, 8, 0);
  EXPECT_TRUE(host.requests[0].durable);
  EXPECT_FALSE(host.requests[1].durable);
  VirtioBlk other(host, 0, "disk", board.ram, kOptions);
  load_state_of(other, state_of(blk));
  auto flying = other.in_flight();
  ASSERT_EQ(flying.size(), 2u);
  EXPECT_EQ(flying[0].operation, BlockOperation::kWriteZeroes);
  EXPECT_EQ(flying[0].size, 8u * 512);
  EXPECT_TRUE(flying[0].unmap);
  EXPECT_TRUE(flying[0].durable);
  EXPECT_EQ(flying[1].operation, BlockOperation::kDiscard);
  EXPECT_EQ(state_of(other), state_of(blk));
  // A disk without these features knows no such requests.
  VirtioBlk::Options plain = kOptions;
  plain.discard = false;
  VirtioBlk without(host, 0, "disk", board.ram, plain);
  EXPECT_THROW(load_state_of(without, state_of(blk)), Error);
  EXPECT_GT(try_bad_states(
                state_of(blk), [&] { return std::make_unique<VirtioBlk>(host, 0, "d", board.ram, kOptions); },
                [](VirtioDevice& device) {
                  auto& loaded = static_cast<VirtioBlk&>(device);
                  device.notify(0);
                  for (const auto& flight : loaded.in_flight())
                    loaded.complete(flight.ordinal, BlockStatus::kOk, std::vector<uint8_t>(512));
                }),
            30);
}

TEST(VirtioBlk, RefusesOddSizes) {
  TestBoard board;
  EXPECT_THROW(VirtioBlk(board.host, 0, "x", board.ram,
                         {.size = 0, .read_only = false, .block_size = 512, .serial = ""}),
               Error);
  EXPECT_THROW(VirtioBlk(board.host, 0, "x", board.ram,
                         {.size = 1000, .read_only = false, .block_size = 512, .serial = ""}),
               Error);
}

}  // namespace
}  // namespace hypertwin::devices
