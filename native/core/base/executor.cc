#include "base/executor.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace hypertwin::base {

Executor::Executor(const std::string& name) {
  // Signals sent to the process belong to the threads that were there before. Faults, and the signals that
  // threads send each other, stay as they are.
  sigset_t process_signals, before;
  sigemptyset(&process_signals);
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN,
                     SIGTTOU, SIGWINCH, SIGIO})
    sigaddset(&process_signals, signal);
  pthread_sigmask(SIG_BLOCK, &process_signals, &before);
  try {
    thread_ = std::thread([this] { loop(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
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
