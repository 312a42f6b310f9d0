// What is read: counters, and for each chunk when it was read first and how long that read waited. The file
// is described in docs/stream-format.md; lib/stream/trace.ts reads it, also while it grows.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hypertwin::nbdkit {

class AccessLog {
 public:
  // Writes a new file over what is there.
  AccessLog(const std::string& path, uint32_t chunk_size, uint32_t chunks, const uint8_t* manifest_digest);

  // A read of chunks `first` to `last` began at `begin`, and waited for some of them (waited_us > 0) or did
  // not.
  void add(uint32_t first, uint32_t last, uint64_t bytes, std::chrono::steady_clock::time_point begin,
           uint64_t waited_us);
  // A read that could not be answered.
  void failed();

 private:
  // As they are in the file.
  enum Counter : size_t {
    kReads,
    kBytes,
    kWaitedReads,
    kWaitedUs,
    kLongestUs,
    kStalls,
    kFailedReads,
    kCounters
  };

  bool write(const void* from, size_t size, uint64_t at);

  Fd file_;
  const std::chrono::steady_clock::time_point start_;
  const uint32_t chunks_;
  std::mutex mutex_;
  std::array<uint64_t, kCounters> counters_{};  // this and the rest are guarded by mutex_
  uint64_t end_ = 0;                            // of the whole records
  // Of each chunk, whether it has been written down.
  std::vector<bool> seen_;
};

}  // namespace hypertwin::nbdkit
