// Where a log's bytes come from: numbered segments that may still grow. It judges nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.h"

namespace hypertwin::log {

// Used by one thread, except cancel().
class Source {
 public:
  virtual ~Source() = default;
  // The numbers of the segments that are there, ascending.
  virtual std::vector<uint32_t> segments() = 0;
  virtual uint64_t size(uint32_t segment) = 0;
  // Fills `out` from `offset` on; fewer bytes only at the end. Throws Error on an I/O error.
  virtual size_t read(uint32_t segment, uint64_t offset, std::span<uint8_t> out) = 0;
  // Returns when something may have grown, after `timeout`, or at once when cancelled.
  virtual void wait(std::chrono::milliseconds timeout) = 0;
  // Ends waits now and later, from any thread.
  virtual void cancel() = 0;
  virtual bool cancelled() const = 0;
  // Any thread: nothing will be added any more; who follows ends behind what is there.
  virtual bool complete() const { return false; }
  // Whether a follower that finds nothing more shall return to its caller for once (Stop::kDataEnds).
  virtual bool yields() { return false; }
};

// A directory of segment files; anything else in it is ignored. Throws Error("LOG_NOT_FOUND") when there
// is no such directory.
std::unique_ptr<Source> open_directory(const std::filesystem::path& directory);

// Bytes in memory, for tests and fuzzing; they do not grow.
std::unique_ptr<Source> memory_source(std::map<uint32_t, std::vector<uint8_t>> segments);

}  // namespace hypertwin::log
