// What reaches a machine from outside, and where it comes from: the world (LiveInputs), the world with
// everything written down (replay::Recorder), or a log alone (replay::Replayer).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "base/digest.h"
#include "devices/device.h"

namespace hypertwin::machine {

enum class InputKind : uint8_t { kTime, kPacket, kConsole, kBlockCompletion, kPower };

struct Input {
  InputKind kind = InputKind::kTime;
  uint32_t device = 0;
  uint64_t time = 0;     // kTime: virtual nanoseconds
  uint64_t request = 0;  // kBlockCompletion: the request's ordinal
  uint8_t status = 0;    // kBlockCompletion: devices::BlockStatus; kPower: devices::PowerEvent
  std::vector<uint8_t> bytes;
};

enum class Wait {
  kInput,    // something may be there now
  kControl,  // a task wants the vCPU's thread
  kEnd,      // nothing will ever come (a log's end, a divergence): see InputSource::end()
};

// Why a source has no more to give. kStay: nothing ended, but the guest must not run on yet; having waited a
// little the source is asked again.
enum class SourceEnd { kNone, kLogEnd, kDiverged, kCaptureFailed, kStay };

// All calls come on the vCPU's thread, in this order at each boundary: boundary(), clock() as often as the
// exit's devices ask, next() until it gives nothing, end(), inject(), then injected() or, when the guest
// halts, wait().
class InputSource {
 public:
  virtual ~InputSource() = default;
  // The guest reached boundary `ordinal`; `digest` covers it.
  virtual void boundary(uint64_t ordinal, const RollingDigest& digest) = 0;
  virtual uint64_t clock(uint64_t ordinal) = 0;
  // The next input to apply at this boundary. `deadline`: when the first timer is due, in virtual time.
  virtual bool next(uint64_t ordinal, std::optional<uint64_t> deadline, Input& input) = 0;
  // Whether to interrupt the guest here; `possible` when an interrupt is pending and the CPU takes one.
  virtual bool inject(uint64_t ordinal, bool possible) = 0;
  virtual void injected(uint64_t ordinal, uint8_t vector) = 0;
  virtual Wait wait(uint64_t ordinal, std::optional<uint64_t> deadline) = 0;
  // Asked before the guest runs on; anything but kNone and kStay pauses the machine at this boundary.
  virtual SourceEnd end(uint64_t ordinal) = 0;
  // The guest runs on: nothing more belongs to this boundary.
  virtual void left(uint64_t /*ordinal*/) {}
  // False while replaying: what leaves the machine then goes nowhere.
  virtual bool live() const = 0;
};

// The world: a bounded mailbox for inputs from other threads, and the host's clock. Also carries the tasks
// for the vCPU's thread, so that one wait serves both.
class LiveInputs final : public InputSource {
 public:
  struct Limits {
    size_t packets = 4096;
    size_t bytes = 16u << 20;
  };
  explicit LiveInputs(Limits limits) : limits_(limits) {}

  // Any thread. False when the mailbox is full (never for block completions): try again later.
  bool push(Input input);
  // Any thread: wakes wait(). The tasks themselves are the machine's.
  void wake_for_control();
  void control_taken();

  // Virtual time runs while the machine does. From the vCPU's thread. It goes on from where it stopped, but
  // not before `at_least`.
  void start_clock(uint64_t at_least);
  void stop_clock();
  // It goes on from there: a log says what time it is.
  void set_clock(uint64_t virtual_ns);
  // When that was last, or the clock started (now_ns()).
  uint64_t clock_set_ns() const { return base_host_; }

  void boundary(uint64_t, const RollingDigest&) override {}
  uint64_t clock(uint64_t ordinal) override;
  bool next(uint64_t ordinal, std::optional<uint64_t> deadline, Input& input) override;
  bool inject(uint64_t, bool possible) override { return possible; }
  void injected(uint64_t, uint8_t) override {}
  Wait wait(uint64_t ordinal, std::optional<uint64_t> deadline) override;
  SourceEnd end(uint64_t) override { return SourceEnd::kNone; }
  bool live() const override { return true; }

 private:
  uint64_t virtual_now() const;

  const Limits limits_;
  std::mutex mutex_;  // guards inputs_, packets_, bytes_
  std::condition_variable wake_;
  std::deque<Input> inputs_;
  size_t packets_ = 0;
  size_t bytes_ = 0;
  std::atomic<bool> pending_{false};  // inputs_ is not empty
  std::atomic<bool> control_{false};  // a task waits
  bool running_ = false;              // vCPU's thread only, with the next two
  uint64_t base_virtual_ = 0;
  uint64_t base_host_ = 0;
};

}  // namespace hypertwin::machine
