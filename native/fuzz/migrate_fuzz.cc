// Any bytes as the payloads that a migration's two sides read: Error or checked content, nothing else.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "migrate/codec.h"
#include "migrate/payloads.h"

namespace {

template <class F>
void tolerate(F parse) {
  try {
    parse();
  } catch (const hypertwin::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hypertwin;
  using namespace hypertwin::migrate;
  if (size == 0) return 0;
  std::span<const uint8_t> bytes(data + 1, size - 1);
  switch (data[0] % 8) {
    case 0:
      tolerate([&] {
        constexpr uint64_t kPages = 64;
        std::vector<uint8_t> memory(kPages * kPage, 0x5a);
        PageReader reader(bytes, kPages, ~0u);
        Entry entry;
        while (reader.next(entry))
          for (uint64_t i = 0; i < entry.count; ++i)
            decode(entry, std::span(memory).subspan((entry.first + i) * kPage, kPage));
      });
      break;
    case 1:
      tolerate([&] {
        const std::vector<uint64_t> sizes{5 * kBlock + 512, 512};
        std::vector<uint8_t> block(kBlock);
        BlockReader reader(bytes, sizes, ~0u);
        Entry entry;
        while (reader.next(entry))
          for (uint64_t i = 0; i < entry.count; ++i)
            decode(entry, std::span(block).first(block_bytes(entry.first + i, sizes.at(reader.disk()))));
      });
      break;
    case 2:
      tolerate([&] { encode_hello(decode_hello(bytes)); });
      break;
    case 3:
      tolerate([&] { decode_accept(bytes); });
      break;
    case 4:
      tolerate([&] { decode_refusal(bytes); });
      break;
    case 5:
      tolerate([&] { decode_round_end(bytes); });
      break;
    case 6:
      tolerate([&] { decode_state(bytes); });
      break;
    case 7: {
      // What the encoder makes of any memory, a reader gives back.
      static std::vector<uint8_t> source(16 * kPage), copy(16 * kPage);
      std::fill(source.begin(), source.end(), 0);
      std::fill(copy.begin(), copy.end(), 0);
      PageEncoder encoder({.features = spoken_features(), .cache_bytes = 4 * kPage, .page_count = 16});
      for (uint32_t round = 1; !bytes.empty() && round < 64; ++round) {
        encoder.begin_round(round);
        const size_t take = std::min<size_t>(bytes.size(), 1 + bytes[0] % 61);
        for (size_t i = 0; i < take; ++i)
          source[(i * 8191 + bytes[i] * 67u + round) % source.size()] ^= bytes[i];
        for (size_t page = 0; page < 16; ++page)
          encoder.add(page, std::span<const uint8_t, kPage>(source.data() + page * kPage, kPage));
        PageReader reader(encoder.payload(), 16, spoken_features());
        Entry entry;
        while (reader.next(entry))
          for (uint64_t i = 0; i < entry.count; ++i)
            decode(entry, std::span(copy).subspan((entry.first + i) * kPage, kPage));
        encoder.clear();
        if (source != copy) __builtin_trap();
        bytes = bytes.subspan(take);
      }
      break;
    }
  }
  return 0;
}
