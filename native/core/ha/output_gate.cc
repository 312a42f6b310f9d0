// The lock is never held while something is let out.
#include "ha/output_gate.h"

#include "ha/clock.h"

namespace hypertwin::ha {

namespace {
// What an entry costs beside its bytes: one byte of console at a time must count too.
constexpr size_t kEntry = 64;
}  // namespace

void OutputGate::packet(uint64_t ordinal, uint32_t device, std::span<const uint8_t> packet) {
  take(ordinal, true, device, packet);
}

void OutputGate::console(uint64_t ordinal, uint32_t device, std::span<const uint8_t> bytes) {
  take(ordinal, false, device, bytes);
}

void OutputGate::take(uint64_t ordinal, bool packet, uint32_t device, std::span<const uint8_t> bytes) {
  const uint64_t index = mark_(ordinal);
  marked_ = true;
  {
    std::lock_guard lock(mutex_);
    if (mode_ == Mode::kDrop) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    if (mode_ == Mode::kHold) {
      held_.push_back({index, now_ns(), device, packet, {bytes.begin(), bytes.end()}});
      held_bytes_.fetch_add(bytes.size() + kEntry, std::memory_order_relaxed);
      held_count_.store(held_.size(), std::memory_order_release);
      return;
    }
  }
  emit(packet, device, bytes);
}

void OutputGate::emit(bool packet, uint32_t device, std::span<const uint8_t> bytes) {
  if (packet)
    emit_.packet(device, bytes);
  else
    emit_.console(device, bytes);
  released_.fetch_add(1, std::memory_order_relaxed);
}

OutputGate::Held OutputGate::pop() {
  Held held = std::move(held_.front());
  held_.pop_front();
  held_bytes_.fetch_sub(held.bytes.size() + kEntry, std::memory_order_relaxed);
  held_count_.store(held_.size(), std::memory_order_release);
  return held;
}

void OutputGate::hold() {
  std::lock_guard lock(mutex_);
  mode_ = Mode::kHold;
}

bool OutputGate::release(uint64_t end_index, const std::function<bool()>& may) {
  std::unique_lock lock(mutex_);
  while (!held_.empty() && held_.front().index < end_index) {
    const Held held = pop();
    lock.unlock();
    // As late as can be: a process that is stopped here and goes on much later lets nothing out.
    if (!may()) {
      lock.lock();
      held_bytes_.fetch_add(held.bytes.size() + kEntry, std::memory_order_relaxed);
      held_.push_front(held);
      held_count_.store(held_.size(), std::memory_order_release);
      return false;
    }
    holds_.add(now_ns() - held.made_ns);
    emit(held.packet, held.device, held.bytes);
    lock.lock();
  }
  return true;
}

size_t OutputGate::open() {
  size_t count = 0;
  std::unique_lock lock(mutex_);
  for (; !held_.empty(); ++count) {
    const Held held = pop();
    lock.unlock();
    emit(held.packet, held.device, held.bytes);
    lock.lock();
  }
  mode_ = Mode::kOpen;
  return count;
}

size_t OutputGate::drop() {
  std::lock_guard lock(mutex_);
  mode_ = Mode::kDrop;
  const size_t count = held_.size();
  held_.clear();
  held_bytes_.store(0, std::memory_order_relaxed);
  held_count_.store(0, std::memory_order_release);
  dropped_.fetch_add(count, std::memory_order_relaxed);
  return count;
}

}  // namespace hypertwin::ha
