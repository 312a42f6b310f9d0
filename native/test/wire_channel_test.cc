// The channel over every transport: frames there and back, and what close() and the bandwidth limit do.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "base/bytes.h"
#include "wire/tls.h"
#include "wire_util.h"

namespace hypertwin::wire {
namespace {

class WireChannel : public testing::TestWithParam<Transport> {
 protected:
  void SetUp() override {
    if (GetParam() == Transport::kTls && Certificates::get() == nullptr) GTEST_SKIP() << kNoOpenssl;
    connect_both();
  }
  void TearDown() override { TlsStream::rekey_bytes = 16ull << 30; }
  void connect_both() {
    auto [a, b] = streams(GetParam());
    left = std::make_unique<Channel>(std::move(a));
    right = std::make_unique<Channel>(std::move(b));
  }
  std::unique_ptr<Channel> left, right;
};
INSTANTIATE_TEST_SUITE_P(Over, WireChannel,
                         testing::Values(Transport::kUnix, Transport::kTcp, Transport::kTls), transport_name);

TEST_P(WireChannel, CarriesFramesOfEverySizeInOrder) {
  const std::vector<size_t> sizes = {0, 1, 24, 60, 240, 241, 4096, 65536, 1u << 20, kMaxPayload};
  std::thread sender([&] {
    uint8_t seed = 0;
    for (const size_t size : sizes) {
      const auto payload = pattern(size, seed++);
      left->send(FrameType::kLog, payload);
      // The same in two parts, which must look alike at the other end.
      const size_t cut = size / 3;
      left->send(FrameType::kAck, std::span(payload).first(cut), std::span(payload).subspan(cut));
    }
    left->close();
  });
  uint8_t seed = 0;
  uint64_t sequence = 0;
  for (const size_t size : sizes) {
    const auto payload = pattern(size, seed++);
    for (const auto type : {FrameType::kLog, FrameType::kAck}) {
      const auto frame = right->receive();
      ASSERT_TRUE(frame);
      EXPECT_EQ(frame->type, type);
      EXPECT_EQ(frame->sequence, sequence++);
      ASSERT_EQ(frame->payload.size(), size);
      EXPECT_TRUE(std::equal(payload.begin(), payload.end(), frame->payload.begin()));
    }
  }
  EXPECT_NE(right->last_received_ns(), 0u);
  EXPECT_FALSE(right->receive());
  sender.join();
  EXPECT_EQ(left->sent_bytes(), right->received_bytes());
}

TEST_P(WireChannel, FramesOfSeveralThreadsDoNotMix) {
  constexpr int kThreads = 4, kFrames = 500;
  std::vector<std::thread> senders;
  for (uint8_t id = 0; id < kThreads; id++)
    senders.emplace_back([&, id] {
      for (int i = 0; i < kFrames; i++)
        left->send(id % 2 == 0 ? FrameType::kPages : FrameType::kAck,
                   std::vector<uint8_t>(static_cast<size_t>(i) * 7, id));
    });
  std::vector<size_t> next(kThreads, 0);
  for (int i = 0; i < kThreads * kFrames; i++) {
    const auto frame = right->receive();
    ASSERT_TRUE(frame);
    if (frame->payload.empty()) continue;
    const uint8_t id = frame->payload[0];
    ASSERT_LT(id, kThreads);
    EXPECT_EQ(frame->payload.size(), ++next[id] * 7);
    for (const uint8_t byte : frame->payload) ASSERT_EQ(byte, id);
  }
  for (auto& sender : senders) sender.join();
}

TEST_P(WireChannel, RefusesAPayloadThatIsTooLong) {
  const std::vector<uint8_t> payload(kMaxPayload);
  const std::vector<uint8_t> more(1);
  EXPECT_EQ(code_of([&] { left->send(FrameType::kLog, payload, more); }), "ERANGE");
  // Nothing of it went out.
  left->send(FrameType::kAck, more);
  EXPECT_EQ(right->receive()->type, FrameType::kAck);
}

TEST_P(WireChannel, CloseWakesABlockedReceiverAndABlockedSender) {
  for (int round = 0; round < 50; round++) {
    connect_both();
    std::atomic<int> begun = 0;
    std::string received, sent;
    std::thread receiver([&] {
      begun++;
      received = code_of([&] { left->receive(); });
    });
    std::thread sender([&] {
      const std::vector<uint8_t> payload(1u << 20);
      begun++;
      // The other side reads nothing: this blocks soon.
      sent = code_of([&] {
        for (;;) left->send(FrameType::kLog, payload);
      });
    });
    while (begun != 2) std::this_thread::yield();
    if (round % 2 == 0)
      left->close();
    else
      right.reset();
    sender.join();
    EXPECT_EQ(sent, "PEER_LOST");
    left->close();
    receiver.join();
    // The peer's own end is no failure to the receiver.
    EXPECT_EQ(received, round % 2 == 0 ? "PEER_LOST" : received);
  }
}

TEST_P(WireChannel, SaysWhoClosed) {
  left->close();
  left->close();
  EXPECT_FALSE(right->receive());
  EXPECT_EQ(code_of([&] { left->receive(); }), "PEER_LOST");
  EXPECT_NE(text_of([&] { left->send(FrameType::kAck, {}); }).find("on this side"), std::string::npos);
  // TCP takes what it cannot know to be in vain; not for ever.
  left.reset();
  EXPECT_EQ(code_of([&] {
              for (;;) right->send(FrameType::kAck, {});
            }),
            "PEER_LOST");
}

TEST_P(WireChannel, ALimitedBulkSenderHoldsNobodyElseUp) {
  // The second bulk frame would be due in about an hour.
  left->limit(1000);
  std::atomic<bool> done = false;
  std::thread bulk([&] {
    const std::vector<uint8_t> payload(3u << 20);
    left->send(FrameType::kPages, payload);
    left->send(FrameType::kBlocks, payload);
    done = true;
  });
  EXPECT_EQ(right->receive()->type, FrameType::kPages);
  for (int i = 0; i < 100; i++) {
    left->send(FrameType::kHeartbeat, pattern(60, 1));
    EXPECT_EQ(right->receive()->type, FrameType::kHeartbeat);
  }
  EXPECT_FALSE(done);
  // A new limit reaches the sender that waits.
  left->limit(0);
  EXPECT_EQ(right->receive()->type, FrameType::kBlocks);
  bulk.join();
}

TEST_P(WireChannel, CloseWakesASenderThatWaitsForBandwidth) {
  left->limit(1);
  std::string code;
  std::thread bulk([&] {
    const std::vector<uint8_t> payload(1000);
    code = code_of([&] {
      for (;;) left->send(FrameType::kPages, payload);
    });
  });
  EXPECT_TRUE(right->receive());
  left->close();
  bulk.join();
  EXPECT_EQ(code, "PEER_LOST");
}

TEST_P(WireChannel, TheLimitIsKept) {
  const uint64_t rate = 4u << 20;
  left->limit(rate);
  const auto start = std::chrono::steady_clock::now();
  std::thread bulk([&] {
    const std::vector<uint8_t> payload(64u << 10);
    for (int i = 0; i < 32; i++) left->send(FrameType::kPages, payload);
    left->close();
  });
  while (right->receive()) {
  }
  bulk.join();
  // 2 MiB, the first frame and the last are free: never faster than this, however slow the host is.
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GT(seconds, 0.4);
}

// Both directions at once, all the time, with new TLS keys again and again.
TEST_P(WireChannel, BothSidesSendAndReceiveAtOnce) {
  TlsStream::rekey_bytes = 300'000;
  constexpr int kFrames = 400;
  const auto send = [](Channel& channel, uint8_t seed) {
    for (int i = 0; i < kFrames; i++)
      channel.send(FrameType::kLog, pattern(static_cast<size_t>(i) * 97 % 40'000, seed));
  };
  const auto receive = [](Channel& channel, uint8_t seed) {
    for (int i = 0; i < kFrames; i++) {
      const auto frame = channel.receive();
      ASSERT_TRUE(frame);
      const auto payload = pattern(static_cast<size_t>(i) * 97 % 40'000, seed);
      ASSERT_TRUE(std::equal(payload.begin(), payload.end(), frame->payload.begin(), frame->payload.end()));
    }
  };
  std::thread a([&] { send(*left, 1); });
  std::thread b([&] { receive(*left, 2); });
  std::thread c([&] { send(*right, 2); });
  receive(*right, 1);
  a.join();
  b.join();
  c.join();
}

// Both senders send more than the sockets take before anyone reads.
TEST_P(WireChannel, AReaderThatIsLateLosesNothing) {
  constexpr int kFrames = 40;
  const auto send = [&](Channel& channel) {
    for (int i = 0; i < kFrames; i++)
      channel.send(FrameType::kLog, pattern(200'000, static_cast<uint8_t>(i)));
  };
  std::thread a([&] { send(*left); });
  std::thread b([&] { send(*right); });
  for (int i = 0; i < kFrames; i++)
    for (auto* channel : {left.get(), right.get()}) {
      const auto frame = channel->receive();
      ASSERT_TRUE(frame);
      const auto payload = pattern(200'000, static_cast<uint8_t>(i));
      ASSERT_TRUE(std::equal(payload.begin(), payload.end(), frame->payload.begin(), frame->payload.end()));
    }
  a.join();
  b.join();
}

// Blocks every write until it is let go, and keeps what was written.
class GatedStream : public Stream {
 public:
  size_t read(std::span<uint8_t>) override { return 0; }
  void write(std::span<const std::span<const uint8_t>> parts) override {
    std::unique_lock lock(mutex_);
    inside_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    types_.push_back(static_cast<FrameType>(get_le<uint16_t>(parts[0].data() + 6)));
  }
  void shutdown() noexcept override {}
  std::string peer() const override { return "a test"; }

  void wait_for_a_writer() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return inside_; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  std::vector<FrameType> types() {
    std::lock_guard lock(mutex_);
    return types_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool inside_ = false, open_ = false;
  std::vector<FrameType> types_;
};

// A thread that sends one frame; asleep() once it waits for its turn.
class WaitingSender {
 public:
  WaitingSender(Channel& channel, FrameType type)
      : thread_([this, &channel, type] {
          id_ = static_cast<int>(::syscall(SYS_gettid));
          channel.send(type, {});
        }) {}
  ~WaitingSender() { thread_.join(); }
  void wait_until_asleep() const {
    for (;;) {
      std::ifstream stat("/proc/self/task/" + std::to_string(id_) + "/stat");
      std::string text(std::istreambuf_iterator<char>(stat), {});
      const size_t name_end = text.rfind(") ");
      if (id_ != 0 && name_end != text.npos && text[name_end + 2] == 'S') return;
      std::this_thread::yield();
    }
  }

 private:
  std::atomic<int> id_{0};
  std::thread thread_;
};

TEST(WireChannelTurns, WhatIsNotBulkGoesFirst) {
  auto stream = std::make_unique<GatedStream>();
  auto* gate = stream.get();
  Channel channel(std::move(stream));
  {
    WaitingSender first(channel, FrameType::kPages);
    gate->wait_for_a_writer();
    WaitingSender bulk(channel, FrameType::kBlocks);
    WaitingSender more(channel, FrameType::kPages);
    bulk.wait_until_asleep();
    more.wait_until_asleep();
    WaitingSender ack(channel, FrameType::kAck);
    ack.wait_until_asleep();
    gate->open();
  }
  const auto types = gate->types();
  ASSERT_EQ(types.size(), 4u);
  EXPECT_EQ(types[0], FrameType::kPages);
  EXPECT_EQ(types[1], FrameType::kAck);
}

}  // namespace
}  // namespace hypertwin::wire
