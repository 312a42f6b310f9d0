// The threads that libvirt's calls block on: an elastic pool with a lane for calls that answer soon, one for
// calls that last (opening, migrating, saving) and one for streams, whose other side may never answer. It
// knows nothing of what it runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "libvirt/descriptor.h"
#include "libvirt/threads.h"

namespace hypertwin::libvirt {

struct PoolOptions {
  // Threads of a lane at most; what comes then waits.
  size_t quick_threads = 64;
  size_t slow_threads = 256;
  size_t stream_threads = 256;
  // A thread that has had nothing to do for so long ends.
  std::chrono::milliseconds idle{10000};
  // Starts a thread, or throws.
  std::function<void(const std::string& name, std::function<void()> run)> start = start_thread;
};

struct PoolStats {
  size_t threads[kLanes] = {};  // by Lane
  size_t idle[kLanes] = {};
  size_t waiting[kLanes] = {};
};

class Pool {
 public:
  // A task must not throw: what it wants to report it stores or sends itself.
  using Task = std::function<void()>;

  explicit Pool(PoolOptions options = {});
  // As stop().
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Any thread; never blocks. Tasks of a lane start in order, and run side by side. False, and the task is
  // dropped, once stopping has begun, or when the lane has no thread and the system gives none.
  bool post(Lane lane, Task task);

  // Takes no new task, lets the running ones end and those that wait be run, and returns when all threads
  // have left the pool. Not from a task.
  void stop();
  // Returns when nothing runs or waits. Not from a task.
  void drain();

  PoolStats stats() const;

 private:
  struct LaneState;
  struct State;
  static void work(const std::shared_ptr<State>& state, Lane lane);
  // With the lock: one thread more, if it takes one. True: the caller is to wake it.
  static bool call(const std::shared_ptr<State>& state, Lane lane);

  const std::shared_ptr<State> state_;
};

// The process's own; never stopped, never destroyed: it outlives every environment.
Pool& pool();

// What a task is given up with that the process's pool did not take: only for want of threads does it refuse.
Error no_thread();

// True on a thread of a pool.
bool on_pool();

}  // namespace hypertwin::libvirt
