// What a receiver makes of bytes that are no good frames: every error is named, nothing wrong is delivered.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <thread>

#include "base/bytes.h"
#include "base/digest.h"
#include "wire/frame.h"
#include "wire_util.h"

namespace hypertwin::wire {
namespace {

std::vector<uint8_t> frame_bytes(FrameType type, uint64_t sequence, std::span<const uint8_t> payload) {
  std::vector<uint8_t> bytes(kHeaderBytes + payload.size());
  encode_header({type, static_cast<uint32_t>(payload.size()), sequence}, checksum64(payload),
                std::span<uint8_t, kHeaderBytes>(bytes.data(), kHeaderBytes));
  std::copy(payload.begin(), payload.end(), bytes.begin() + kHeaderBytes);
  return bytes;
}

// What a receiver says when `bytes`, and then the end, arrive: a name for each frame, then the error or
// "end".
std::string heard(std::span<const uint8_t> bytes) {
  auto [raw, socket] = socket_pair();
  Channel channel(adopt(std::move(socket), "a test"));
  EXPECT_EQ(::send(raw.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
  raw.reset();
  std::string text;
  try {
    while (const auto frame = channel.receive()) text += std::string(frame_name(frame->type)) + " ";
    return text + "end";
  } catch (const Error& error) {
    return text + error.code() + ": " + error.what();
  }
}

// A frame whose header says what `change` made of it, with a checksum that is right.
std::vector<uint8_t> forged(const std::function<void(uint8_t*)>& change) {
  const auto payload = pattern(40, 1);
  auto bytes = frame_bytes(FrameType::kAck, 0, payload);
  change(bytes.data());
  put_le(&bytes[24], checksum64(std::span(bytes).first(24), checksum64(payload)));
  return bytes;
}

TEST(WireFrame, ItsBytesAreTheDocumentedOnes) {
  const auto payload = pattern(5, 7);
  const auto bytes = frame_bytes(FrameType::kAck, 0x0102030405060708, payload);
  const std::vector<uint8_t> expected = {'H', 'T', 'W', 'P', 1, 0, 34, 0, 5, 0, 0, 0,
                                         0,   0,   0,   0,   8, 7, 6,  5, 4, 3, 2, 1};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), bytes.begin()));
  EXPECT_EQ(get_le<uint64_t>(&bytes[24]), checksum64(expected, checksum64(payload)));
}

TEST(WireFrame, TwoPartsHaveTheChecksumOfOne) {
  for (const size_t size : {0, 1, 16, 240, 241, 1024, 100'000})
    for (const size_t cut : {size_t{0}, size / 2, size}) {
      const auto bytes = pattern(size, 3);
      EXPECT_EQ(checksum64_of(std::span(bytes).first(cut), std::span(bytes).subspan(cut)), checksum64(bytes));
    }
}

TEST(WireFrame, AFlippedBitAnywhereIsNoticed) {
  const auto good = frame_bytes(FrameType::kAck, 0, pattern(40, 1));
  ASSERT_EQ(heard(good), "ack end");
  for (size_t bit = 0; bit < good.size() * 8; bit++) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    const std::string text = heard(bad);
    // A size that grew makes the receiver wait for what does not come.
    const bool size = bit / 8 >= 8 && bit / 8 < 12;
    EXPECT_TRUE(text.rfind("PROTOCOL: ", 0) == 0 || (size && text.rfind("PEER_LOST: ", 0) == 0))
        << "bit " << bit << ": " << text;
  }
}

TEST(WireFrame, CutAnywhereItIsALostPeer) {
  auto bytes = frame_bytes(FrameType::kAck, 0, pattern(40, 1));
  const size_t first = bytes.size();
  const auto second = frame_bytes(FrameType::kLog, 1, pattern(100, 2));
  bytes.insert(bytes.end(), second.begin(), second.end());
  for (size_t size = 0; size <= bytes.size(); size++) {
    const std::string text = heard(std::span(bytes).first(size));
    const std::string whole = size < first ? "" : size < bytes.size() ? "ack " : "ack log ";
    const bool between = size == 0 || size == first || size == bytes.size();
    EXPECT_EQ(text.rfind(whole + (between ? "end" : "PEER_LOST: "), 0), 0u) << size << ": " << text;
  }
}

TEST(WireFrame, SaysWhatIsWrong) {
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_EQ(text.rfind("PROTOCOL: ", 0), 0u) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const std::string http = "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
  expect(heard(as_bytes(http)), "wrong magic");
  expect(heard(forged([](uint8_t* head) { put_le(head + 4, uint16_t{2}); })), "version 2");
  expect(heard(forged([](uint8_t* head) { put_le(head + 12, uint32_t{1}); })), "flags");
  // Neither of these makes room for what it announces.
  expect(heard(forged([](uint8_t* head) { put_le(head + 8, uint32_t{kMaxPayload + 1}); })), "4194305");
  expect(heard(forged([](uint8_t* head) { put_le(head + 8, UINT32_MAX); })), "4294967295");
  expect(heard(forged([](uint8_t* head) { put_le(head + 16, uint64_t{1}); })), "frame 1 came where frame 0");
  auto checksum = frame_bytes(FrameType::kAck, 0, pattern(40, 1));
  checksum[24] ^= 1;
  expect(heard(checksum), "checksum");
}

TEST(WireFrame, OneThatComesTwiceOrIsMissingIsNoticed) {
  const auto zero = frame_bytes(FrameType::kAck, 0, pattern(40, 1));
  const auto one = frame_bytes(FrameType::kAck, 1, pattern(40, 1));
  const auto two = frame_bytes(FrameType::kAck, 2, pattern(40, 1));
  const auto joined = [](auto... parts) {
    std::vector<uint8_t> all;
    (all.insert(all.end(), parts.begin(), parts.end()), ...);
    return all;
  };
  EXPECT_EQ(heard(joined(zero, one, two)), "ack ack ack end");
  EXPECT_EQ(heard(joined(zero, two)).rfind("ack PROTOCOL: ", 0), 0u);
  EXPECT_EQ(heard(joined(zero, zero)).rfind("ack PROTOCOL: ", 0), 0u);
}

// A wrong frame ends it: what comes behind is not looked at.
TEST(WireFrame, NothingIsReceivedAfterAWrongOne) {
  auto [raw, socket] = socket_pair();
  Channel channel(adopt(std::move(socket), "a test"));
  auto bytes = frame_bytes(FrameType::kAck, 0, pattern(40, 1));
  const auto good = bytes;
  bytes[40] ^= 1;
  bytes.insert(bytes.end(), good.begin(), good.end());
  ASSERT_EQ(::send(raw.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
  for (int i = 0; i < 3; i++) EXPECT_EQ(code_of([&, &c = channel] { c.receive(); }), "PROTOCOL");
}

TEST(WireFrame, ByteByByteItIsTheSame) {
  auto [raw, socket] = socket_pair();
  Channel channel(adopt(std::move(socket), "a test"));
  const auto bytes = frame_bytes(FrameType::kLog, 0, pattern(300, 1));
  std::thread sender([&, fd = raw.get()] {
    for (const uint8_t byte : bytes) EXPECT_EQ(::send(fd, &byte, 1, 0), 1);
  });
  EXPECT_EQ(channel.receive()->payload.size(), 300u);
  sender.join();
}

// On a socket that keeps the borders of messages one send is one system call.
TEST(WireFrame, OneFrameGoesOutInOneCall) {
  auto [raw, socket] = socket_pair(SOCK_SEQPACKET);
  Channel channel(adopt(std::move(socket), "a test"));
  const auto payload = pattern(60, 1);
  channel.send(FrameType::kAck, payload);
  channel.send(FrameType::kLog, payload, payload);
  std::array<uint8_t, 1024> buffer;
  EXPECT_EQ(::recv(raw.get(), buffer.data(), buffer.size(), MSG_DONTWAIT), ssize_t(kHeaderBytes + 60));
  EXPECT_EQ(::recv(raw.get(), buffer.data(), buffer.size(), MSG_DONTWAIT), ssize_t(kHeaderBytes + 120));
}

// Frames that are here already are taken in at once: the socket is empty after the first receive().
TEST(WireFrame, ManySmallOnesAreReadAtOnce) {
  auto [raw, socket] = socket_pair();
  const int fd = socket.get();
  Channel channel(adopt(std::move(socket), "a test"));
  for (uint64_t i = 0; i < 200; i++) {
    const auto bytes = frame_bytes(FrameType::kAck, i, pattern(60, 1));
    ASSERT_EQ(::send(raw.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
  }
  ASSERT_TRUE(channel.receive());
  pollfd wait{fd, POLLIN, 0};
  EXPECT_EQ(::poll(&wait, 1, 0), 0);
  for (int i = 1; i < 200; i++) ASSERT_TRUE(channel.receive());
}

// SIGKILL in the middle of a frame.
TEST(WireFrame, AKilledPeerIsLost) {
  auto [raw, socket] = socket_pair();
  const auto bytes = frame_bytes(FrameType::kLog, 0, pattern(1000, 1));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    socket.reset();
    if (::send(raw.get(), bytes.data(), 500, 0) != 500) ::_exit(1);
    for (;;) ::pause();
  }
  raw.reset();
  pollfd wait{socket.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&wait, 1, 60'000), 1);
  Channel channel(adopt(std::move(socket), "a test"));
  std::string text;
  std::thread receiver([&] { text = text_of([&] { channel.receive(); }); });
  ::kill(child, SIGKILL);
  receiver.join();
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_NE(text.find("PEER_LOST"), std::string::npos) << text;
  EXPECT_NE(text.find("middle of a frame"), std::string::npos) << text;
}

}  // namespace
}  // namespace hypertwin::wire
