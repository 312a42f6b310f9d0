// For tests and fuzzers of virtio devices without a transport: the driver's side straight at the device,
// rings that break the rules, and states that are none.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "devices_board.h"

namespace hypertwin::devices {

struct FakeTransport : VirtioTransport {
  int queue_interrupts = 0;
  int config_interrupts = 0;
  int again = 0;
  void queue_interrupt(unsigned /*queue*/) override { ++queue_interrupts; }
  void config_interrupt() override { ++config_interrupts; }
  void queue_again(unsigned /*queue*/) override { ++again; }
};

// The driver of one device, whose rings lie at 0x10000, 0x14000, ... of the board's memory.
class BareDriver {
 public:
  BareDriver(TestBoard& board, VirtioDevice& device) : board_(board), device_(device) {
    device_.attach(&transport);
  }
  ~BareDriver() { device_.attach(nullptr); }
  BareDriver(const BareDriver&) = delete;
  BareDriver& operator=(const BareDriver&) = delete;

  // False when the device refused the features. Queues whose bit is set in `without` stay as they are.
  bool start(uint64_t features = 0, uint16_t entries = 16, unsigned without = 0) {
    device_.reset();
    device_.set_status(VirtioDevice::kAcknowledge | VirtioDevice::kDriver);
    device_.set_driver_features(kVirtioVersion1 | features);
    device_.set_status(11);
    if (!(device_.status() & VirtioDevice::kFeaturesOk)) return false;
    rings.clear();
    for (unsigned i = 0; i < device_.queues().size(); ++i) {
      const Ring& ring = rings.emplace_back(board_, 0x10000 + 0x4000 * i, entries);
      if (without & 1u << i) continue;
      VirtQueue& queue = device_.queues()[i];
      queue.size = entries;
      queue.descriptors = ring.descriptors();
      queue.driver = ring.driver();
      queue.device = ring.device();
      device_.enable_queue(i);
    }
    device_.set_status(15);
    return true;
  }
  // A buffer, and the notification of it.
  void give(unsigned queue, uint16_t first, std::vector<Driver::Piece> pieces) {
    rings[queue].offer(first, std::move(pieces));
    device_.notify(queue);
  }
  uint64_t config(uint32_t offset, unsigned size) {
    uint64_t value = 0;
    auto bytes = device_.config();
    for (unsigned i = 0; i < size && offset + i < bytes.size(); ++i)
      value |= uint64_t{bytes[offset + i]} << (8 * i);
    return value;
  }
  bool broken() const { return device_.status() & VirtioDevice::kNeedsReset; }

  FakeTransport transport;
  std::vector<Ring> rings;

 private:
  TestBoard& board_;
  VirtioDevice& device_;
};

// Each breaks the rules of a ring in its own way; where a buffer is needed, `address` has 64 bytes.
struct BadRing {
  const char* name;
  std::function<void(TestBoard&, Ring&, uint64_t address, bool writable)> write;
};

inline const std::vector<BadRing>& bad_rings() {
  static const std::vector<BadRing> all = {
      {"loop",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         uint16_t flags = static_cast<uint16_t>(writable ? 3 : 1);
         ring.descriptor(0, address, 64, flags, 1);
         ring.descriptor(1, address, 64, flags, 0);
         ring.offer(0);
       }},
      {"head outside", [](TestBoard&, Ring& ring, uint64_t, bool) { ring.offer(ring.size); }},
      {"next outside",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         ring.descriptor(0, address, 64, static_cast<uint16_t>(writable ? 3 : 1), ring.size);
         ring.offer(0);
       }},
      {"address outside",
       [](TestBoard&, Ring& ring, uint64_t, bool writable) {
         ring.offer(0, {{TestBoard::kRam - 32, 64, writable}});
       }},
      {"address wraps",
       [](TestBoard&, Ring& ring, uint64_t, bool writable) {
         ring.offer(0, {{UINT64_MAX - 10, 64, writable}});
       }},
      {"huge length",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         ring.offer(0, {{address, 0xffffffff, writable}});
       }},
      {"empty piece",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         ring.offer(0, {{address, 0, writable}});
       }},
      {"readable after writable",
       [](TestBoard&, Ring& ring, uint64_t address, bool) {
         ring.offer(0, {{address, 32, true}, {address, 32}});
       }},
      {"index jumps",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         ring.available = ring.size;
         ring.offer(0, {{address, 64, writable}});
       }},
      {"indirect loop",
       [](TestBoard&, Ring& ring, uint64_t address, bool writable) {
         ring.write_descriptor(address, address, 16, static_cast<uint16_t>(writable ? 3 : 1), 0);
         ring.descriptor(0, address, 16, 4);
         ring.offer(0);
       }},
      {"indirect outside",
       [](TestBoard&, Ring& ring, uint64_t, bool) {
         ring.descriptor(0, TestBoard::kRam - 16, 32, 4);
         ring.offer(0);
       }},
  };
  return all;
}

inline std::vector<uint8_t> state_of(const VirtioDevice& device) {
  ByteWriter out;
  device.save(out);
  return out.take();
}

inline void load_state_of(VirtioDevice& device, std::span<const uint8_t> state) {
  ByteReader in(state, "state");
  device.load(in);
  in.expect_done();
}

// Every shortened state is refused, and of every changed one the device is usable or refuses it. `make` gives
// a fresh device on memory that the state may refer to, and `use` does with it what a guest may. Returns how
// many changed states were refused, or -1 when one that should be was not.
inline int try_bad_states(std::span<const uint8_t> good,
                          const std::function<std::unique_ptr<VirtioDevice>()>& make,
                          const std::function<void(VirtioDevice&)>& use) {
  auto refused = [&](std::span<const uint8_t> state) {
    auto device = make();
    try {
      load_state_of(*device, state);
    } catch (const Error& error) {
      if (error.code() != "CORRUPT") throw;
      return true;
    }
    use(*device);
    (void)state_of(*device);
    return false;
  };
  for (size_t size = 0; size < good.size(); ++size)
    if (!refused(good.first(size))) return -1;
  int count = 0;
  std::mt19937 random(1);
  std::vector<uint8_t> bad(good.begin(), good.end());
  for (size_t at = 0; at < good.size(); ++at)
    for (uint32_t value : {0u, 0xffu, static_cast<uint32_t>(random() & 0xff)}) {
      bad[at] = static_cast<uint8_t>(value);
      count += refused(bad);
      bad[at] = good[at];
    }
  return count;
}

}  // namespace hypertwin::devices
