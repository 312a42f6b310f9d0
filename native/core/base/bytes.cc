// Bytes in and out: the parts that are not worth inlining.
#include "base/bytes.h"

#include "base/error.h"

namespace hypertwin {

void ByteWriter::varint(uint64_t value) {
  uint8_t bytes[kMaxVarintBytes];
  data_.insert(data_.end(), bytes, put_varint(bytes, value));
}

void ByteWriter::blob(std::span<const uint8_t> bytes) {
  varint(bytes.size());
  raw(bytes);
}

void ByteWriter::text(std::string_view text) { blob(as_bytes(text)); }

std::span<const uint8_t> ByteReader::blob(uint64_t max) {
  uint64_t size = varint();
  if (size > max) corrupt("a length of " + std::to_string(size) + " is over " + std::to_string(max));
  return raw(size);
}

std::string_view ByteReader::text(uint64_t max) { return as_text(blob(max)); }

void ByteReader::expect_done() const {
  if (!done()) corrupt(std::to_string(remaining()) + " bytes left over");
}

uint64_t ByteReader::long_varint() {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    uint8_t byte = u8();
    if (shift == 63 && byte > 1) corrupt("a varint over 64 bits");
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) {
      if (byte == 0 && shift != 0) corrupt("a varint that is longer than needed");
      return value;
    }
  }
}

void ByteReader::too_short(uint64_t size) const {
  corrupt(std::to_string(size) + " bytes are needed, " + std::to_string(remaining()) + " are there");
}

void ByteReader::corrupt(std::string_view problem) const {
  throw Error("CORRUPT",
              std::string(what_) + " at offset " + std::to_string(at_) + ": " + std::string(problem));
}

}  // namespace hypertwin
