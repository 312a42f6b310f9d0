// MSI-X's table and pending bits (PCI 3.0, 6.8.2): who masks what, and what waits meanwhile.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace hypertwin::devices {

struct Message {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const Message&) const = default;
};

// Where messages go.
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  // From now on `vector` is this message; before the first signal() of it.
  virtual void set_message(unsigned vector, const Message& message) = 0;
  virtual void signal(unsigned vector) = 0;
  // An eventfd that does the same when it is written; -1 where there is none.
  virtual int event(unsigned /*vector*/) { return -1; }
};

class Msix {
 public:
  static constexpr uint32_t kEntrySize = 16;
  static constexpr uint8_t kCapability = 0x11;
  // Of the capability's control word.
  static constexpr uint16_t kEnable = 1 << 15, kMaskAll = 1 << 14;

  Msix(unsigned vectors, MessageSink& sink) : sink_(sink), entries_(vectors) {}

  unsigned vectors() const { return static_cast<unsigned>(entries_.size()); }
  bool enabled() const { return control_ & kEnable; }
  void set_control(uint16_t value);
  // The table; size is 1, 2 or 4.
  uint32_t read(uint32_t offset, unsigned size) const;
  void write(uint32_t offset, unsigned size, uint32_t value);
  uint32_t read_pending(uint32_t offset, unsigned size) const;
  // Sent, or pending until it is unmasked. Nothing while MSI-X is off.
  void raise(unsigned vector);
  void clear_pending();
  // An eventfd that does what raise() does, until the table or the control word is written; -1 where none
  // does.
  int event(unsigned vector) const;

  void save(ByteWriter& out) const;
  void load(ByteReader& in);

 private:
  struct Entry {
    uint8_t bytes[kEntrySize] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};  // masked
    bool pending = false;
    std::optional<Message> known;  // to the sink
  };
  bool masked(const Entry& entry) const { return control_ & kMaskAll || entry.bytes[12] & 1; }
  void refresh(unsigned vector);

  MessageSink& sink_;
  std::vector<Entry> entries_;
  uint16_t control_ = 0;
};

}  // namespace hypertwin::devices
