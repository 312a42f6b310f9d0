// A raw image file as a block backend, with threads of its own (`ht-blk`). Requests are begun in order of
// submission; where there is one thread, they end in that order too. Knows no device and no guest.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/disk.h"
#include "base/fd.h"

namespace hypertwin::backends {

class FileDisk final : public Disk {
 public:
  // Throws Error (ENOENT, EACCES, ...), or Error("EINVAL") when it is neither a file nor a block device.
  FileDisk(const std::string& path, bool read_only, OnComplete on_complete)
      : FileDisk(path, Options{.read_only = read_only}, std::move(on_complete)) {}
  FileDisk(const std::string& path, Options options, OnComplete on_complete);
  // Performs what is queued, then ends the threads.
  ~FileDisk() override;

  // Waits while kMaxQueued requests are queued.
  void submit(devices::BlockRequest request) override;
  // Returns when all that was submitted before is completed.
  void drain() override;
  void hold() override;
  void release() override;
  // Returns when nothing is performed.
  void cancel() override;
  void read_at(uint64_t offset, std::span<uint8_t> into) override;
  void sync() override;

 private:
  void run();
  // The mutex is held. A thread that begins the next request, unless there is one that soon will.
  void wake();
  // All there ever were; the mutex is held.
  uint64_t submitted() const { return completed_ + queue_.size() + taken_; }
  // Where it surely takes no waiting.
  std::optional<Completion> perform_at_hand(devices::BlockRequest& request);
  Completion perform(devices::BlockRequest& request);
  // 0, or the errno. `data`: of a read that is not straight into somebody's memory.
  int move_data(devices::BlockRequest& request, std::vector<uint8_t>& data);

  Fd fd_;
  std::string path_;
  bool block_device_ = false;
  bool in_memory_ = false;  // its file system: nothing waits for a disk
  OnComplete on_complete_;
  std::mutex mutex_;  // guards the following
  std::condition_variable work_;
  std::condition_variable changed_;
  std::deque<devices::BlockRequest> queue_;
  unsigned taken_ = 0;       // from the queue, and not yet completed
  unsigned performing_ = 0;  // of these
  unsigned active_ = 0;      // threads that have something to do and wait for nothing
  unsigned idle_ = 0;        // threads that wait for work
  unsigned called_ = 0;      // of these, on their way
  uint64_t completed_ = 0;
  bool held_ = false;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hypertwin::backends
