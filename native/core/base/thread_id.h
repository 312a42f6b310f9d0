// The kernel's id of a thread, told by itself.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>

namespace hypertwin::base {

class ThreadId {
 public:
  // On the thread.
  void set() {
    id_.store(::gettid(), std::memory_order_release);
    id_.notify_all();
  }
  // Waits until it is set.
  pid_t get() const {
    id_.wait(0, std::memory_order_acquire);
    return id_.load(std::memory_order_acquire);
  }

 private:
  std::atomic<pid_t> id_{0};
};

}  // namespace hypertwin::base
