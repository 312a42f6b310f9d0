#include "base/executor.h"

#include <pthread.h>

#include <utility>

#include "base/signals.h"

namespace hypertwin::base {

Executor::Executor(const std::string& name) {
  {
    KeepSignals others;
    thread_ = std::thread([this] { loop(); });
  }
  id_ = thread_.get_id();
  pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
}

Executor::~Executor() { stop(); }

bool Executor::post(Task task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void Executor::stop() {
  std::deque<Task> dropped;  // destroyed without the lock: a task's captures may post
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(tasks_);
  }
  wake_.notify_all();
  if (on_thread()) return;
  std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Executor::loop() {
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace hypertwin::base
