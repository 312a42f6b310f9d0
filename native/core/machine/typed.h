// What is typed to a machine, until its virtio-console has room for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

namespace hypertwin::machine {

class Typed {
 public:
  static constexpr size_t kMax = 64u << 10;  // bytes

  // False, and nothing is kept, when there is no room. Any thread; never waits for who takes it.
  bool add(std::span<const uint8_t> bytes) {
    std::lock_guard lock(mutex_);
    if (bytes_.size() + bytes.size() > kMax) return false;
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return true;
  }
  // `receive` gets the first ones, at most `most`, and says how many it took; it may wait for the guest's
  // memory. One thread at a time.
  void take(size_t most, const std::function<size_t(std::span<const uint8_t>)>& receive) {
    std::unique_lock lock(mutex_);
    const auto end = bytes_.begin() + static_cast<ptrdiff_t>(std::min(most, bytes_.size()));
    const std::vector<uint8_t> first(bytes_.begin(), end);
    lock.unlock();
    const size_t taken = receive(first);
    lock.lock();
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(taken));
  }

 private:
  std::mutex mutex_;  // guards the following
  std::deque<uint8_t> bytes_;
};

}  // namespace hypertwin::machine
