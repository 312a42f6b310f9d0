// Bytes in and out: little-endian fixed integers, LEB128 varints, length-prefixed bytes.
// The reader trusts nothing: every length is checked before use. It knows no format.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace hypertwin {

inline constexpr size_t kMaxVarintBytes = 10;

// Writes `value` at `out` and returns the end. The caller has room for sizeof(T).
template <class T>
inline uint8_t* put_le(uint8_t* out, T value) {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(out, &value, sizeof(T));
  } else {
    for (size_t i = 0; i < sizeof(T); i++) out[i] = static_cast<uint8_t>(value >> (8 * i));
  }
  return out + sizeof(T);
}

// Reads a T at `in`. The caller has checked that sizeof(T) bytes are there.
template <class T>
inline T get_le(const uint8_t* in) {
  T value = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&value, in, sizeof(T));
  } else {
    for (size_t i = 0; i < sizeof(T); i++) value |= static_cast<T>(static_cast<T>(in[i]) << (8 * i));
  }
  return value;
}

// The caller has room for kMaxVarintBytes.
inline uint8_t* put_varint(uint8_t* out, uint64_t value) {
  while (value >= 0x80) {
    *out++ = static_cast<uint8_t>(value | 0x80);
    value >>= 7;
  }
  *out++ = static_cast<uint8_t>(value);
  return out;
}

class ByteWriter {
 public:
  void u8(uint8_t value) { data_.push_back(value); }
  void u16(uint16_t value) { fixed(value); }
  void u32(uint32_t value) { fixed(value); }
  void u64(uint64_t value) { fixed(value); }
  void varint(uint64_t value);
  // As they are, without a length.
  void raw(std::span<const uint8_t> bytes) { data_.insert(data_.end(), bytes.begin(), bytes.end()); }
  // The bytes of a trivially copyable object, as this machine has them.
  template <class T>
  void object(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    raw({reinterpret_cast<const uint8_t*>(&value), sizeof(T)});
  }
  // A varint length, then the bytes.
  void blob(std::span<const uint8_t> bytes);
  void text(std::string_view text);

  size_t size() const { return data_.size(); }
  std::span<const uint8_t> data() const { return data_; }
  std::vector<uint8_t> take() { return std::move(data_); }

 private:
  template <class T>
  void fixed(T value) {
    uint8_t bytes[sizeof(T)];
    put_le(bytes, value);
    data_.insert(data_.end(), bytes, bytes + sizeof(T));
  }
  std::vector<uint8_t> data_;
};

// Reads from bytes that it does not own; blobs are views into them. Every method throws
// Error("CORRUPT") that names `what` and the offset when the bytes are not there or malformed.
class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> data, std::string_view what = "data")
      : data_(data), what_(what) {}

  uint8_t u8() { return *need(1); }
  uint16_t u16() { return get_le<uint16_t>(need(2)); }
  uint32_t u32() { return get_le<uint32_t>(need(4)); }
  uint64_t u64() { return get_le<uint64_t>(need(8)); }
  // The shortest encoding only, as the writers make it.
  uint64_t varint() {
    if (at_ < data_.size() && data_[at_] < 0x80) return data_[at_++];
    return long_varint();
  }
  std::span<const uint8_t> raw(uint64_t size) { return {need(size), static_cast<size_t>(size)}; }
  template <class T>
  T object() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, need(sizeof(T)), sizeof(T));
    return value;
  }
  // At most `max` bytes, else CORRUPT.
  std::span<const uint8_t> blob(uint64_t max = UINT64_MAX);
  std::string_view text(uint64_t max = UINT64_MAX);

  size_t offset() const { return at_; }
  size_t remaining() const { return data_.size() - at_; }
  bool done() const { return at_ == data_.size(); }
  // CORRUPT unless everything was read.
  void expect_done() const;
  [[noreturn]] void corrupt(std::string_view problem) const;

 private:
  const uint8_t* need(uint64_t size) {
    if (size > remaining()) too_short(size);
    const uint8_t* p = data_.data() + at_;
    at_ += static_cast<size_t>(size);
    return p;
  }
  uint64_t long_varint();
  [[noreturn]] void too_short(uint64_t size) const;

  std::span<const uint8_t> data_;
  size_t at_ = 0;
  std::string_view what_;
};

inline std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

inline std::string_view as_text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace hypertwin
