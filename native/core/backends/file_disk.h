// A raw image file as a block backend, with a thread of its own (`ht-blk`). Requests are performed in order
// of submission. Knows no device and no guest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
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

  // Throws Error (ENOENT, EACCES, ...), or Error("EINVAL") when it is neither a file nor a block device.
  FileDisk(const std::string& path, bool read_only, OnComplete on_complete);
  // Performs what is queued, then ends the thread.
  ~FileDisk();

  // Bytes, at opening.
  uint64_t size() const { return size_; }
  bool read_only() const { return read_only_; }
  // Any thread. Waits while kMaxQueued requests are queued.
  void submit(devices::BlockRequest request);
  // Returns when all that was submitted before is completed.
  void drain();

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
  // All there ever were; the mutex is held.
  uint64_t submitted() const { return completed_ + queue_.size() + (busy_ ? 1 : 0); }
  Completion perform(devices::BlockRequest& request);
  void mark_written(uint64_t offset, uint64_t size);

  Fd fd_;
  std::string path_;
  bool read_only_;
  bool block_device_ = false;
  uint64_t size_ = 0;
  OnComplete on_complete_;
  std::unique_ptr<std::atomic<uint64_t>[]> written_;
  std::mutex mutex_;  // guards the members up to thread_
  std::condition_variable work_;
  std::condition_variable space_;
  std::deque<devices::BlockRequest> queue_;
  bool busy_ = false;
  uint64_t completed_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace hypertwin::backends
