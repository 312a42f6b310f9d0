// A raw image file as a block backend, with threads of its own (`ht-blk`). Requests are begun in order of
// submission; where there is one thread, they end in that order too. Knows no device and no guest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "devices/device.h"

namespace hypertwin::backends {

class FileDisk {
 public:
  static constexpr size_t kMaxQueued = 1024;

  struct Completion {
    uint64_t ordinal = 0;
    devices::BlockStatus status = devices::BlockStatus::kOk;
    int err = 0;                // errno behind kIoError
    std::vector<uint8_t> data;  // of a read
  };
  // Called on the disk's thread; must not call back into the disk, and must not throw.
  using OnComplete = std::function<void(Completion)>;
  // Called there after some completions, when it is time to show them; must not throw.
  using OnPause = std::function<void()>;

  struct Options {
    bool read_only = false;
    // While a thread waits for the file system the next request is begun on another one, of so many.
    unsigned threads = 1;
    // Completions that may come before the pause after them.
    unsigned batch = 1;
    OnPause on_pause = {};
  };

  // Throws Error (ENOENT, EACCES, ...), or Error("EINVAL") when it is neither a file nor a block device.
  FileDisk(const std::string& path, bool read_only, OnComplete on_complete)
      : FileDisk(path, Options{.read_only = read_only}, std::move(on_complete)) {}
  FileDisk(const std::string& path, Options options, OnComplete on_complete);
  // Performs what is queued, then ends the threads.
  ~FileDisk();

  // Bytes, at opening.
  uint64_t size() const { return size_; }
  bool read_only() const { return options_.read_only; }
  // Any thread. Waits while kMaxQueued requests are queued.
  void submit(devices::BlockRequest request);
  // Returns when all that was submitted before is completed.
  void drain();
  // From its return on no request is performed, until release(); completions may still be told.
  void hold();
  void release();
  // What was submitted is not begun any more; returns when nothing is performed.
  void cancel();

  // ---- The image as a whole, for who copies it; any thread. Blocks of kBlockBytes, the last one shorter.
  static constexpr uint64_t kBlockBytes = 64u << 10;
  uint64_t blocks() const { return (size_ + kBlockBytes - 1) / kBlockBytes; }
  // Blocks written since the last take (or since opening), one bit each, OR-ed into `bitmap` of
  // (blocks() + 63) / 64 words and cleared here. A block is marked after it was written: read blocks after
  // taking, and nothing is missed but what is not completed yet.
  void take_written(std::span<uint64_t> bitmap);
  // Throw Error: the failed call; ERANGE.
  void read_at(uint64_t offset, std::span<uint8_t> into) const;
  void write_at(uint64_t offset, std::span<const uint8_t> from);
  // To stable storage.
  void sync();

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
  void mark_written(uint64_t offset, uint64_t size);

  Fd fd_;
  std::string path_;
  Options options_;
  bool block_device_ = false;
  bool in_memory_ = false;  // its file system: nothing waits for a disk
  uint64_t size_ = 0;
  OnComplete on_complete_;
  std::unique_ptr<std::atomic<uint64_t>[]> written_;
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
