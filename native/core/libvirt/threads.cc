#include "libvirt/threads.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <utility>

namespace hypertwin::libvirt {

namespace {

std::atomic<bool> exiting{false};

}  // namespace

void park_at_exit() {
  while (exiting.load(std::memory_order_acquire)) ::pause();
}

void start_thread(const std::string& name, std::function<void()> run) {
  static const int registered = std::atexit([] { exiting.store(true, std::memory_order_release); });
  static_cast<void>(registered);
  // Signals sent to the process belong to the threads that were there before.
  sigset_t process_signals, before;
  sigemptyset(&process_signals);
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN,
                     SIGTTOU, SIGWINCH, SIGIO})
    sigaddset(&process_signals, signal);
  pthread_sigmask(SIG_BLOCK, &process_signals, &before);
  try {
    std::thread thread([name, run = std::move(run)] {
      pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
      run();
    });
    thread.detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace hypertwin::libvirt
