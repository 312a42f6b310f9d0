#include "read_counts.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

namespace hypertwin::nbdkit {
namespace {

constexpr char kMagic[8] = {'h', 't', 'r', 'e', 'a', 'd', 's', '1'};
constexpr off_t kCountsAt = sizeof kMagic;
constexpr std::chrono::milliseconds kBetween(100);

}  // namespace

ReadCounts::ReadCounts(int folder) : file_(::openat(folder, "reads", O_RDWR | O_CLOEXEC)) {
  char magic[sizeof kMagic];
  if (file_ && (::pread(file_.get(), magic, sizeof magic, 0) != static_cast<ssize_t>(sizeof magic) ||
                std::memcmp(magic, kMagic, sizeof magic) != 0))
    file_ = Fd();
}

ReadCounts::~ReadCounts() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ReadCounts::start() {
  if (file_) thread_ = std::thread([this] { run(); });
}

void ReadCounts::add(uint64_t waited_us) {
  add({1, waited_us > 0 ? 1u : 0u, waited_us > kStallUs ? 1u : 0u, 0});
}

void ReadCounts::failed() { add({1, 0, 0, 1}); }

void ReadCounts::add(const Counts& counts) {
  if (!file_) return;
  bool first;
  {
    const std::lock_guard lock(mutex_);
    first = pending_[0] == 0;
    for (size_t i = 0; i < counts.size(); i++) pending_[i] += counts[i];
  }
  if (first) wake_.notify_one();
}

void ReadCounts::run() {
  pthread_setname_np(pthread_self(), "ht-reads");
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || pending_[0] > 0; });
    const Counts taken = pending_;
    pending_ = {};
    lock.unlock();
    const bool done = write(taken);
    lock.lock();
    if (!done)
      for (size_t i = 0; i < taken.size(); i++) pending_[i] += taken[i];
    if (wake_.wait_for(lock, kBetween, [this] { return ending_; }) && (!done || pending_[0] == 0)) return;
  }
}

// A file and no shared memory: on a disk that is full, writing to memory may be fatal. Another server that is
// writing is not waited for: it may have been stopped.
bool ReadCounts::write(const Counts& counts) const {
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) return false;
  Counts all;
  bool done = ::pread(file_.get(), all.data(), sizeof all, kCountsAt) == static_cast<ssize_t>(sizeof all);
  for (size_t i = 0; done && i < all.size(); i++) all[i] += counts[i];
  done = done && ::pwrite(file_.get(), all.data(), sizeof all, kCountsAt) == static_cast<ssize_t>(sizeof all);
  ::flock(file_.get(), LOCK_UN);
  return done;
}

}  // namespace hypertwin::nbdkit
