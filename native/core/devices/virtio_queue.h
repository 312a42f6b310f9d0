// One split virtqueue of virtio 1.2 (section 2.7), the device's side. Everything the guest wrote is read once
// and checked; what breaks the rules makes the queue broken, never the host.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "devices/guest_ram.h"

namespace hypertwin {
class ByteReader;
class ByteWriter;
}  // namespace hypertwin

namespace hypertwin::devices {

inline constexpr uint64_t kVirtioIndirect = uint64_t{1} << 28;
inline constexpr uint64_t kVirtioEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kVirtioVersion1 = uint64_t{1} << 32;

// A piece of guest RAM, already found to be RAM.
struct Segment {
  uint64_t address = 0;
  uint32_t size = 0;
};

// A buffer of the guest: first what the device may read, then what it may write.
struct Chain {
  uint16_t head = 0;
  std::vector<Segment> readable;
  std::vector<Segment> writable;
  uint64_t readable_bytes = 0;
  uint64_t writable_bytes = 0;
};

// Copies from or to a list of segments, beginning `offset` bytes in; returns how many bytes were copied.
size_t copy_from(const GuestRam& ram, std::span<const Segment> from, uint64_t offset,
                 std::span<uint8_t> into);
size_t copy_to(GuestRam& ram, std::span<const Segment> to, uint64_t offset, std::span<const uint8_t> from);
// Where segments lie in this process, beginning `offset` bytes in, behind what `parts` holds. False when a
// piece does not lie in one place. The guest may change what is there; a writer marks it as written.
bool host_parts(const GuestRam& ram, std::span<const Segment> segments, uint64_t offset,
                std::vector<iovec>& parts);
// Segments within a device's state. What is loaded is RAM again; returns its bytes.
void save_segments(ByteWriter& out, std::span<const Segment> segments);
uint64_t load_segments(ByteReader& in, const GuestRam& ram, std::vector<Segment>& segments);

class VirtQueue {
 public:
  static constexpr uint16_t kMaxSize = 256;
  static constexpr unsigned kMaxSegments = 1024;  // of one chain, indirect ones included

  enum class Pop : uint8_t { kChain, kEmpty, kBroken };

  // The guest's settings; meaningful while not enabled.
  uint16_t size = kMaxSize;
  uint64_t descriptors = 0;
  uint64_t driver = 0;  // available ring
  uint64_t device = 0;  // used ring

  bool enabled() const { return enabled_; }
  bool broken() const { return broken_; }
  // False (and broken) when the settings are not a queue in RAM.
  bool enable(const GuestRam& ram);
  // What pop() takes next.
  uint16_t next_available() const { return next_available_; }
  // Somebody else has served it, and left it so: all that is before `next_available` is used. The guest may
  // have been told not to notify, which is undone, and not yet that buffers are used: interrupt it.
  void go_on(GuestRam& ram, uint16_t next_available);
  // Which optional formats were negotiated.
  void use(uint64_t features) { features_ = features; }
  void reset();

  // The next buffer, into `chain` (its vectors are reused). Also asks the guest for a notification of the
  // next one when there is none.
  Pop pop(GuestRam& ram, Chain& chain);
  // Takes back the last `n` pops that were not pushed.
  void unpop(uint16_t n) {
    next_available_ = static_cast<uint16_t>(next_available_ - n);
    taken_ -= std::min<uint32_t>(taken_, n);
  }
  // In a turn a queue gives no more than it can hold, so that it ends though the guest adds all the while.
  // True when the last turn ended so: there may be more.
  bool begin_turn() {
    taken_ = 0;
    return std::exchange(more_, false);
  }
  // Puts a buffer in the used ring; the guest sees it after publish().
  void push(GuestRam& ram, uint16_t head, uint32_t written);
  // Shows the guest what was pushed; true when it wants an interrupt for it.
  bool publish(GuestRam& ram);

  void save(ByteWriter& out) const;
  void load(ByteReader& in, const GuestRam& ram);

 private:
  bool add(const GuestRam& ram, Chain& chain, uint64_t address, uint32_t length, bool writable);
  Pop fail() {
    broken_ = true;
    return Pop::kBroken;
  }

  uint64_t features_ = 0;
  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;       // pushed
  uint16_t published_used_ = 0;  // shown to the guest
  uint32_t taken_ = 0;           // popped in this turn
  bool more_ = false;
  bool enabled_ = false;
  bool broken_ = false;
};

}  // namespace hypertwin::devices
