// What is read of an image's local copy, counted in the file `reads` beside it: by all who serve that copy,
// for the process that streams into it (lib/stream/reads.ts). docs/stream-format.md describes the file. No
// read waits for that: a thread writes, ten times a second.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "base/fd.h"

namespace hypertwin::nbdkit {

// A read that waited for longer is a stall.
inline constexpr uint64_t kStallUs = 100'000;

class ReadCounts {
 public:
  // `folder`: the copy's, open. Where the file is missing, or may not be written, nothing is counted.
  explicit ReadCounts(int folder);
  // Writes what is left.
  ~ReadCounts();
  ReadCounts(const ReadCounts&) = delete;
  ReadCounts& operator=(const ReadCounts&) = delete;

  // Once, in the process that serves.
  void start();
  // A read that waited so long for what was not here, or did not wait (0).
  void add(uint64_t waited_us);
  // A read that could not be answered.
  void failed();

 private:
  // Reads; those that waited; those that stalled; those that failed.
  using Counts = std::array<uint64_t, 4>;
  void add(const Counts& counts);
  void run();
  bool write(const Counts& counts) const;

  Fd file_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Counts pending_{};     // not in the file yet; guarded by mutex_
  bool ending_ = false;  // guarded by mutex_
  std::thread thread_;   // ended by ending_
};

}  // namespace hypertwin::nbdkit
