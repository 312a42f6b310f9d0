// Waiting is done a little at a time, so that a task for the vCPU's thread gets its turn.
#include "ha/primary_source.h"

#include "ha/clock.h"

namespace hypertwin::ha {

namespace {
constexpr std::chrono::microseconds kSlice{1000};
// However far behind the backup is: it may be stuck for good, which is for others to find out.
constexpr uint64_t kLongestPace = 100'000'000;
}  // namespace

bool Lease::valid() const { return lease_clock_ns() < until_.load(std::memory_order_relaxed); }

PrimarySource::PrimarySource(replay::Recorder& recorder, log::Writer& writer, OutputGate& gate,
                             const Ledger& ledger, const Lease& lease, std::chrono::microseconds max_lag)
    : recorder_(recorder),
      writer_(writer),
      gate_(gate),
      ledger_(ledger),
      lease_(lease),
      max_lag_(static_cast<uint64_t>(max_lag.count()) * 1000) {}

PrimarySource::Hold PrimarySource::hold() {
  if (gate_.full()) return Hold::kOutputs;
  if (!guarded_.load(std::memory_order_acquire)) return Hold::kNone;
  if (!lease_.valid()) return Hold::kLease;
  if (paced_here_ < kLongestPace && ledger_.lag(now_ns()) > max_lag_ + ledger_.round_trip_ns())
    return Hold::kLag;
  return Hold::kNone;
}

machine::SourceEnd PrimarySource::end(uint64_t ordinal) {
  const auto end = recorder_.end(ordinal);
  if (end != machine::SourceEnd::kNone) return end;
  // What is held waits for this; all that came to this boundary goes with it.
  if (gate_.take_marked()) writer_.commit();
  const Hold why = hold();
  if (why == Hold::kNone) return end;
  // It cannot be released before it is sent.
  writer_.commit();
  const uint64_t begun = now_ns();
  {
    std::unique_lock lock(mutex_);
    const uint64_t seen = changes_;
    waiting_.store(true);
    if (hold() != Hold::kNone) wake_.wait_for(lock, kSlice, [&] { return changes_ != seen; });
    waiting_.store(false);
  }
  const uint64_t waited = now_ns() - begun;
  if (why != Hold::kLease) paced_.fetch_add(waited, std::memory_order_relaxed);
  if (why == Hold::kLag) paced_here_ += waited;
  return machine::SourceEnd::kStay;
}

void PrimarySource::left(uint64_t ordinal) {
  paced_here_ = 0;
  // In this order: who reads them the other way round gets no fewer records than belong to the boundary.
  settled_records_.store(recorder_.records(), std::memory_order_relaxed);
  settled_boundary_.store(ordinal, std::memory_order_release);
}

PrimarySource::Settled PrimarySource::settled() const {
  Settled settled;
  settled.boundary = settled_boundary_.load(std::memory_order_acquire);
  settled.records = settled_records_.load(std::memory_order_relaxed);
  return settled;
}

void PrimarySource::changed() {
  if (!waiting_.load()) return;
  {
    std::lock_guard lock(mutex_);
    ++changes_;
  }
  wake_.notify_one();
}

}  // namespace hypertwin::ha
