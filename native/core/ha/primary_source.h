// A protected machine's inputs: a recorder's, with the guest kept from running on while it may not: too many
// outputs held, the backup too far behind, or nothing heard of it for so long that it may have taken over.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "ha/ledger.h"
#include "ha/output_gate.h"
#include "log/writer.h"
#include "replay/recorder.h"

namespace hypertwin::ha {

// Until when the backup is known not to have taken over for silence (lease_clock_ns()).
class Lease {
 public:
  // The backup heard what was sent at `sent`, and waits `promise` from then on at least. Clocks may differ by
  // a tenth.
  void renew(uint64_t sent, uint64_t promise) {
    const uint64_t until = sent + promise - promise / 10;
    if (until > until_.load(std::memory_order_relaxed)) until_.store(until, std::memory_order_relaxed);
  }
  bool valid() const;

 private:
  std::atomic<uint64_t> until_{0};
};

class PrimarySource final : public machine::InputSource {
 public:
  PrimarySource(replay::Recorder& recorder, log::Writer& writer, OutputGate& gate, const Ledger& ledger,
                const Lease& lease, std::chrono::microseconds max_lag);

  void boundary(uint64_t ordinal, const RollingDigest& digest) override {
    recorder_.boundary(ordinal, digest);
  }
  uint64_t clock(uint64_t ordinal) override { return recorder_.clock(ordinal); }
  bool next(uint64_t ordinal, std::optional<uint64_t> deadline, machine::Input& input) override {
    return recorder_.next(ordinal, deadline, input);
  }
  bool inject(uint64_t ordinal, bool possible) override { return recorder_.inject(ordinal, possible); }
  void injected(uint64_t ordinal, uint8_t vector) override { recorder_.injected(ordinal, vector); }
  machine::Wait wait(uint64_t ordinal, std::optional<uint64_t> deadline) override {
    return recorder_.wait(ordinal, deadline);
  }
  machine::SourceEnd end(uint64_t ordinal) override;
  void left(uint64_t ordinal) override;
  bool live() const override { return true; }

  // Any thread.
  // From now on the lease and the lag count.
  void guard() { guarded_.store(true, std::memory_order_release); }
  // Something that the guest may wait for is different.
  void changed();
  uint64_t paced_ns() const { return paced_.load(std::memory_order_relaxed); }
  // The first `records` records hold everything up to `boundary`, which was left.
  struct Settled {
    uint64_t records = 0, boundary = 0;
  };
  Settled settled() const;

 private:
  enum class Hold { kNone, kOutputs, kLease, kLag };
  Hold hold();

  replay::Recorder& recorder_;
  log::Writer& writer_;
  OutputGate& gate_;
  const Ledger& ledger_;
  const Lease& lease_;
  const uint64_t max_lag_;
  std::atomic<bool> guarded_{false};
  std::atomic<uint64_t> paced_{0}, settled_records_{0}, settled_boundary_{0};
  uint64_t paced_here_ = 0;  // vCPU's thread: at this boundary
  std::mutex mutex_;         // guards changes_
  std::condition_variable wake_;
  uint64_t changes_ = 0;
  std::atomic<bool> waiting_{false};
};

}  // namespace hypertwin::ha
