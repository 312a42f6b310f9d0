#include "devices/msix.h"

#include <cstring>
#include <utility>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {

// What an entry keeps of what is written to its byte `at`.
uint8_t writable(uint32_t at, uint8_t byte) {
  if (at == 0) return byte & 0xfc;
  if (at == 12) return byte & 1;
  return at > 12 ? 0 : byte;
}

}  // namespace

void Msix::set_control(uint16_t value) {
  control_ = value & (kEnable | kMaskAll);
  for (unsigned i = 0; i < vectors(); ++i) refresh(i);
}

uint32_t Msix::read(uint32_t offset, unsigned size) const {
  uint32_t value = 0;
  for (unsigned i = 0; i < size; ++i) {
    const uint32_t at = offset + i;
    if (at / kEntrySize < entries_.size())
      value |= uint32_t{entries_[at / kEntrySize].bytes[at % kEntrySize]} << (8 * i);
  }
  return value;
}

void Msix::write(uint32_t offset, unsigned size, uint32_t value) {
  const uint32_t vector = offset / kEntrySize;
  if (vector >= entries_.size()) return;
  for (unsigned i = 0; i < size && offset % kEntrySize + i < kEntrySize; ++i) {
    const uint32_t at = offset % kEntrySize + i;
    entries_[vector].bytes[at] = writable(at, static_cast<uint8_t>(value >> (8 * i)));
  }
  refresh(vector);
}

uint32_t Msix::read_pending(uint32_t offset, unsigned size) const {
  uint32_t value = 0;
  for (unsigned bit = 0; bit < 8 * size; ++bit) {
    const uint32_t vector = 8 * offset + bit;
    if (vector < entries_.size() && entries_[vector].pending) value |= uint32_t{1} << bit;
  }
  return value;
}

// What can go out goes out.
void Msix::refresh(unsigned vector) {
  Entry& entry = entries_[vector];
  if (!enabled() || masked(entry)) return;
  Message message;
  std::memcpy(&message.address, entry.bytes, sizeof(message.address));
  std::memcpy(&message.data, entry.bytes + 8, sizeof(message.data));
  if (entry.known != message) {
    sink_.set_message(vector, message);
    entry.known = message;
  }
  if (std::exchange(entry.pending, false)) sink_.signal(vector);
}

void Msix::raise(unsigned vector) {
  if (!enabled() || vector >= entries_.size()) return;
  Entry& entry = entries_[vector];
  if (masked(entry))
    entry.pending = true;
  else
    sink_.signal(vector);
}

int Msix::event(unsigned vector) const {
  return enabled() && vector < entries_.size() && !masked(entries_[vector]) ? sink_.event(vector) : -1;
}

void Msix::clear_pending() {
  for (auto& entry : entries_) entry.pending = false;
}

void Msix::save(ByteWriter& out) const {
  out.u16(control_);
  for (const auto& entry : entries_) {
    out.raw(entry.bytes);
    out.u8(entry.pending);
  }
}

void Msix::load(ByteReader& in) {
  const uint16_t control = in.u16();
  for (auto& entry : entries_) {
    const auto bytes = in.raw(kEntrySize);
    for (uint32_t at = 0; at < kEntrySize; ++at) entry.bytes[at] = writable(at, bytes[at]);
    entry.pending = load_flag(in);
    entry.known.reset();
  }
  set_control(control);
}

}  // namespace hypertwin::devices
