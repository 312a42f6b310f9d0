#include "machine/input.h"

#include <algorithm>
#include <chrono>

#include "base/clock.h"

namespace hypertwin::machine {

namespace {
constexpr uint64_t kLongestWait = 3'600'000'000'000;  // nanoseconds
}  // namespace

bool LiveInputs::push(Input input) {
  {
    std::lock_guard lock(mutex_);
    if (input.kind != InputKind::kBlockCompletion) {
      if (packets_ >= limits_.packets || bytes_ + input.bytes.size() > limits_.bytes) return false;
      ++packets_;
      bytes_ += input.bytes.size();
    }
    inputs_.push_back(std::move(input));
    pending_.store(true, std::memory_order_release);
  }
  wake_.notify_one();
  return true;
}

void LiveInputs::wake_for_control() {
  {
    std::lock_guard lock(mutex_);
    control_.store(true, std::memory_order_release);
  }
  wake_.notify_one();
}

void LiveInputs::control_taken() { control_.store(false, std::memory_order_release); }

void LiveInputs::start_clock(uint64_t at_least) {
  base_virtual_ = std::max(virtual_now(), at_least);
  base_host_ = now_ns();
  running_ = true;
}

void LiveInputs::stop_clock() {
  base_virtual_ = virtual_now();
  running_ = false;
}

void LiveInputs::set_clock(uint64_t virtual_ns) {
  base_virtual_ = virtual_ns;
  base_host_ = now_ns();
}

uint64_t LiveInputs::virtual_now() const {
  return running_ ? base_virtual_ + (now_ns() - base_host_) : base_virtual_;
}

uint64_t LiveInputs::clock(uint64_t) { return virtual_now(); }

bool LiveInputs::next(uint64_t, std::optional<uint64_t> deadline, Input& input) {
  if (deadline) {
    uint64_t now = virtual_now();
    if (*deadline <= now) {
      input = Input{};
      input.time = now;
      return true;
    }
  }
  if (!pending_.load(std::memory_order_acquire)) return false;
  std::lock_guard lock(mutex_);
  if (inputs_.empty()) return false;
  input = std::move(inputs_.front());
  inputs_.pop_front();
  if (input.kind != InputKind::kBlockCompletion) {
    --packets_;
    bytes_ -= input.bytes.size();
  }
  if (inputs_.empty()) pending_.store(false, std::memory_order_release);
  return true;
}

Wait LiveInputs::wait(uint64_t, std::optional<uint64_t> deadline) {
  std::unique_lock lock(mutex_);
  auto ready = [&] { return control_.load(std::memory_order_relaxed) || !inputs_.empty(); };
  if (!deadline) {
    wake_.wait(lock, ready);
  } else {
    uint64_t now = virtual_now();
    // Woken too early it is asked again.
    if (*deadline > now)
      wake_.wait_for(lock, std::chrono::nanoseconds(std::min(*deadline - now, kLongestWait)), ready);
  }
  return control_.load(std::memory_order_relaxed) ? Wait::kControl : Wait::kInput;
}

}  // namespace hypertwin::machine
