#include "libvirt/threads.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/signals.h"

namespace hypertwin::libvirt {

namespace {

constexpr std::chrono::milliseconds kPatience[] = {std::chrono::milliseconds(250),
                                                   std::chrono::milliseconds(10'000)};

std::atomic<bool> exiting{false};
std::atomic<int> working[2];  // by Kind

void begin_exit() {
  exiting.store(true);
  const auto begun = std::chrono::steady_clock::now();
  auto due = [&](Working::Kind kind) {
    const auto i = static_cast<size_t>(kind);
    return working[i].load() > 0 && std::chrono::steady_clock::now() - begun < kPatience[i];
  };
  while (due(Working::Kind::call) || due(Working::Kind::initialisation)) ::usleep(200);
}

}  // namespace

Working::Working(Kind kind) : kind_(kind) {
  // In this order: either exit() sees it, or this sees exit().
  working[static_cast<size_t>(kind_)].fetch_add(1);
  if (!exiting.load()) return;
  working[static_cast<size_t>(kind_)].fetch_sub(1);
  park_at_exit();
}

Working::~Working() {
  working[static_cast<size_t>(kind_)].fetch_sub(1);
  park_at_exit();
}

void park_at_exit() {
  while (exiting.load(std::memory_order_acquire)) ::pause();
}

void start_thread(const std::string& name, std::function<void()> run) {
  static const int registered = std::atexit(begin_exit);
  static_cast<void>(registered);
  base::KeepSignals others;
  std::thread thread([name, run = std::move(run)] {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    run();
  });
  thread.detach();
}

}  // namespace hypertwin::libvirt
