// The event log's reader on whole, torn, flipped, shuffled and growing logs.
#include <gtest/gtest.h>

#include <thread>

#include "log_fixtures.h"

namespace hypertwin::log {
namespace {

struct Outcome {
  std::vector<Canonical> records;
  std::vector<bool> after_gap;
  std::vector<Damage> damages;
  Stop stop = Stop::kNone;
};

Outcome read(Segments segments, bool stop_at_gap = true) {
  Reader reader(memory_source(std::move(segments)), with_extensions(stop_at_gap));
  Outcome out;
  while (auto record = reader.next()) {
    out.records.push_back(canonical(*record));
    out.after_gap.push_back(record->after_gap);
    EXPECT_EQ(record->index < UINT64_MAX, true);
  }
  out.damages = reader.damages();
  out.stop = reader.stop();
  return out;
}

// Time records hold absolute times, so a Canonical is the same wherever it was read from.
bool is_prefix(const std::vector<Canonical>& part, const std::vector<Canonical>& whole) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

TEST(LogReader, YieldsWhatWasAppended) {
  for (uint64_t seed = 1; seed <= 20; seed++) {
    auto made = make_log(10, 30, true, seed, 400, 8192);
    EXPECT_GT(made.segments.size(), 3u);
    auto outcome = read(made.segments);
    EXPECT_EQ(outcome.records, made.records);
    EXPECT_TRUE(outcome.damages.empty());
    EXPECT_EQ(outcome.stop, Stop::kEnd);
  }
}

TEST(LogReader, KnowsTheHeaderAndTheChain) {
  auto made = make_log(3, 5, false);
  Reader reader(memory_source(made.segments), {});
  EXPECT_EQ(reader.header(), sample_header());
  EXPECT_EQ(reader.chain(), first_chain(sample_header().log_id));
  read_all(reader);
  EXPECT_EQ(reader.stop(), Stop::kDataEnds);
  auto report = verify(memory_source(made.segments));
  EXPECT_EQ(report.chain, reader.chain());
  EXPECT_TRUE(report.ok());
  EXPECT_TRUE(report.chain_ok);
  EXPECT_FALSE(report.ended);
  EXPECT_EQ(report.records, 15u);
  EXPECT_EQ(report.replayable_records, 15u);
  EXPECT_EQ(report.blocks, 3u);
}

TEST(LogReader, SkipsExtensionsUnlessAsked) {
  auto made = make_log(1, 200, true);
  Reader reader(memory_source(made.segments), {});
  size_t records = 0;
  while (auto record = reader.next()) {
    EXPECT_LT(record->kind(), kFirstOptionalKind);
    records++;
  }
  EXPECT_LT(records, made.records.size());
  EXPECT_GT(records, 0u);
}

TEST(LogReader, TornAtEveryByteItYieldsEveryWholeBlock) {
  auto made = make_log(6, 4, true);
  const auto& whole = made.segments.at(1);
  const auto blocks = Reader(memory_source(made.segments), {}).index();
  ASSERT_EQ(blocks.size(), 6u);
  for (size_t size = 0; size < whole.size(); size++) {
    Segments torn = {{1, {whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)}}};
    auto outcome = read(torn);
    uint64_t expected = 0;
    uint64_t used = blocks[0].offset;
    for (const auto& block : blocks) {
      const uint64_t end = block.offset + kBlockHeaderBytes + block.header.payload_bytes;
      if (end > size) break;
      expected = block.header.first_record + block.header.records;
      used = end;
    }
    ASSERT_EQ(outcome.records.size(), expected) << size;
    ASSERT_TRUE(is_prefix(outcome.records, made.records)) << size;
    ASSERT_EQ(outcome.stop, Stop::kDataEnds);
    if (size > used) {
      ASSERT_EQ(outcome.damages.size(), 1u) << size;
      EXPECT_EQ(outcome.damages[0].kind, DamageKind::kTornTail);
      EXPECT_EQ(outcome.damages[0].offset, used);
      EXPECT_EQ(outcome.damages[0].bytes, size - used);
      EXPECT_EQ(outcome.damages[0].first_lost, expected);
    } else if (size == used) {
      ASSERT_TRUE(outcome.damages.empty()) << size << outcome.damages[0].text();
    } else {
      ASSERT_FALSE(outcome.damages.empty()) << size;
    }
  }
}

TEST(LogReader, ATornTailBreaksNoChain) {
  auto made = make_log(4, 10, true, 2);
  auto& bytes = made.segments.at(1);
  bytes.resize(bytes.size() - 1);
  auto report = verify(memory_source(made.segments));
  ASSERT_EQ(report.damages.size(), 1u);
  EXPECT_EQ(report.damages[0].kind, DamageKind::kTornTail);
  EXPECT_FALSE(report.ok());
  EXPECT_TRUE(report.chain_ok);
  EXPECT_EQ(report.replayable_records, 30u);
}

TEST(LogReader, AFlippedBitNeverGivesAWrongRecord) {
  auto made = make_log(5, 3, true);
  const auto& whole = made.segments.at(1);
  const auto blocks = Reader(memory_source(made.segments), {}).index();
  for (size_t at = 0; at < whole.size(); at++) {
    for (uint8_t bit : {0x01, 0x80, 0xff}) {
      auto flipped = whole;
      flipped[at] ^= bit;
      Outcome outcome;
      // Which block holds the byte; -1: the segment's header.
      int hit = -1;
      for (size_t i = 0; i < blocks.size(); i++) {
        if (at >= blocks[i].offset) hit = static_cast<int>(i);
      }
      outcome = read({{1, flipped}}, false);
      ASSERT_FALSE(outcome.damages.empty()) << at;
      for (const auto& damage : outcome.damages) ASSERT_FALSE(damage.text().empty());
      if (hit < 0) {
        // The log's id itself may be hit; then no block can be trusted.
        ASSERT_TRUE(outcome.records.empty() || outcome.records == made.records) << at;
        continue;
      }
      // Everything but the block that was hit, and what is behind it marked.
      const auto& block = blocks[static_cast<size_t>(hit)].header;
      std::vector<Canonical> expected = made.records;
      expected.erase(expected.begin() + static_cast<ptrdiff_t>(block.first_record),
                     expected.begin() + static_cast<ptrdiff_t>(block.first_record + block.records));
      ASSERT_EQ(outcome.records, expected) << at;
      for (size_t i = 0; i < outcome.records.size(); i++) {
        ASSERT_EQ(outcome.after_gap[i], i >= block.first_record) << at;
      }
      ASSERT_EQ(outcome.damages.size(), 1u) << at;
      const auto& damage = outcome.damages[0];
      EXPECT_TRUE(damage.gap);
      EXPECT_EQ(damage.offset, blocks[static_cast<size_t>(hit)].offset);
      EXPECT_EQ(damage.first_lost, block.first_record);
      if (static_cast<size_t>(hit) + 1 < blocks.size()) {
        EXPECT_EQ(damage.end_lost, block.first_record + block.records) << at;
        EXPECT_EQ(damage.to_boundary, blocks[static_cast<size_t>(hit) + 1].header.first_boundary);
      }
      // A replay sees what is before the damage and then stops.
      auto careful = read({{1, flipped}}, true);
      ASSERT_EQ(careful.records.size(), block.first_record) << at;
      ASSERT_TRUE(is_prefix(careful.records, made.records));
      const bool last = static_cast<size_t>(hit) + 1 == blocks.size();
      ASSERT_EQ(careful.stop, last ? Stop::kDataEnds : Stop::kGap) << at;
    }
  }
}

TEST(LogReader, ADamagedSegmentHeaderLosesNothingWhenAnotherIsWhole) {
  auto made = make_log(12, 10, true, 3, 200, 4096);
  ASSERT_GE(made.segments.size(), 3u);
  for (uint32_t number : {1u, 2u}) {
    auto segments = made.segments;
    for (size_t i = 0; i < 100; i++) segments.at(number)[i] = 0xee;
    auto outcome = read(segments);
    EXPECT_EQ(outcome.records, made.records) << number;
    ASSERT_EQ(outcome.damages.size(), 1u);
    EXPECT_EQ(outcome.damages[0].kind, DamageKind::kSegmentHeader);
    EXPECT_FALSE(outcome.damages[0].gap);
    EXPECT_EQ(Reader(memory_source(segments), {}).header(), sample_header());
  }
}

TEST(LogReader, WithoutAnyHeaderItSaysSo) {
  auto made = make_log(1, 3, false);
  made.segments.at(1)[70] ^= 1;
  Reader reader(memory_source(made.segments), with_extensions());
  try {
    reader.header();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOG_HEADER_DAMAGED");
  }
  EXPECT_EQ(read_all(reader), made.records);
}

TEST(LogReader, AMissingSegmentIsAGap) {
  auto made = make_log(12, 10, true, 3, 200, 4096);
  ASSERT_GE(made.segments.size(), 4u);
  const auto blocks = Reader(memory_source(made.segments), {}).index();
  auto segments = made.segments;
  segments.erase(2);
  uint64_t first_lost = 0, end_lost = 0;
  for (const auto& block : blocks) {
    if (block.segment == 1) first_lost = block.header.first_record + block.header.records;
    if (block.segment == 2) end_lost = block.header.first_record + block.header.records;
  }
  auto careful = read(segments);
  EXPECT_EQ(careful.stop, Stop::kGap);
  EXPECT_EQ(careful.records.size(), first_lost);
  auto outcome = read(segments, false);
  ASSERT_EQ(outcome.damages.size(), 1u);
  EXPECT_EQ(outcome.damages[0].kind, DamageKind::kMissingSegment);
  EXPECT_EQ(outcome.damages[0].segment, 2u);
  EXPECT_EQ(outcome.damages[0].first_lost, first_lost);
  EXPECT_EQ(outcome.damages[0].end_lost, end_lost);
  EXPECT_EQ(outcome.records.size(), made.records.size() - (end_lost - first_lost));

  // Without the first one nothing can be replayed.
  segments = made.segments;
  segments.erase(1);
  EXPECT_EQ(read(segments).records.size(), 0u);
  EXPECT_EQ(read(segments).stop, Stop::kGap);
  EXPECT_EQ(verify(memory_source(segments)).replayable_records, 0u);
  EXPECT_FALSE(verify(memory_source(segments)).chain_ok);
}

TEST(LogReader, ForeignRenamedDuplicatedEmptyAndGarbageSegments) {
  auto made = make_log(12, 10, true, 3, 200, 4096);
  auto header = sample_header();
  header.log_id[3] ^= 1;
  auto other = make_log(12, 10, true, 3, 200, 4096, header);
  const uint32_t last = made.segments.rbegin()->first;
  auto kinds = [](const Outcome& outcome) {
    std::vector<DamageKind> found;
    for (const auto& damage : outcome.damages) found.push_back(damage.kind);
    return found;
  };
  using Kinds = std::vector<DamageKind>;

  auto segments = made.segments;
  segments[2] = other.segments[2];
  auto outcome = read(segments, false);
  EXPECT_EQ(kinds(outcome), Kinds{DamageKind::kForeignSegment});
  EXPECT_TRUE(outcome.damages[0].gap);
  EXPECT_EQ(read(segments).stop, Stop::kGap);

  // A copy behind the end: nothing is lost.
  segments = made.segments;
  segments.erase(last);
  segments[last] = made.segments[2];
  outcome = read(segments);
  EXPECT_EQ(kinds(outcome), Kinds{DamageKind::kForeignSegment});

  // Two names exchanged.
  segments = made.segments;
  std::swap(segments[2], segments[3]);
  outcome = read(segments, false);
  EXPECT_EQ(kinds(outcome), (Kinds{DamageKind::kForeignSegment, DamageKind::kForeignSegment}));
  EXPECT_TRUE(outcome.damages[0].gap);

  for (size_t size : {0u, 1u, 63u, 64u, 5000u}) {
    segments = made.segments;
    segments[2].assign(size, 0xb7);
    outcome = read(segments, false);
    EXPECT_EQ(kinds(outcome), Kinds{DamageKind::kSegmentHeader}) << size;
    EXPECT_TRUE(outcome.damages[0].gap);
  }

  // Bytes between two whole blocks, and blocks that come twice, lose nothing.
  const auto blocks = Reader(memory_source(made.segments), {}).index();
  const auto& second = blocks[1];
  segments = made.segments;
  auto& first = segments.at(1);
  ASSERT_EQ(second.segment, 1u);
  first.insert(first.begin() + static_cast<ptrdiff_t>(second.offset), 37, 0x48);
  outcome = read(segments);
  EXPECT_EQ(outcome.records, made.records);
  EXPECT_EQ(kinds(outcome), Kinds{DamageKind::kBlock});
  EXPECT_FALSE(outcome.damages[0].gap);
  EXPECT_EQ(outcome.damages[0].bytes, 37u);
  segments = made.segments;
  const auto& clean = made.segments.at(1);
  segments.at(1).insert(segments.at(1).begin() + static_cast<ptrdiff_t>(second.offset),
                        clean.begin() + static_cast<ptrdiff_t>(blocks[0].offset),
                        clean.begin() + static_cast<ptrdiff_t>(second.offset));
  outcome = read(segments);
  EXPECT_EQ(outcome.records, made.records);
  EXPECT_EQ(kinds(outcome), Kinds{DamageKind::kRepeated});
  EXPECT_FALSE(outcome.damages[0].gap);
}

TEST(LogReader, BlocksThatDoNotFollowEachOtherAreAGap) {
  // Same id, same sizes, other content: only the chain can tell.
  auto a = make_log(4, 5, false, 1);
  auto header = sample_header();
  auto b = make_log(4, 5, false, 2);
  const auto blocks_a = Reader(memory_source(a.segments), {}).index();
  const auto blocks_b = Reader(memory_source(b.segments), {}).index();
  std::vector<uint8_t> mixed(a.segments.at(1).begin(),
                             a.segments.at(1).begin() + static_cast<ptrdiff_t>(blocks_a[2].offset));
  mixed.insert(mixed.end(), b.segments.at(1).begin() + static_cast<ptrdiff_t>(blocks_b[2].offset),
               b.segments.at(1).end());
  auto outcome = read({{1, mixed}});
  EXPECT_EQ(outcome.stop, Stop::kGap);
  EXPECT_EQ(outcome.records.size(), 10u);
  ASSERT_EQ(outcome.damages.size(), 1u);
  EXPECT_EQ(outcome.damages[0].kind, DamageKind::kChain);
}

TEST(LogReader, ABlockInsideAPacketIsNotABlock) {
  // A guest that is sent a log of hypertwin's must not be able to plant records.
  auto header = sample_header();
  header.log_id[0] ^= 0x55;
  auto inner = make_log(3, 5, true, 9, 24, 64u << 20, header);
  auto log = std::make_shared<MemoryLog>();
  WriterOptions options;
  options.commit_latency = std::chrono::hours(1);
  options.commit_bytes = SIZE_MAX;
  Writer writer(std::make_unique<MemorySink>(log), sample_header(), options);
  writer.append(1, PacketRx{0, inner.segments.at(1)});
  writer.flush();
  writer.append(2, Interrupt{1});
  writer.close();
  auto segments = log->segments;
  const auto blocks = Reader(memory_source(segments), {}).index();
  segments.at(1)[blocks[0].offset + 8] ^= 1;
  auto outcome = read(segments, false);
  ASSERT_EQ(outcome.records.size(), 1u);
  EXPECT_EQ(outcome.records[0], canonical(2, Interrupt{1}));
}

TEST(LogReader, AnotherVersionIsRefused) {
  auto made = make_log(1, 1, false);
  SegmentHeader header;
  header.version = 2;
  header.number = 1;
  header.log_id = sample_header().log_id;
  header.blob = encode_header(sample_header());
  try {
    Reader reader(memory_source({{1, encode_segment_header(header)}}), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOG_VERSION");
  }
}

// A log of one block with these payload bytes.
Segments handmade(std::vector<uint8_t> payload, uint32_t records, uint64_t last_boundary) {
  SegmentHeader segment;
  segment.number = 1;
  segment.log_id = sample_header().log_id;
  segment.chain = first_chain(segment.log_id);
  segment.blob = encode_header(sample_header());
  auto bytes = encode_segment_header(segment);
  BlockHeader block;
  block.payload_bytes = static_cast<uint32_t>(payload.size());
  block.records = records;
  block.last_boundary = last_boundary;
  block.chain = segment.chain;
  const uint64_t seed = block_seed(segment.log_id);
  block.payload_digest = digest128(payload, seed);
  std::array<uint8_t, kBlockHeaderBytes> head;
  encode_block_header(block, seed, head);
  bytes.insert(bytes.end(), head.begin(), head.end());
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return {{1, bytes}};
}

TEST(LogReader, UnknownMandatoryKindsStopItAndVerifyReportsThem) {
  auto segments = handmade({5, 0, 33, 99, 0, 0}, 2, 0);
  Reader reader(memory_source(segments), {});
  ASSERT_TRUE(reader.next());
  for (int i = 0; i < 2; i++) {
    try {
      reader.next();
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "LOG_UNKNOWN_KIND");
    }
  }
  auto report = verify(memory_source(segments));
  EXPECT_EQ(report.records, 1u);
  ASSERT_EQ(report.damages.size(), 1u);
  EXPECT_EQ(report.damages[0].kind, DamageKind::kRecords);
}

TEST(LogReader, RecordsThatLieBehindARightChecksumAreRefused) {
  for (auto& segments : {handmade({5, 0, 33, 5, 0}, 2, 0),         // ends early
                         handmade({5, 0, 33, 5, 0, 34, 1}, 2, 0),  // bytes left over
                         handmade({5, 0, 33, 5, 9, 34}, 2, 0),     // beyond the last boundary
                         handmade({5, 0, 33, 5, 3, 34}, 2, 5)}) {  // before it
    auto outcome = read(segments);
    EXPECT_EQ(outcome.records.size(), 1u);
    EXPECT_EQ(outcome.stop, Stop::kGap);
    ASSERT_EQ(outcome.damages.size(), 1u);
    EXPECT_EQ(outcome.damages[0].kind, DamageKind::kRecords);
  }
}

TEST(LogReader, SeeksToTheFirstRecordOfABoundary) {
  auto made = make_log(30, 12, true, 5, 100, 4096);
  ASSERT_GE(made.segments.size(), 5u);
  Reader reader(memory_source(made.segments), with_extensions());
  std::vector<uint64_t> targets = {0, UINT64_MAX};
  for (const auto& record : made.records) {
    targets.push_back(record.boundary);
    targets.push_back(record.boundary + 1);
  }
  for (uint64_t target : targets) {
    reader.seek(target);
    auto expected = std::ranges::find_if(made.records, [&](const auto& r) { return r.boundary >= target; });
    for (int i = 0; i < 20 && expected != made.records.end(); i++, ++expected) {
      auto record = reader.next();
      ASSERT_TRUE(record) << target;
      ASSERT_EQ(canonical(*record), *expected) << target;
      ASSERT_EQ(record->index, static_cast<uint64_t>(expected - made.records.begin()));
      ASSERT_FALSE(record->after_gap);
    }
    if (expected == made.records.end()) {
      ASSERT_FALSE(reader.next());
    }
  }
  EXPECT_TRUE(reader.damages().empty());
}

// Whose last segment grows while it is looked at: at the `when`th question for its size.
class GrowingSource final : public Source {
 public:
  GrowingSource(Segments segments, uint64_t shown, int when)
      : whole_(memory_source(std::move(segments))), shown_(shown), when_(when) {}
  std::vector<uint32_t> segments() override { return whole_->segments(); }
  uint64_t size(uint32_t segment) override {
    if (looking && --when_ <= 0) shown_ = UINT64_MAX;
    return std::min(whole_->size(segment), segment == segments().back() ? shown_ : UINT64_MAX);
  }
  size_t read(uint32_t segment, uint64_t offset, std::span<uint8_t> out) override {
    return whole_->read(segment, offset, out);
  }
  void wait(std::chrono::milliseconds timeout) override { whole_->wait(timeout); }
  void cancel() override { whole_->cancel(); }
  bool cancelled() const override { return whole_->cancelled(); }
  bool grown() const { return shown_ == UINT64_MAX; }

