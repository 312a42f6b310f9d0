// Bytes, digests, records and headers of the event log, each alone.
#include <gtest/gtest.h>

#include <cstring>

#include "base/bytes.h"
#include "base/digest.h"
#include "code_of.h"
#include "log_fixtures.h"

namespace hypertwin::log {
namespace {

TEST(Bytes, RoundTripOfEveryType) {
  ByteWriter out;
  out.u8(0xfe);
  out.u16(0xbeef);
  out.u32(0xdeadbeef);
  out.u64(0x0123456789abcdef);
  const uint64_t numbers[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
  for (uint64_t number : numbers) out.varint(number);
  out.text("hello");
  out.blob({});
  ByteReader in(out.data());
  EXPECT_EQ(in.u8(), 0xfe);
  EXPECT_EQ(in.u16(), 0xbeef);
  EXPECT_EQ(in.u32(), 0xdeadbeef);
  EXPECT_EQ(in.u64(), 0x0123456789abcdefu);
  for (uint64_t number : numbers) EXPECT_EQ(in.varint(), number);
  EXPECT_EQ(in.text(), "hello");
  EXPECT_TRUE(in.blob().empty());
  in.expect_done();
  EXPECT_EQ(out.data()[1], 0xef) << "little-endian";
}

TEST(Bytes, TheReaderRefusesWhatIsNotThere) {
  auto fails = [](std::vector<uint8_t> bytes, auto&& read) {
    ByteReader in(bytes);
    return code_of([&] { read(in); }) == "CORRUPT";
  };
  EXPECT_TRUE(fails({}, [](ByteReader& in) { in.u8(); }));
  EXPECT_TRUE(fails({1}, [](ByteReader& in) { in.u16(); }));
  EXPECT_TRUE(fails({1, 2, 3}, [](ByteReader& in) { in.u32(); }));
  EXPECT_TRUE(fails({1, 2, 3, 4, 5, 6, 7}, [](ByteReader& in) { in.u64(); }));
  EXPECT_TRUE(fails({0x80}, [](ByteReader& in) { in.varint(); }));
  EXPECT_TRUE(fails({0x80, 0x00}, [](ByteReader& in) { in.varint(); })) << "longer than needed";
  EXPECT_TRUE(fails({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
                    [](ByteReader& in) { in.varint(); }));
  EXPECT_TRUE(
      fails({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, [](ByteReader& in) { in.blob(); }));
  EXPECT_TRUE(fails({3, 1, 2}, [](ByteReader& in) { in.blob(); }));
  EXPECT_TRUE(fails({3, 1, 2, 3}, [](ByteReader& in) { in.blob(2); }));
  EXPECT_TRUE(fails({1, 2}, [](ByteReader& in) { in.raw(UINT64_MAX); }));
  EXPECT_TRUE(fails({1}, [](ByteReader& in) { in.expect_done(); }));
}

TEST(Digest, KnownValuesOfXxh3) {
  EXPECT_EQ(checksum64({}), 0x2d06800538d394c2u);
  EXPECT_EQ(digest128({}).hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Digest, PiecesEqualTheWhole) {
  std::vector<uint8_t> bytes(5000);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(i * 31);
  Hasher hasher;
  std::span<const uint8_t> rest(bytes);
  for (size_t size = 1; !rest.empty(); size = size * 3 % 257 + 1) {
    hasher.update(rest.first(std::min(size, rest.size())));
    rest = rest.subspan(std::min(size, rest.size()));
  }
  EXPECT_EQ(hasher.digest(), digest128(bytes));
}

TEST(Digest, TheRollingDigestCountsOrderGroupingAndEveryBit) {
  std::vector<uint64_t> words(60);
  for (size_t i = 0; i < words.size(); i++) words[i] = i;
  auto of = [](std::initializer_list<std::span<const uint64_t>> updates) {
    RollingDigest digest;
    for (auto update : updates) digest.update(update);
    return digest.value();
  };
  std::span<const uint64_t> all(words);
  const Digest128 whole = of({all.first(24)});
  EXPECT_EQ(whole, of({all.first(24)}));
  EXPECT_NE(of({all.first(1), all.subspan(1, 1)}), of({all.subspan(1, 1), all.first(1)}));
  EXPECT_NE(whole, of({all.first(12), all.subspan(12, 12)}));
  EXPECT_NE(of({}), of({all.first(0)}));
  EXPECT_NE(of({all.first(27)}), of({all.first(28)}));
  for (size_t size : {24u, 60u}) {
    const Digest128 right = of({all.first(size)});
    for (size_t bit = 0; bit < size * 64; bit++) {
      words[bit / 64] ^= uint64_t{1} << (bit % 64);
      EXPECT_NE(of({all.first(size)}), right) << bit;
      words[bit / 64] ^= uint64_t{1} << (bit % 64);
    }
  }
  RollingDigest resumed(of({all.first(12)}));
  resumed.update(all.subspan(12, 12));
  EXPECT_EQ(resumed.value(), of({all.first(12), all.subspan(12, 12)}));
}

TEST(LogHeader, RoundTripAndUnknownTags) {
  LogHeader header = sample_header();
  header.memory_size = UINT64_MAX;
  auto blob = encode_header(header);
  EXPECT_EQ(decode_header(blob), header);
  ByteWriter extended;
  extended.varint(99);
  extended.text("from the future");
  extended.raw(blob);
  EXPECT_EQ(decode_header(extended.data()), header);
  for (size_t size = 0; size < blob.size(); size++) {
    try {
      EXPECT_NE(decode_header(std::span(blob).first(size)), header);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CORRUPT");
    }
  }
  LogHeader huge;
  huge.machine_config.resize(kMaxHeaderBlob);
  EXPECT_EQ(code_of([&] { encode_header(huge); }), "LOG_HEADER_TOO_BIG");
}

TEST(LogHeader, NamesWhatDiffers) {
  LogHeader log = sample_header();
  LogHeader here = log;
  here.log_id[0]++;
  here.created_unix_ns++;
  here.machine_config = "{}";
  here.hypertwin_version = "0.1.1";
  EXPECT_TRUE(replay_mismatches(log, here).empty());
  here.cpu_model = 25;
  here.kvm_quirks = "rip-at-pio=at";
  EXPECT_EQ(replay_mismatches(log, here),
            (std::vector<std::string>{"cpu model: log 143, here 25",
                                      "kvm quirks: log rip-at-pio=past, here rip-at-pio=at"}));
}

TEST(LogFormat, SegmentNames) {
  EXPECT_EQ(segment_name(1), "00000001.htlog");
  EXPECT_EQ(segment_number("00000001.htlog"), 1u);
  EXPECT_EQ(segment_number("4294967295.htlog"), UINT32_MAX);
  for (auto name : {"", "0.htlog", "1.htlog", "00000000.htlog", "00000001.htlog.new", "4294967296.htlog",
                    "99999999999.htlog", "00000001htlog", "initial.htsnap"}) {
    EXPECT_EQ(segment_number(name), 0u) << name;
  }
}

TEST(LogFormat, ABlockHeaderOfAnotherLogIsNone) {
  BlockHeader header;
  header.payload_bytes = 10;
  header.records = 1;
  std::array<uint8_t, kBlockHeaderBytes> bytes;
  encode_block_header(header, 5, bytes);
  BlockHeader out;
  EXPECT_TRUE(decode_block_header(bytes, 5, &out));
  EXPECT_FALSE(decode_block_header(bytes, 6, &out));
  header.payload_bytes = kMaxBlockPayload + 1;
  encode_block_header(header, 5, bytes);
  EXPECT_FALSE(decode_block_header(bytes, 5, &out)) << "a block over the limit";
}

struct Case {
  const char* name;
  Body body;
};

TEST(LogRecord, RoundTripOfEveryKindAndItsExtremes) {
  const std::vector<uint8_t> none;
  const std::vector<uint8_t> big(kMaxRecordBytes - 256, 0x5a);
  const std::vector<uint16_t> prefixes = {0, 1, 0xffff};
  const std::vector<uint16_t> many(1u << 20, 0xabcd);
  const Digest128 ones{UINT64_MAX, UINT64_MAX};
  const Case cases[] = {
      {"time", Time{0}},
      {"time max", Time{UINT64_MAX}},
      {"packet empty", PacketRx{0, none}},
      {"packet big", PacketRx{UINT64_MAX, big}},
      {"console", ConsoleRx{1, big}},
      {"block", BlockCompletion{UINT64_MAX, UINT64_MAX, 255, big}},
      {"block empty", BlockCompletion{0, 0, 0, none}},
      {"interrupt", Interrupt{0}},
      {"interrupt max", Interrupt{255}},
      {"entropy", Entropy{UINT64_MAX, big}},
      {"check", Check{ones, prefixes, big}},
      {"check empty", Check{{}, {}, {}}},
      {"check many", Check{ones, many, {}}},
      {"state", StateDigest{ones, {}, ones}},
      {"epoch", Epoch{big}},
      {"marker", Marker{as_text(big), {}}},
      {"marker empty", Marker{"", {}}},
      {"end", End{UINT64_MAX}},
      {"lifecycle", Lifecycle{255}},
      {"output", Output{}},
      {"extension", Extension{128, big}},
      {"extension max", Extension{UINT64_MAX, none}},
  };
  for (const Case& c : cases) {
    for (uint64_t boundary : {uint64_t{0}, uint64_t{5}, UINT64_MAX}) {
      SCOPED_TRACE(c.name);
      std::vector<uint8_t> bytes(encoded_bound(c.body));
      Cursor out{};
      uint8_t* end = encode_record(bytes.data(), boundary, c.body, &out);
      ASSERT_LE(end, bytes.data() + bytes.size());
      bytes.resize(static_cast<size_t>(end - bytes.data()));
      ByteReader in(bytes);
      Cursor cursor{};
      std::vector<uint16_t> scratch;
      Record record;
      decode_record(in, &cursor, &scratch, &record);
      in.expect_done();
      EXPECT_EQ(cursor.boundary, out.boundary);
      EXPECT_EQ(cursor.time_ns, out.time_ns);
      EXPECT_EQ(canonical(record), canonical(boundary, c.body));
      EXPECT_EQ(record.body.index(), c.body.index());
    }
  }
}

TEST(LogRecord, FieldsArriveWhereTheyBelong) {
  const std::vector<uint8_t> data = {9, 8, 7};
  const std::vector<uint16_t> prefixes = {1, 0xfffe};
  auto through = [](const Body& body, std::vector<uint8_t>& bytes, std::vector<uint16_t>& scratch) {
    bytes.resize(encoded_bound(body));
    Cursor cursor{10, 100};
    encode_record(bytes.data(), 12, body, &cursor);
    ByteReader in(bytes);
    cursor = {10, 100};
    Record record;
    decode_record(in, &cursor, &scratch, &record);
    EXPECT_EQ(record.boundary, 12u);
    return record;
  };
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> scratch;
  EXPECT_EQ(through(Time{90}, bytes, scratch).as<Time>()->ns, 90u) << "time may go back";
  auto block = through(BlockCompletion{1, 2, 3, data}, bytes, scratch);
  const auto* completion = block.as<BlockCompletion>();
  ASSERT_NE(completion, nullptr);
  EXPECT_EQ(completion->device, 1u);
  EXPECT_EQ(completion->request, 2u);
  EXPECT_EQ(completion->status, 3u);
  EXPECT_TRUE(std::ranges::equal(completion->data, data));
  EXPECT_EQ(block.as<Time>(), nullptr);
  auto checked = through(Check{{5, 6}, prefixes, data}, bytes, scratch);
  const auto* check = checked.as<Check>();
  ASSERT_NE(check, nullptr);
  EXPECT_EQ(check->rolling, (Digest128{5, 6}));
  EXPECT_TRUE(std::ranges::equal(check->prefixes, prefixes));
  EXPECT_TRUE(std::ranges::equal(check->registers, data));
  auto state = through(StateDigest{{1, 2}, {3, 4}, {5, 6}}, bytes, scratch);
  EXPECT_EQ(state.as<StateDigest>()->devices, (Digest128{3, 4}));
  auto marker = through(Marker{"a", data}, bytes, scratch);
  EXPECT_EQ(marker.as<Marker>()->text, "a");
  EXPECT_TRUE(std::ranges::equal(marker.as<Marker>()->annotation, data));
}

TEST(LogRecord, UnknownKinds) {
  auto decode = [](std::vector<uint8_t> bytes) {
    ByteReader in(bytes);
    Cursor cursor;
    std::vector<uint16_t> scratch;
    Record record;
    decode_record(in, &cursor, &scratch, &record);
    return record.kind();
  };
  EXPECT_EQ(code_of([&] { decode({14, 0, 0}); }), "LOG_UNKNOWN_KIND");
  EXPECT_EQ(code_of([&] { decode({0, 0, 0}); }), "LOG_UNKNOWN_KIND");
  EXPECT_EQ(code_of([&] { decode({127, 0, 0}); }), "LOG_UNKNOWN_KIND");
  EXPECT_EQ(decode({0x80, 1, 0, 2, 'h', 'i'}), 128u);
  EXPECT_EQ(code_of([&] { decode({7, 0, 1}); }), "CORRUPT");
}

TEST(LogRecord, KindsHaveNames) {
  EXPECT_EQ(kind_name(2), "packet_rx");
  EXPECT_EQ(kind_name(12), "lifecycle");
  EXPECT_EQ(kind_name(13), "output");
  EXPECT_EQ(kind_name(14), "unknown");
  EXPECT_EQ(kind_name(500), "extension");
}

}  // namespace
}  // namespace hypertwin::log
