// Fuzzes the record decoder and the header blob: what decodes must encode to the same bytes again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "log/format.h"
#include "log/record.h"

using namespace hypertwin;
using namespace hypertwin::log;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const uint8_t> bytes(data, size);
  try {
    ByteReader in(bytes);
    Cursor cursor;
    std::vector<uint16_t> scratch;
    while (!in.done()) {
      const Cursor before = cursor;
      const size_t at = in.offset();
      Record record;
      decode_record(in, &cursor, &scratch, &record);
      std::vector<uint8_t> again(encoded_bound(record.body));
      Cursor other = before;
      uint8_t* end = encode_record(again.data(), record.boundary, record.body, &other);
      again.resize(static_cast<size_t>(end - again.data()));
      if (!std::ranges::equal(again, bytes.subspan(at, in.offset() - at))) std::abort();
      if (other.boundary != cursor.boundary || other.time_ns != cursor.time_ns) std::abort();
    }
  } catch (const Error&) {
  }
  try {
    LogHeader header = decode_header(bytes);
    if (!(decode_header(encode_header(header)) == header)) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
