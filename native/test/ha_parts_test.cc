// The parts of a protection, each by itself, without KVM.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "base/error.h"
#include "ha/announcer.h"
#include "ha/block_codec.h"
#include "ha/clock.h"
#include "ha/detector.h"
#include "ha/histogram.h"
#include "ha/ledger.h"
#include "ha/log_sink.h"
#include "ha/log_source.h"
#include "ha/messages.h"
#include "ha/output_gate.h"
#include "ha/primary_source.h"
#include "ha/retained_outputs.h"
#include "log_fixtures.h"
#include "wire_util.h"

namespace hypertwin::ha {
namespace {

using Bytes = std::vector<uint8_t>;
using namespace std::chrono_literals;

// ---- OutputGate

struct Gate {
  std::vector<std::string> out;
  uint64_t index = 0;
  OutputGate gate{{[this](uint32_t device, auto bytes) { put("p", device, bytes); },
                   [this](uint32_t device, auto bytes) { put("c", device, bytes); }},
                  [this](uint64_t) { return index++; },
                  1000};
  void put(const char* kind, uint32_t device, std::span<const uint8_t> bytes) {
    out.push_back(kind + std::to_string(device) + std::string(as_text(bytes)));
  }
  void packet(const std::string& text) { gate.packet(7, 1, as_bytes(text)); }
};

TEST(OutputGate, HoldsUntilTheRecordIsAcknowledgedAndKeepsTheOrder) {
  Gate g;
  g.packet("a");
  EXPECT_EQ(g.out, (std::vector<std::string>{"p1a"})) << "open at first";
  EXPECT_TRUE(g.gate.take_marked());
  EXPECT_FALSE(g.gate.take_marked());
  g.gate.hold();
  g.packet("b");
  g.gate.console(8, 0, as_bytes("c"));
  g.packet("d");
  EXPECT_EQ(g.out.size(), 1u);
  EXPECT_EQ(g.gate.held(), 3u);
  auto yes = [] { return true; };
  g.gate.release(1, yes);
  EXPECT_EQ(g.out.size(), 1u) << "record 0 is not b's";
  g.gate.release(3, yes);
  EXPECT_EQ(g.out, (std::vector<std::string>{"p1a", "p1b", "c0c"}));
  EXPECT_EQ(g.gate.released(), 3u);
  g.gate.open();
  g.packet("e");
  EXPECT_EQ(g.out, (std::vector<std::string>{"p1a", "p1b", "c0c", "p1d", "p1e"}));
  EXPECT_TRUE(g.gate.empty());
  EXPECT_EQ(g.gate.held_bytes(), 0u);
}

TEST(OutputGate, LetsNothingOutWithoutALease) {
  Gate g;
  g.gate.hold();
  for (const char* text : {"a", "b", "c"}) g.packet(text);
  int left = 1;
  EXPECT_FALSE(g.gate.release(99, [&] { return left-- > 0; }));
  EXPECT_EQ(g.out, (std::vector<std::string>{"p1a"}));
  EXPECT_EQ(g.gate.held(), 2u);
  EXPECT_TRUE(g.gate.release(99, [] { return true; }));
  EXPECT_EQ(g.out, (std::vector<std::string>{"p1a", "p1b", "p1c"}));
}

TEST(OutputGate, IsFullByBytesAndDropsForGood) {
  Gate g;
  g.gate.hold();
  EXPECT_FALSE(g.gate.full());
  g.packet(std::string(1000, 'x'));
  EXPECT_TRUE(g.gate.full());
  EXPECT_EQ(g.gate.drop(), 1u);
  EXPECT_FALSE(g.gate.full());
  g.packet("y");
  g.gate.release(99, [] { return true; });
  EXPECT_TRUE(g.out.empty());
  EXPECT_EQ(g.gate.dropped(), 2u);
}

// ---- Lease

TEST(Lease, CountsFromWhatTheBackupHeard) {
  Lease lease;
  EXPECT_FALSE(lease.valid()) << "nothing heard";
  const uint64_t now = lease_clock_ns();
  lease.renew(now - 1'000'000'000, 900'000'000);
  EXPECT_FALSE(lease.valid()) << "an old answer that is read late";
  lease.renew(now, 60'000'000'000);
  EXPECT_TRUE(lease.valid());
  lease.renew(now - 1'000'000'000, 1);
  EXPECT_TRUE(lease.valid()) << "never shortened";
}

// ---- Detector

TEST(Detector, AdaptsBetweenItsBounds) {
  Detector detector({2000us, 12000us, 1000000us});
  uint64_t now = 1'000'000'000;
  for (int i = 0; i < 10000; ++i) detector.heard(now += 2'000'000);
  EXPECT_EQ(detector.timeout_ns(), 12'000'000u) << "an even connection";
  detector.heard(now += 50'000'000);
  EXPECT_GE(detector.timeout_ns(), 150'000'000u) << "a hiccup counts three times";
  for (int i = 0; i < 10000; ++i) detector.heard(now += 2'000'000);
  EXPECT_EQ(detector.timeout_ns(), 12'000'000u) << "and is forgotten";
  detector.heard(now += 900'000'000);
  EXPECT_EQ(detector.timeout_ns(), 1'000'000'000u);
  for (int i = 0; i < 10000; ++i) detector.heard(now += 20'000'000);
  EXPECT_GE(detector.timeout_ns(), 20'000'000u) << "a slow connection is no dead one";
  EXPECT_LE(detector.timeout_ns(), 100'000'000u);
}

TEST(Detector, IsFixedWhenItsBoundsAreEqual) {
  Detector detector({2000us, 50000us, 50000us});
  uint64_t now = 1;
  for (uint64_t gap : {uint64_t{1}, uint64_t{100'000'000}, uint64_t{2'000'000}}) {
    detector.heard(now += gap);
    EXPECT_EQ(detector.timeout_ns(), 50'000'000u);
  }
}

// ---- Ledger, Histogram

TEST(Ledger, TurnsBytesIntoRecordsAndBoundariesIntoLag) {
  Ledger ledger;
  ledger.sent_header(100);
  EXPECT_EQ(ledger.acknowledged(100, 10), 0u);
  ledger.sent({200, 5, 50, 1000});
  ledger.sent({300, 9, 60, 2000});
  EXPECT_EQ(ledger.acknowledged(299, 3000), 5u) << "a part of a block is none";
  EXPECT_EQ(ledger.lag(3000), 2000u);
  ledger.replayed(55, 3000);
  EXPECT_EQ(ledger.lag(3000), 1000u);
  ledger.replayed(60, 3500);
  EXPECT_EQ(ledger.lag(9000), 0u);
  EXPECT_EQ(ledger.lags().max(), 2000u);
  EXPECT_EQ(ledger.acknowledged(300, 4000), 9u);
  EXPECT_EQ(code_of([&] { ledger.acknowledged(301, 4000); }), "PROTOCOL") << "never sent";
}

TEST(Lag, IsTheAgeOfTheOldestBlockThatIsNotReplayed) {
  Lag lag;
  EXPECT_EQ(lag.behind(5), 0u) << "nothing came";
  lag.came(10, 100);
  lag.came(10, 150);
  lag.came(20, 200);
  EXPECT_EQ(lag.behind(300), 200u);
  lag.replayed(9, 300);
  EXPECT_EQ(lag.behind(300), 200u);
  lag.replayed(15, 310);
  EXPECT_EQ(lag.behind(310), 110u);
  lag.replayed(12, 320);
  EXPECT_EQ(lag.behind(199), 0u) << "a look from before it came";
  lag.replayed(20, 400);
  EXPECT_EQ(lag.behind(1000), 0u);
  EXPECT_EQ(lag.samples().max(), 210u);
}

TEST(Histogram, QuantilesAreCloseAndNeverBeyondTheLargest) {
  Histogram h;
  EXPECT_EQ(h.quantile(0.5), 0u);
  for (uint64_t i = 1; i <= 1000; ++i) h.add(i * 1000);
  EXPECT_NEAR(static_cast<double>(h.quantile(0.5)), 500e3, 500e3 * 0.07);
  EXPECT_NEAR(static_cast<double>(h.quantile(0.99)), 990e3, 990e3 * 0.07);
  EXPECT_EQ(h.quantile(1), 1000'000u);
  h.add(UINT64_MAX);
  EXPECT_EQ(h.quantile(1), UINT64_MAX);
}

// ---- LogSink to LogSource

// What the writer appends comes out of a reader at the other end, over several segments, while both trim.
TEST(LogChannel, CarriesALogToItsReader) {
  auto [left, right] = wire::streams(wire::Transport::kUnix);
  auto sender = std::make_unique<wire::Channel>(std::move(left));
  wire::Channel receiver(std::move(right));
  Ledger ledger;
  log::LogHeader header;
  header.log_id = log::random_log_id();
  log::WriterOptions options;
  options.segment_bytes = 200'000;
  log::Writer writer(std::make_unique<LogSink>(*sender, ledger, nullptr), header, options);
  auto owned = std::make_unique<LogSource>(64u << 20);
  LogSource& source = *owned;
  std::thread receiving([&] {
    while (auto frame = receiver.receive()) {
      if (frame->type == wire::FrameType::kSegment) {
        source.begin_segment(get_le<uint32_t>(frame->payload.data()), frame->payload.subspan(4));
        continue;
      }
      source.append(frame->payload);
      source.announce();
    }
    source.finish();
  });
  while (source.segments().empty()) std::this_thread::yield();
  log::Reader reader(std::move(owned), {.follow = true, .extensions = true});
  constexpr int kRecords = 20'000;
  std::thread writing([&] {
    log::RandomRecords records(1);
    for (int i = 0; i < kRecords; ++i) {
      auto [boundary, body] = records.next();
      writer.append(boundary, body);
      if (i % 10 == 0) writer.commit();
    }
    writer.close();
    sender->close();
  });
  log::RandomRecords expected(1);
  for (int i = 0; i < kRecords; ++i) {
    auto record = reader.next();
    ASSERT_TRUE(record) << i;
    auto [boundary, body] = expected.next();
    ASSERT_EQ(log::canonical(*record), log::canonical(boundary, body)) << i;
  }
  EXPECT_FALSE(reader.next());
  EXPECT_EQ(reader.stop(), log::Stop::kDataEnds);
  EXPECT_TRUE(reader.damages().empty());
  writing.join();
  receiving.join();
  EXPECT_GT(writer.stats().segments, 3u);
  EXPECT_EQ(source.received(), ledger.bytes());
  EXPECT_EQ(source.segments().size(), 1u) << "what is read is gone";
  EXPECT_EQ(ledger.acknowledged(source.received(), 1), uint64_t{kRecords});
}

TEST(LogChannel, ALostBackupIsNoFailureOfTheLog) {
  auto [left, right] = wire::streams(wire::Transport::kUnix);
  wire::Channel sender(std::move(left));
  right.reset();
  Ledger ledger;
  log::LogHeader header;
  header.log_id = log::random_log_id();
  log::Writer writer(std::make_unique<LogSink>(sender, ledger, nullptr), header, {});
  Bytes big(1u << 20);
  for (uint64_t i = 0; i < 64; ++i) writer.append(i, log::PacketRx{0, big});
  writer.flush();
  EXPECT_FALSE(writer.failed());
  EXPECT_EQ(code_of([&] { (void)sender.receive(); }), "PEER_LOST") << "who receives hears of it";
}

TEST(LogSource, RefusesWhatIsOutOfTurnOrTooMuch) {
  LogSource source(1000);
  log::SegmentHeader segment;
  segment.number = 1;
  segment.blob.resize(500);
  const Bytes header = log::encode_segment_header(segment);
  // One record in a block: form, records, three deltas, payload.
  Bytes block{1, 1, 0, 0, 0};
  block.resize(500);
  EXPECT_EQ(code_of([&] { source.append(block); }), "PROTOCOL");
  EXPECT_EQ(code_of([&] { source.begin_segment(2, header); }), "PROTOCOL");
  EXPECT_EQ(code_of([&] { source.begin_segment(1, std::span(header).first(100)); }), "PROTOCOL");
  source.begin_segment(1, header);
  EXPECT_EQ(code_of([&] { source.append({}); }), "PROTOCOL");
  EXPECT_EQ(code_of([&] { source.append(Bytes{7, 1, 0, 0, 0}); }), "PROTOCOL");
  EXPECT_EQ(code_of([&] {
              source.append(Bytes{1, 9, 0, 0, 0, 1, 2});
            }),
            "PROTOCOL")
      << "9 records in 2 bytes";
  EXPECT_EQ(code_of([&] { source.append(Bytes(50)); }), "PROTOCOL") << "no header";
  EXPECT_EQ(code_of([&] { source.append(Bytes(200)); }), "PROTOCOL") << "no header's checksum";
  EXPECT_EQ(code_of([&] { source.append(block); }), "BACKUP_SLOW");
  EXPECT_EQ(code_of([&] { source.begin_segment(3, {}); }), "PROTOCOL");
  Bytes out(700);
  EXPECT_EQ(source.read(1, 0, out), header.size());
  EXPECT_EQ(source.read(9, 0, out), 0u);
  EXPECT_EQ(source.received(), header.size());
}

// Large blocks go as they are, small ones without their headers; both come out byte for byte.
TEST(BlockCodec, GivesBackEveryByte) {
  auto memory = std::make_shared<log::MemoryLog>();
  log::LogHeader header;
  header.log_id = log::random_log_id();
  {
    log::Writer writer(std::make_unique<log::MemorySink>(memory), header, {});
    log::RandomRecords records(3);
    for (int i = 0; i < 2000; ++i) {
      auto [boundary, body] = records.next();
      writer.append(boundary, body);
      if (i % 3 == 0) writer.flush();
    }
    writer.append(UINT64_MAX - 1, log::Time{5});
    writer.append(UINT64_MAX, log::PacketRx{0, Bytes(log::kMaxRecordBytes - 200)});
    writer.append(UINT64_MAX, log::Output{});
    writer.close();
  }
  const Bytes whole = memory->segments.at(1);
  BlockPacker packer;
  BlockUnpacker unpacker;
  size_t at = log::kSegmentFixedBytes + get_le<uint32_t>(whole.data() + 12) + 8, packed = 0, plain = 0;
  unpacker.begin_segment(std::span(whole).first(at));
  while (at < whole.size()) {
    const size_t size = log::kBlockHeaderBytes + get_le<uint32_t>(whole.data() + at + 4);
    const auto block = std::span(whole).subspan(at, size);
    Bytes frame, out;
    if (auto prefix = packer.pack(block)) {
      frame = *prefix;
      frame.insert(frame.end(), block.begin() + log::kBlockHeaderBytes, block.end());
      out = unpacker.unpack(frame);
      ++packed;
    } else {
      for (auto part : {block.first(1000), block.subspan(1000)}) {
        frame.assign(1, 0);
        frame.insert(frame.end(), part.begin(), part.end());
        const Bytes some = unpacker.unpack(frame);
        out.insert(out.end(), some.begin(), some.end());
      }
      ++plain;
    }
    ASSERT_TRUE(std::ranges::equal(out, block)) << "at " << at;
    at += size;
  }
  EXPECT_GT(packed, 600u);
  EXPECT_LE(plain, 1u);
}

// ---- Messages

TEST(Messages, ComeThroughAndShortOnesAreRefused) {
  const auto beat = encode(PrimaryBeat{true, false, 1, 2, 3, 4});
  EXPECT_EQ(decode_beat(beat).settled_boundary, 4u);
  EXPECT_TRUE(decode_beat(beat).armed);
  EXPECT_FALSE(decode_beat(beat).paused);
  EXPECT_TRUE(decode_beat(encode(PrimaryBeat{.paused = true})).paused);
  const auto report = encode(BackupReport{false, 1, 2, 3, 4, 5});
  EXPECT_EQ(decode_report(report).dry_ns, 5u);
  EXPECT_EQ(decode_report(report).received, 3u);
  const auto goodbye = encode(Goodbye{"CODE", "why"});
  EXPECT_EQ(decode_goodbye(goodbye).message, "why");
  auto each = [](const Bytes& whole, auto decode) {
    for (size_t size = 0; size < whole.size(); ++size)
      EXPECT_EQ(code_of([&] { (void)decode(std::span(whole).first(size)); }), "PROTOCOL") << size;
    Bytes longer = whole;
    longer.push_back(0);
    EXPECT_EQ(code_of([&] { (void)decode(std::span<const uint8_t>(longer)); }), "none")
        << "a later version's";
  };
  each(beat, [](auto bytes) { return decode_beat(bytes); });
  each(report, [](auto bytes) { return decode_report(bytes); });
  each(goodbye, [](auto bytes) { return decode_goodbye(bytes); });
}

// ---- RetainedOutputs

TEST(RetainedOutputs, KeepsWhatThePrimaryDidNotLetOut) {
  RetainedOutputs retained({Mac{2, 0, 0, 0, 0, 1}}, 100);
  const Bytes ten(10, 'x');
  retained.released(2);  // ahead of the replay
  for (int i = 0; i < 5; ++i) retained.packet(1, 0, ten);
  EXPECT_EQ(retained.held(), 3u);
  retained.released(4);
  retained.released(3);
  EXPECT_EQ(retained.held(), 1u);
  for (int i = 0; i < 20; ++i) retained.console(1, 0, ten);
  EXPECT_EQ(retained.held_bytes(), 100u) << "the oldest go";
  EXPECT_EQ(retained.take().size(), 10u);
  EXPECT_EQ(retained.held_bytes(), 0u);
}

// ---- Announcer

constexpr Mac kMac{0x52, 0x54, 0, 0x68, 0x74, 1};

Bytes frame(uint16_t type, const Bytes& body, const Mac& from = kMac) {
  Bytes out(6, 0xff);
  out.insert(out.end(), from.begin(), from.end());
  out.push_back(static_cast<uint8_t>(type >> 8));
  out.push_back(static_cast<uint8_t>(type));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}
Bytes arp_body(const std::array<uint8_t, 4>& ip, const Mac& mac = kMac) {
  Bytes body{0, 1, 8, 0, 6, 4, 0, 2};
  body.insert(body.end(), mac.begin(), mac.end());
  body.insert(body.end(), ip.begin(), ip.end());
  body.resize(28);
  return body;
}
Bytes ipv4_body(const std::array<uint8_t, 4>& source) {
  Bytes body(28);
  body[0] = 0x45;
  std::copy(source.begin(), source.end(), body.begin() + 12);
  return body;
}

TEST(Announcer, AnnouncesWhatTheGuestClaims) {
  Announcer announcer({kMac});
  EXPECT_EQ(announcer.frames(0).size(), 1u) << "RARP alone";
  EXPECT_EQ(announcer.frames(0)[0][12], 0x80);
  announcer.learn(0, frame(0x0800, ipv4_body({10, 77, 0, 2})));
  auto frames = announcer.frames(0);
  ASSERT_EQ(frames.size(), 2u);
  // A gratuitous ARP: to all, sender and target the same address.
  EXPECT_EQ(Bytes(frames[0].begin(), frames[0].begin() + 6), Bytes(6, 0xff));
  EXPECT_EQ(Bytes(frames[0].begin() + 28, frames[0].begin() + 32), (Bytes{10, 77, 0, 2}));
  EXPECT_EQ(Bytes(frames[0].begin() + 38, frames[0].begin() + 42), (Bytes{10, 77, 0, 2}));
  announcer.learn(0, frame(0x0806, arp_body({10, 77, 0, 3})));
  announcer.learn(0, frame(0x0800, ipv4_body({192, 168, 1, 1})));  // forwarded, perhaps
  frames = announcer.frames(0);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(Bytes(frames[0].begin() + 28, frames[0].begin() + 32), (Bytes{10, 77, 0, 3}));
  Bytes advertisement(40 + 32);
  advertisement[0] = 0x60;
  advertisement[6] = 58;
  advertisement[40] = 136;
  advertisement[48] = 0xfe;
  advertisement[49] = 0x80;
  advertisement[63] = 9;
  announcer.learn(0, frame(0x86dd, advertisement));
  frames = announcer.frames(0);
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_EQ(frames[1].size(), 14u + 40 + 32);
  // The checksum over pseudo header and message comes to zero.
  uint32_t sum = 32 + 58;
  for (size_t i = 14 + 8; i < frames[1].size(); i += 2)
    sum += static_cast<uint32_t>(frames[1][i] << 8 | frames[1][i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  EXPECT_EQ(sum, 0xffffu);
}

TEST(Announcer, BelievesNothingThatCannotBe) {
  Announcer announcer({kMac});
  for (std::array<uint8_t, 4> ip :
       {std::array<uint8_t, 4>{0, 0, 0, 0}, {127, 0, 0, 1}, {224, 0, 0, 1}, {255, 255, 255, 255}}) {
    announcer.learn(0, frame(0x0806, arp_body(ip)));
    announcer.learn(0, frame(0x0800, ipv4_body(ip)));
  }
  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 1}, Mac{2, 2, 2, 2, 2, 2})));  // another's
  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 1}, Mac(kMac)), Mac{1, 0, 0, 0, 0, 0}));
  announcer.learn(0, frame(0x0800, ipv4_body({10, 0, 0, 9}), Mac{2, 2, 2, 2, 2, 2}));
  announcer.learn(7, frame(0x0806, arp_body({10, 0, 0, 1})));
  EXPECT_EQ(announcer.frames(0).size(), 1u);
  EXPECT_TRUE(announcer.frames(7).empty());
  for (uint8_t i = 0; i < 100; ++i) announcer.learn(0, frame(0x0806, arp_body({10, 0, 1, i})));
  EXPECT_EQ(announcer.frames(0).size(), Announcer::kMaxAddresses + 1) << "bounded";
}

TEST(Announcer, ForgetsWhatIsAnothersOrUnused) {
  const Mac other{2, 2, 2, 2, 2, 2};
  Announcer announcer({kMac});
  const auto announced = [&](uint64_t now) {
    std::vector<int> last;
    for (const auto& frame : announcer.frames(0, now))
      if (frame[12] == 0x08 && frame[13] == 0x06) last.push_back(frame[31]);
    return last;
  };
  using Last = std::vector<int>;
  announcer.learn(0, frame(0x0800, ipv4_body({10, 0, 0, 1})), 1);
  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 1})), 1);
  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 2})), 1);
  announcer.heard(0, frame(0x0806, arp_body({10, 0, 0, 2})));  // what it sent itself
  announcer.heard(0, frame(0x0806, arp_body({10, 0, 0, 3}, other), other));
  announcer.heard(3, frame(0x0806, arp_body({10, 0, 0, 1}, other), other));
  EXPECT_EQ(announced(2), (Last{1, 2}));
  announcer.heard(0, frame(0x0806, arp_body({10, 0, 0, 2}, other), other));
  EXPECT_EQ(announced(2), (Last{1}));
  announcer.heard(0, frame(0x0806, arp_body({10, 0, 0, 1}, other), other));
  EXPECT_EQ(announced(2), Last{}) << "not as a source of packets either";
  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 1})), 3);
  EXPECT_EQ(announced(3), (Last{1})) << "it defends it";

  announcer.learn(0, frame(0x0806, arp_body({10, 0, 0, 4})), 3);
  announcer.learn(0, frame(0x0800, ipv4_body({10, 0, 0, 1})), Announcer::kUnused);
  EXPECT_EQ(announced(Announcer::kUnused + 2), (Last{4, 1}));
  EXPECT_EQ(announced(Announcer::kUnused + 3), (Last{1})) << "the other one was not used since";
  for (uint8_t i = 0; i < Announcer::kMaxAddresses; ++i)
    announcer.learn(0, frame(0x0806, arp_body({10, 0, 1, static_cast<uint8_t>(i + 100)})), 4);
  EXPECT_EQ(announced(5).front(), 100) << "the longest unused ones go";

  Bytes advertisement(40 + 32);
  advertisement[0] = 0x60;
  advertisement[6] = 58;
  advertisement[40] = 136;
  advertisement[48] = 0xfe;
  advertisement[63] = 9;
  const size_t before = announcer.frames(0, 5).size();
  announcer.learn(0, frame(0x86dd, advertisement), 5);
  EXPECT_EQ(announcer.frames(0, 5).size(), before + 1);
  announcer.heard(0, frame(0x86dd, advertisement, other));
  EXPECT_EQ(announcer.frames(0, 5).size(), before);
}

TEST(Announcer, SurvivesAnyFrame) {
  Announcer announcer({kMac, kMac});
  std::mt19937_64 random(7);
  const uint16_t types[] = {0x0800, 0x0806, 0x86dd, 0x8100, 0};
  for (int i = 0; i < 200'000; ++i) {
    Bytes body(random() % 80);
    for (auto& byte : body) byte = static_cast<uint8_t>(random());
    if (body.size() > 40 && random() % 2) body[0] = 0x60, body[6] = 58, body[40] = random() % 2 ? 135 : 136;
    Bytes whole = frame(types[random() % 5], body);
    whole.resize(random() % (whole.size() + 1));
    announcer.learn(static_cast<uint32_t>(random() % 3), whole);
    whole.resize(random() % (whole.size() + 1));
    announcer.heard(static_cast<uint32_t>(random() % 3), whole);
  }
  EXPECT_LE(announcer.frames(0).size(), 2 * Announcer::kMaxAddresses + 2);
}

}  // namespace
}  // namespace hypertwin::ha
