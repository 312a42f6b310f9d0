// A queue with the number of its first element.
#include "ha/retained_outputs.h"

#include <algorithm>

namespace hypertwin::ha {

void RetainedOutputs::packet(uint64_t, uint32_t device, std::span<const uint8_t> packet) {
  announcer_.learn(device, packet);
  keep(true, device, packet);
}

void RetainedOutputs::console(uint64_t, uint32_t device, std::span<const uint8_t> bytes) {
  keep(false, device, bytes);
}

void RetainedOutputs::keep(bool packet, uint32_t device, std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  if (outputs_.empty() && first_ < released_) {
    ++first_;
    return;
  }
  outputs_.push_back({device, packet, {bytes.begin(), bytes.end()}});
  bytes_ += bytes.size();
  trim();
}

void RetainedOutputs::released(uint64_t count) {
  std::lock_guard lock(mutex_);
  released_ = std::max(released_, count);
  trim();
}

void RetainedOutputs::trim() {
  while (!outputs_.empty() && (first_ < released_ || bytes_ > limit_)) {
    bytes_ -= outputs_.front().bytes.size();
    outputs_.pop_front();
    ++first_;
  }
}

std::deque<RetainedOutputs::Output> RetainedOutputs::take() {
  std::lock_guard lock(mutex_);
  bytes_ = 0;
  return std::exchange(outputs_, {});
}

size_t RetainedOutputs::held() const {
  std::lock_guard lock(mutex_);
  return outputs_.size();
}

size_t RetainedOutputs::held_bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace hypertwin::ha
