// The channel: frames there and back, what is refused, and what close() and the bandwidth limit do.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "wire_util.h"

namespace hypertwin::wire {
namespace {

TEST(WireChannel, CarriesFramesOfEverySizeInOrder) {
  auto [left, right] = channels();
  const std::vector<size_t> sizes = {0, 1, 24, 60, 240, 241, 4096, 65536, 1u << 20, kMaxPayload};
  std::thread sender([&, channel = left.get()] {
    uint8_t seed = 0;
    for (const size_t size : sizes) {
      const auto payload = pattern(size, seed++);
      channel->send(FrameType::kLog, payload);
      // The same in two parts, which must look alike at the other end.
      const size_t cut = size / 3;
      channel->send(FrameType::kAck, std::span(payload).first(cut), std::span(payload).subspan(cut));
    }
    channel->close();
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

TEST(WireChannel, FramesOfSeveralThreadsDoNotMix) {
  auto [left, right] = channels();
  constexpr int kThreads = 4, kFrames = 500;
  std::vector<std::thread> senders;
  for (uint8_t id = 0; id < kThreads; id++)
    senders.emplace_back([&, id, channel = left.get()] {
      for (int i = 0; i < kFrames; i++)
        channel->send(id % 2 == 0 ? FrameType::kPages : FrameType::kAck,
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

TEST(WireChannel, RefusesAPayloadThatIsTooLong) {
  auto [left, right] = channels();
  const std::vector<uint8_t> payload(kMaxPayload);
  const std::vector<uint8_t> more(1);
  EXPECT_EQ(code_of([&, channel = left.get()] { channel->send(FrameType::kLog, payload, more); }), "ERANGE");
  // Nothing of it went out.
  left->send(FrameType::kAck, more);
  EXPECT_EQ(right->receive()->type, FrameType::kAck);
}

TEST(WireChannel, CloseWakesABlockedReceiverAndABlockedSender) {
  for (int round = 0; round < 50; round++) {
    auto [left, right] = channels();
    std::atomic<int> begun = 0;
    std::string received, sent;
    std::thread receiver([&, channel = left.get()] {
      begun++;
      received = code_of([&] { channel->receive(); });
    });
    std::thread sender([&, channel = left.get()] {
      const std::vector<uint8_t> payload(1u << 20);
      begun++;
      // The other side reads nothing: this blocks soon.
      sent = code_of([&] {
        for (;;) channel->send(FrameType::kLog, payload);
      });
    });
    while (begun != 2) std::this_thread::yield();
    if (round % 2 == 0)
      left->close();
    else
      right->close();
    sender.join();
    EXPECT_EQ(sent, "PEER_LOST");
    left->close();
    receiver.join();
    // The peer's own end is no failure to the receiver.
    EXPECT_EQ(received, round % 2 == 0 ? "PEER_LOST" : received);
  }
}

TEST(WireChannel, SaysWhoClosed) {
  auto [left, right] = channels();
  left->close();
  left->close();
  EXPECT_FALSE(right->receive());
  EXPECT_EQ(code_of([&, channel = left.get()] { channel->receive(); }), "PEER_LOST");
  EXPECT_NE(text_of([&, channel = left.get()] { channel->send(FrameType::kAck, {}); }).find("on this side"),
            std::string::npos);
  EXPECT_EQ(code_of([&, channel = right.get()] { channel->send(FrameType::kAck, {}); }), "PEER_LOST");
}

TEST(WireChannel, ALimitedBulkSenderHoldsNobodyElseUp) {
  auto [left, right] = channels();
  // The second bulk frame would be due in about an hour.
  left->limit(1000);
  std::atomic<bool> done = false;
  std::thread bulk([&, channel = left.get()] {
    const std::vector<uint8_t> payload(3u << 20);
    channel->send(FrameType::kPages, payload);
    channel->send(FrameType::kBlocks, payload);
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

TEST(WireChannel, CloseWakesASenderThatWaitsForBandwidth) {
  auto [left, right] = channels();
  left->limit(1);
  std::string code;
  std::thread bulk([&, channel = left.get()] {
    const std::vector<uint8_t> payload(1000);
    code = code_of([&] {
      for (;;) channel->send(FrameType::kPages, payload);
    });
  });
  EXPECT_TRUE(right->receive());
  left->close();
  bulk.join();
  EXPECT_EQ(code, "PEER_LOST");
}

TEST(WireChannel, TheLimitIsKept) {
  auto [left, right] = channels();
  const uint64_t rate = 4u << 20;
  left->limit(rate);
  const auto start = std::chrono::steady_clock::now();
  std::thread bulk([&, channel = left.get()] {
    const std::vector<uint8_t> payload(64u << 10);
    for (int i = 0; i < 32; i++) channel->send(FrameType::kPages, payload);
    channel->close();
  });
  while (right->receive()) {
  }
  bulk.join();
  // 2 MiB, the first frame and the last are free: never faster than this, however slow the host is.
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GT(seconds, 0.4);
}

}  // namespace
}  // namespace hypertwin::wire
