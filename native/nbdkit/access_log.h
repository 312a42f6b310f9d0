// What is read: counters, and for each chunk when it was read first and how long that read waited. The file
// is described in docs/stream-format.md; lib/stream/trace.ts reads it, also while it grows.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/mapping.h"

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
  struct Counters;

  Fd file_;
  Mapping head_;
  Counters* counters_ = nullptr;
  const std::chrono::steady_clock::time_point start_;
  const uint32_t chunks_;
  // A byte for each chunk: whether it has been written down.
  std::unique_ptr<uint8_t[]> seen_;
};

}  // namespace hypertwin::nbdkit
