// Pages and blocks as they travel: every coding gives back what went in, the smallest is chosen, and what is
// malformed is refused.
#include "migrate/codec.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "code_of.h"
#include "migrate/payloads.h"

namespace hypertwin::migrate {
namespace {

using Page = std::array<uint8_t, kPage>;

// Memory as a receiver has it.
struct Memory {
  explicit Memory(size_t count) : pages(count) {}
  std::vector<Page> pages;
  void apply(std::span<const uint8_t> payload, uint32_t features = ~0u) {
    PageReader reader(payload, pages.size(), features);
    Entry entry;
    while (reader.next(entry))
      for (uint64_t i = 0; i < entry.count; ++i) decode(entry, pages[entry.first + i]);
  }
};

Page random_page(std::mt19937_64& random) {
  Page page;
  for (auto& byte : page) byte = static_cast<uint8_t>(random());
  return page;
}
Page text_page(uint8_t seed) {
  Page page;
  for (size_t i = 0; i < kPage; ++i) page[i] = static_cast<uint8_t>(i / 16 % 7 + seed);
  return page;
}

PageEncoder::Options options(size_t cached_pages, uint64_t page_count = 64) {
  return {.features = spoken_features(), .cache_bytes = cached_pages * kPage, .page_count = page_count};
}

TEST(MigrateCodec, ThisBuildHasLz4) { EXPECT_TRUE(spoken_features() & kFeatureLz4); }

TEST(MigrateCodec, GivesBackWhateverGoesIn) {
  std::mt19937_64 random(1);
  std::vector<Page> source(64, Page{});
  Memory destination(64);
  PageEncoder encoder(options(40));
  for (uint32_t round = 1; round < 60; ++round) {
    encoder.begin_round(round);
    for (uint64_t page = 0; page < source.size(); ++page) {
      if (random() % 3) continue;
      Page& bytes = source[page];
      switch (random() % 6) {
        case 0:
          bytes = {};
          break;
        case 1:
          bytes = random_page(random);
          break;
        case 2:
          bytes = text_page(static_cast<uint8_t>(random()));
          break;
        case 3:  // the last byte, where an off-by-one would show
          bytes.back() ^= 1;
          break;
        case 4:
          for (int i = 0; i < 40; ++i) bytes[random() % kPage] = static_cast<uint8_t>(random());
          break;
        case 5:  // written, but unchanged
          break;
      }
      encoder.add(page, bytes);
    }
    destination.apply(encoder.payload());
    encoder.clear();
    ASSERT_EQ(destination.pages, source) << "round " << round;
  }
  const auto& counts = encoder.counts();
  EXPECT_GT(counts.zero, 0u);
  EXPECT_GT(counts.raw, 0u);
  EXPECT_GT(counts.compressed, 0u);
  EXPECT_GT(counts.delta, 0u);
  EXPECT_LE(encoder.cached(), 40u);
}

TEST(MigrateCodec, ChoosesTheSmallest) {
  std::mt19937_64 random(2);
  PageEncoder encoder(options(64));
  encoder.begin_round(1);
  const Page noise = random_page(random);
  Page other = noise;
  auto size_of = [&](uint64_t page, const Page& bytes) {
    encoder.clear();
    encoder.add(page, bytes);
    return encoder.payload().size();
  };
  EXPECT_GE(size_of(0, noise), kPage);        // raw
  EXPECT_LT(size_of(1, text_page(1)), 600u);  // LZ4
  other[100] ^= 1;
  EXPECT_LT(size_of(0, other), 24u);    // one word differs
  EXPECT_EQ(size_of(0, other), 0u);     // the other side has it
  EXPECT_LT(size_of(0, Page{}), 8u);    // zero
  EXPECT_GE(size_of(0, other), kPage);  // after a zero there is no base
  // Zeros in a row are one entry.
  encoder.clear();
  for (uint64_t page = 3; page < 50; ++page) encoder.add(page, Page{});
  EXPECT_LT(encoder.payload().size(), 8u);
}

TEST(MigrateCodec, StopsCompressingWhatDoesNotShrink) {
  std::mt19937_64 random(3);
  PageEncoder encoder(options(0, 1000));
  encoder.begin_round(1);
  for (uint64_t page = 0; page < 100; ++page) encoder.add(page, random_page(random));
  EXPECT_EQ(encoder.counts().raw, 100u);
  // And finds out again when it would.
  encoder.clear();
  for (uint64_t page = 100; page < 150; ++page) encoder.add(page, text_page(1));
  EXPECT_GT(encoder.counts().compressed, 30u);
}

TEST(MigrateCodec, ACycleLargerThanTheCacheStillFindsBases) {
  std::mt19937_64 random(4);
  std::vector<Page> pages(64);
  for (auto& page : pages) page = random_page(random);
  PageEncoder encoder(options(16));
  for (uint32_t round = 1; round <= 6; ++round) {
    encoder.begin_round(round);
    encoder.clear();
    for (uint64_t page = 0; page < pages.size(); ++page) {
      pages[page][8] = static_cast<uint8_t>(round);
      encoder.add(page, pages[page]);
    }
  }
  EXPECT_EQ(encoder.cached(), 16u);
  EXPECT_GE(encoder.counts().delta, 4 * 16u - 16u);
}

TEST(MigrateCodec, RefusesMalformedPages) {
  const uint32_t all = kFeatureLz4 | kFeatureDelta;
  auto refused = [&](std::vector<uint8_t> payload, uint32_t features = ~0u) {
    Memory memory(16);
    return code_of([&] { memory.apply(payload, features); });
  };
  auto with = [](std::vector<uint8_t> head, size_t more) {
    head.resize(head.size() + more);
    return head;
  };
  EXPECT_EQ(refused(with({1, 15}, kPage)), "none");
  EXPECT_EQ(refused(with({1, 16}, kPage)), "CORRUPT");                  // page out of range
  EXPECT_EQ(refused({0, 0, 17}), "CORRUPT");                            // a run beyond the end
  EXPECT_EQ(refused({0, 0, 0}), "CORRUPT");                             // an empty run
  EXPECT_EQ(refused({0, 0, 16, 0, 0, 1}), "CORRUPT");                   // more after the last page
  EXPECT_EQ(refused(with({1, 0}, kPage - 1)), "CORRUPT");               // a torn page
  EXPECT_EQ(refused({4, 0, 1}), "CORRUPT");                             // an unknown coding
  EXPECT_EQ(refused({2, 0, 3, 1, 2, 3}, all), "CORRUPT");               // not LZ4
  EXPECT_EQ(refused({2, 0, 0}, all), "CORRUPT");                        // empty
  EXPECT_EQ(refused({2, 0, 1, 0}, kFeatureDelta), "CORRUPT");           // not agreed on
  EXPECT_EQ(refused({3, 0, 2, 0, 1}, kFeatureLz4), "CORRUPT");          // not agreed on
  EXPECT_EQ(refused({3, 0, 2, 0, 1}, all), "CORRUPT");                  // words that are not there
  EXPECT_EQ(refused({3, 0, 2, 0, 0}, all), "CORRUPT");                  // no change
  EXPECT_EQ(refused(with({3, 0, 12, 0xff, 3, 2}, 9), all), "CORRUPT");  // words beyond the page
  EXPECT_EQ(refused({1}), "CORRUPT");
  EXPECT_EQ(refused({0, 0x80}), "CORRUPT");
}

TEST(MigrateCodec, ALz4PageOfAnotherLengthIsRefused) {
  std::vector<uint8_t> half(kPage / 2, 7), packed(kPage);
  packed.resize(compress(half, packed));
  ASSERT_GT(packed.size(), 0u);
  ByteWriter out;
  out.u8(2);
  out.varint(0);
  out.blob(packed);
  Memory memory(1);
  EXPECT_EQ(code_of([&] { memory.apply(out.data()); }), "CORRUPT");
}

TEST(MigrateCodec, RefusesMalformedBlocks) {
  const std::vector<uint64_t> sizes{kBlock + 512};
  auto read = [&](std::vector<uint8_t> payload) {
    return code_of([&] {
      BlockReader reader(payload, sizes, ~0u);
      Entry entry;
      while (reader.next(entry)) {
        std::vector<uint8_t> bytes(block_bytes(entry.first, sizes[reader.disk()]));
        decode(entry, bytes);
      }
    });
  };
  auto with = [](std::vector<uint8_t> head, size_t more) {
    head.resize(head.size() + more);
    return head;
  };
  EXPECT_EQ(read(with({0, 1, 1}, 512)), "none");  // the last block is short
  EXPECT_EQ(read(with({0, 1, 1}, 513)), "CORRUPT");
  EXPECT_EQ(read(with({0, 1, 2}, kBlock)), "CORRUPT");  // beyond the disk
  EXPECT_EQ(read(with({0, 1, 0}, 512)), "CORRUPT");
  EXPECT_EQ(read({1}), "CORRUPT");  // no such disk
  EXPECT_EQ(read({}), "CORRUPT");
  EXPECT_EQ(read({0, 0, 0, 3}), "CORRUPT");     // a run beyond the end
  EXPECT_EQ(read({0, 3, 0, 1, 1}), "CORRUPT");  // blocks have no differences
}

TEST(MigrateCodec, StatePartsEndOnce) {
  StateParts parts;
  EXPECT_FALSE(parts.add(std::vector<uint8_t>{0, 'a'}));
  EXPECT_TRUE(parts.add(std::vector<uint8_t>{1, 'b'}));
  EXPECT_EQ(as_text(parts.bytes()), "ab");
  EXPECT_EQ(code_of([&] { parts.add(std::vector<uint8_t>{1}); }), "CORRUPT");
  EXPECT_EQ(code_of([&] { StateParts().add({}); }), "CORRUPT");
  EXPECT_EQ(code_of([&] { StateParts().add(std::vector<uint8_t>{2}); }), "CORRUPT");
}

TEST(MigrateCodec, PayloadsGiveBackWhatGoesIn) {
  Hello hello;
  hello.purpose = Purpose::kProtect;
  hello.session = random_session();
  hello.disks = true;
  hello.features = 3;
  hello.config.memory_size = 8u << 20;
  hello.config.disks.push_back({.path = "/a/b.img", .size = 1 << 20});
  hello.config.nets.emplace_back();
  hello.config.dirty_ring = true;
  hello.host.cpu_vendor = "GenuineTest";
  auto bytes = encode_hello(hello);
  Hello back = decode_hello(bytes);
  EXPECT_EQ(back.purpose, hello.purpose);
  EXPECT_EQ(back.session, hello.session);
  EXPECT_EQ(back.config.disks.at(0).path, "/a/b.img");
  EXPECT_TRUE(back.config.dirty_ring);
  EXPECT_EQ(back.host, hello.host);
  // Cut anywhere, it is refused and nothing else.
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_EQ(code_of([&] { decode_hello(std::span(bytes).first(size)); }), "CORRUPT") << size;
  bytes[0] = 99;
  EXPECT_EQ(code_of([&] { decode_hello(bytes); }), "MIGRATION_MISMATCH");

  MovedState state;
  state.running = true;
  state.digest.boundary = 17;
  state.disks.push_back({1, 2});
  state.machine = {1, 2, 3};
  auto encoded = encode_state(state);
  MovedState again = decode_state(encoded);
  EXPECT_EQ(again.digest, state.digest);
  EXPECT_EQ(again.disks, state.disks);
  EXPECT_EQ(again.machine, state.machine);
  for (size_t size = 0; size < encoded.size(); ++size)
    EXPECT_EQ(code_of([&] { decode_state(std::span(encoded).first(size)); }), "CORRUPT") << size;
}

}  // namespace
}  // namespace hypertwin::migrate
