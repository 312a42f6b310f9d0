// Fuzzes the event log's reader: the input is one or more segments. The writer's checksums are put right in
// half of the runs (first byte), so that the parts behind them are reached.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "log/reader.h"

namespace {

using namespace hypertwin;
using namespace hypertwin::log;

constexpr LogId kId = {1, 2, 3};

// Takes the bytes as the blocks of one log: payloads up to a length byte pair, wrapped in right headers.
std::vector<uint8_t> well_formed(std::span<const uint8_t> data) {
  SegmentHeader segment;
  segment.number = 1;
  segment.log_id = kId;
  segment.chain = first_chain(kId);
  LogHeader header;
  header.log_id = kId;
  segment.blob = encode_header(header);
  auto out = encode_segment_header(segment);
  const uint64_t seed = block_seed(kId);
  BlockHeader block;
  block.chain = segment.chain;
  while (data.size() > 8) {
    const size_t size = std::min<size_t>(data[0] | data[1] << 8, data.size() - 8);
    auto payload = data.subspan(8, size);
    block.payload_bytes = static_cast<uint32_t>(size);
    block.records = 1 + data[2] % 16;
    block.first_record += data[3] % 32;
    block.first_boundary += data[4];
    block.last_boundary = block.first_boundary + data[5];
    block.base_time_ns = data[6];
    if (data[7] != 0) block.payload_digest = digest128(payload, seed);
    std::array<uint8_t, kBlockHeaderBytes> head;
    encode_block_header(block, seed, head);
    out.insert(out.end(), head.begin(), head.end());
    out.insert(out.end(), payload.begin(), payload.end());
    block.chain = next_chain(head);
    block.first_record += block.records;
    data = data.subspan(8 + size);
  }
  return out;
}

uint64_t read(const std::map<uint32_t, std::vector<uint8_t>>& segments, bool stop_at_gap) {
  ReaderOptions options;
  options.stop_at_gap = stop_at_gap;
  options.extensions = true;
  uint64_t sum = 0;
  try {
    Reader reader(memory_source(segments), options);
    uint64_t boundary = 0;
    while (auto record = reader.next()) {
      // Touch every byte of every view.
      std::vector<uint8_t> again(encoded_bound(record->body));
      Cursor cursor{record->boundary, 0};
      encode_record(again.data(), record->boundary, record->body, &cursor);
      sum += checksum64(again);
      if (!record->after_gap && record->boundary < boundary) std::abort();
      boundary = record->boundary;
    }
    for (const auto& damage : reader.damages()) sum += damage.text().size();
    reader.index();
    reader.seek(boundary);
    reader.next();
  } catch (const Error&) {
  }
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::map<uint32_t, std::vector<uint8_t>> segments;
  auto rest = std::span(data + 1, size - 1);
  if (data[0] & 1) {
    segments[1] = well_formed(rest);
  } else {
    segments[1].assign(rest.begin(), rest.end());
  }
  if (data[0] & 2) segments[2].assign(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(rest.size() / 2));
  read(segments, true);
  read(segments, false);
  try {
    verify(memory_source(segments));
  } catch (const Error&) {
  }
  return 0;
}
