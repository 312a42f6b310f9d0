// One named native thread that runs tasks in the order they were posted. It knows nothing of what it runs.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace hypertwin::base {

// A task must not throw: what it wants to report it stores or sends itself.
class Executor {
 public:
  using Task = std::function<void()>;

  // `name` is the thread's, as /proc shows it: at most 15 bytes are kept.
  explicit Executor(const std::string& name);
  // As stop().
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Any thread. False, and the task is dropped, once stopping has begun.
  bool post(Task task);

  // Takes no new task, lets the running one end, destroys those that wait without running them, and joins.
  // Fine to call twice and from several threads. From a task of its own it only begins the stop: the
  // destructor must not be called there.
  void stop();

  bool on_thread() const { return std::this_thread::get_id() == id_; }

 private:
  void loop();

  std::mutex mutex_;  // guards tasks_ and stopping_
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  bool stopping_ = false;
  std::mutex join_mutex_;  // guards the join alone
  std::thread thread_;
  std::thread::id id_;
};

}  // namespace hypertwin::base
