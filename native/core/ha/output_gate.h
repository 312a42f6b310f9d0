// Holds back what leaves a machine until the log up to it is acknowledged. Knows no log, only its indexes,
// and no connection.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "ha/histogram.h"
#include "machine/machine.h"

namespace hypertwin::ha {

// Order is kept: nothing overtakes what is held.
class OutputGate final : public machine::Outputs {
 public:
  struct Emit {
    std::function<void(uint32_t device, std::span<const uint8_t>)> packet, console;
  };
  // Writes down that something leaves at a boundary; the index of what must be acknowledged for it to go.
  using Mark = std::function<uint64_t(uint64_t ordinal)>;

  OutputGate(Emit emit, Mark mark, size_t limit)
      : emit_(std::move(emit)), mark_(std::move(mark)), limit_(limit) {}

  // ---- The vCPU's thread
  void packet(uint64_t ordinal, uint32_t device, std::span<const uint8_t> packet) override;
  void console(uint64_t ordinal, uint32_t device, std::span<const uint8_t> bytes) override;
  // Whether something came since the last call.
  bool take_marked() { return std::exchange(marked_, false); }

  // ---- Any one thread at a time
  // Open at first: everything passes at once, marked all the same.
  void hold();
  // Lets out what was marked before `end_index`, as long as `may()` says so, asked before each. False when
  // it said no.
  bool release(uint64_t end_index, const std::function<bool()>& may);
  // Lets everything out, and what comes from now on too. On the vCPU's thread, or with the machine standing.
  size_t open();
  // What is held, and what comes, is lost.
  size_t drop();

  // ---- Any thread
  bool full() const { return held_bytes() > limit_; }
  bool empty() const { return held_count_.load(std::memory_order_acquire) == 0; }
  size_t held() const { return held_count_.load(std::memory_order_relaxed); }
  size_t held_bytes() const { return held_bytes_.load(std::memory_order_relaxed); }
  uint64_t released() const { return released_.load(std::memory_order_relaxed); }
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }
  const Histogram& holds() const { return holds_; }

 private:
  enum class Mode : uint8_t { kOpen, kHold, kDrop };
  struct Held {
    uint64_t index = 0;
    uint64_t made_ns = 0;
    uint32_t device = 0;
    bool packet = false;
    std::vector<uint8_t> bytes;
  };
  void take(uint64_t ordinal, bool packet, uint32_t device, std::span<const uint8_t> bytes);
  void emit(bool packet, uint32_t device, std::span<const uint8_t> bytes);
  // The mutex is held.
  Held pop();

  const Emit emit_;
  const Mark mark_;
  const size_t limit_;
  bool marked_ = false;  // vCPU's thread
  std::mutex mutex_;     // guards mode_ and held_
  Mode mode_ = Mode::kOpen;
  std::deque<Held> held_;
  std::atomic<size_t> held_count_{0}, held_bytes_{0};
  std::atomic<uint64_t> released_{0}, dropped_{0};
  Histogram holds_;
};

}  // namespace hypertwin::ha
