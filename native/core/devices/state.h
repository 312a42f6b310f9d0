// Small things that the devices' sources share: checks while loading a state, and byte-wise port access.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace hypertwin::devices {

inline void load_version(ByteReader& in, uint8_t version) {
  if (in.u8() != version) in.corrupt("unknown version of a device's state");
}

inline bool load_flag(ByteReader& in) {
  uint8_t value = in.u8();
  if (value > 1) in.corrupt("a flag is neither 0 nor 1");
  return value != 0;
}

// For devices of byte-wide registers: a wider access is one of each byte, upwards.
template <class Read>
uint32_t read_bytes(uint16_t port, unsigned size, Read&& read) {
  uint32_t value = 0;
  for (unsigned i = 0; i < size && i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<uint8_t>(read(static_cast<uint16_t>(port + i)))) << (8 * i);
  return value;
}

template <class Write>
void write_bytes(uint16_t port, unsigned size, uint32_t value, Write&& write) {
  for (unsigned i = 0; i < size && i < 4; ++i)
    write(static_cast<uint16_t>(port + i), static_cast<uint8_t>(value >> (8 * i)));
}

// value * numerator / denominator without overflow in between; clamped to 64 bits.
inline uint64_t scale(uint64_t value, uint64_t numerator, uint64_t denominator, bool round_up = false) {
  __extension__ using Wide = unsigned __int128;
  Wide wide = static_cast<Wide>(value) * numerator;
  if (round_up) wide += denominator - 1;
  wide /= denominator;
  return wide > UINT64_MAX ? UINT64_MAX : static_cast<uint64_t>(wide);
}

}  // namespace hypertwin::devices