  bool looking = false;

 private:
  const std::unique_ptr<Source> whole_;
  uint64_t shown_;
  int when_;
};

TEST(LogReader, SeeksBehindTheEndOfALogThatGrowsMeanwhile) {
  for (const int blocks : {2, 3, 5, 9}) {
    auto made = make_log(blocks, 5, false, 7);
    ASSERT_EQ(made.segments.size(), 1u);
    const auto index = Reader(memory_source(made.segments), {}).index();
    const BlockInfo& last = index.back();
    bool grew = true;
    for (int when = 1; grew; ++when) {
      ASSERT_LT(when, 1000);
      auto source = std::make_unique<GrowingSource>(made.segments, last.offset, when);
      GrowingSource& growing = *source;
      Reader reader(std::move(source), with_extensions());
      ASSERT_TRUE(reader.next());
      growing.looking = true;
      reader.seek(last.header.last_boundary);
      grew = growing.grown();
      growing.looking = true;
      while (!growing.grown()) growing.size(1);
      auto record = reader.next();
      ASSERT_TRUE(record) << blocks << " blocks, look " << when;
      EXPECT_EQ(record->boundary, last.header.last_boundary);
      while (reader.next()) {
      }
      EXPECT_EQ(reader.stop(), Stop::kDataEnds);
      EXPECT_TRUE(reader.damages().empty()) << blocks << " blocks, look " << when;
    }
  }
}

TEST(LogReader, TheIndexDoesNotDisturbReading) {
  auto made = make_log(20, 10, true, 6, 100, 4096);
  Reader reader(memory_source(made.segments), with_extensions());
  std::vector<Canonical> records;
  while (auto record = reader.next()) {
    records.push_back(canonical(*record));
    if (records.size() % 7 == 0) {
      EXPECT_EQ(reader.index().size(), 20u);
    }
  }
  EXPECT_EQ(records, made.records);
}

TEST(LogReader, RandomGarbageNeverHurts) {
  std::mt19937_64 random(4);
  auto made = make_log(6, 10, true, 7, 60, 2048);
  for (int round = 0; round < 3000; round++) {
    auto segments = made.segments;
    for (uint64_t i = 0, edits = 1 + random() % 4; i < edits; i++) {
      auto it = std::next(segments.begin(), static_cast<ptrdiff_t>(random() % segments.size()));
      auto& bytes = it->second;
      if (bytes.empty()) continue;
      const size_t at = random() % bytes.size();
      const size_t size = std::min<size_t>(random() % 200, bytes.size() - at);
      auto begin = bytes.begin() + static_cast<ptrdiff_t>(at);
      switch (random() % 4) {
        case 0:
          for (size_t j = 0; j < size; j++) bytes[at + j] = static_cast<uint8_t>(random());
          break;
        case 1:
          bytes.erase(begin, begin + static_cast<ptrdiff_t>(size));
          break;
        case 2: {
          std::vector<uint8_t> copy(begin, begin + static_cast<ptrdiff_t>(size));
          const auto to = static_cast<ptrdiff_t>(random() % bytes.size());
          bytes.insert(bytes.begin() + to, copy.begin(), copy.end());
          break;
        }
        default:
          bytes.resize(at);
      }
    }
    auto careful = read(segments);
    ASSERT_TRUE(is_prefix(careful.records, made.records));
    auto outcome = read(segments, false);
    size_t at = 0;
    for (const auto& record : outcome.records) {
      while (at < made.records.size() && made.records[at] != record) at++;
      ASSERT_LT(at++, made.records.size()) << "a record that was never written";
    }
  }
}

TEST(LogReader, NoLog) {
  TemporaryDirectory directory;
  auto code = [](const std::filesystem::path& path) {
    try {
      Reader::open(path);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("none");
  };
  EXPECT_EQ(code(directory.path()), "LOG_NOT_FOUND");
  EXPECT_EQ(code(directory.path() / "absent"), "LOG_NOT_FOUND");
}

TEST(LogReader, FollowsALogThatGrowsAcrossSegments) {
  TemporaryDirectory directory;
  WriterOptions options;
  options.segment_bytes = 20000;
  options.commit_latency = std::chrono::microseconds(200);
  auto writer = Writer::create(directory.path() / "log", sample_header(), options);
  std::vector<Canonical> read;
  std::thread follower([&] {
    ReaderOptions follow = with_extensions();
    follow.follow = true;
    auto reader = Reader::open(directory.path() / "log", follow);
    read = read_all(*reader);
    EXPECT_EQ(reader->stop(), Stop::kEnd);
    EXPECT_TRUE(reader->damages().empty());
  });
  std::vector<Canonical> written;
  RandomRecords records(8);
  uint64_t boundary = 0;
  for (int i = 0; i < 3000; i++) {
    auto [at, body] = records.next();
    boundary = at;
    written.push_back(canonical(at, body));
    writer->append(at, body);
    if (i % 50 == 0) writer->flush();
  }
  written.push_back(canonical(boundary, End{0}));
  writer->append(boundary, End{0});
  writer->close();
  follower.join();
  EXPECT_GT(writer->stats().segments, 5u);
  EXPECT_EQ(read, written);
}

TEST(LogReader, AFollowerSeesEachRecordAndCanBeCancelled) {
  TemporaryDirectory directory;
  auto writer = Writer::create(directory.path(), sample_header());
  ReaderOptions follow;
  follow.follow = true;
  auto reader = Reader::open(directory.path(), follow);
  for (uint64_t i = 0; i < 20; i++) {
    writer->append(i, Interrupt{static_cast<uint8_t>(i)});
    auto record = reader->next();
    ASSERT_TRUE(record);
    EXPECT_EQ(record->boundary, i);
  }
  std::thread canceller([&] { reader->cancel(); });
  EXPECT_FALSE(reader->next());
  canceller.join();
  EXPECT_EQ(reader->stop(), Stop::kCancelled);
  EXPECT_FALSE(reader->next());
}

TEST(LogReader, ReadsOnWhenALogHasGrown) {
  TemporaryDirectory directory;
  auto writer = Writer::create(directory.path(), sample_header());
  auto reader = Reader::open(directory.path());
  EXPECT_FALSE(reader->next());
  EXPECT_EQ(reader->stop(), Stop::kDataEnds);
  writer->append(3, Interrupt{1});
  writer->flush();
  ASSERT_TRUE(reader->next());
  EXPECT_FALSE(reader->next());
  reader->seek(100);
  EXPECT_FALSE(reader->next());
  writer->append(50, Interrupt{2});
  writer->append(100, Interrupt{3});
  writer->flush();
  auto record = reader->next();
  ASSERT_TRUE(record);
  EXPECT_EQ(record->boundary, 100u);
}

}  // namespace
}  // namespace hypertwin::log
