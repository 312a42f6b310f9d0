// A machine's state in a file (docs/snapshot-format.md). Written whole or not at all; read as hostile input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

// `state`: everything but memory, as the machine lays it out.
void write_snapshot_file(const std::string& path, std::span<const uint8_t> state,
                         const kvm::GuestMemory& memory);

class SnapshotFile {
 public:
  // Checks header and state. Throws Error: the failed call, SNAPSHOT_VERSION, CORRUPT.
  explicit SnapshotFile(const std::string& path);
  std::span<const uint8_t> state() const { return state_; }
  uint64_t memory_size() const { return memory_size_; }
  // Fills all of `memory`, which has memory_size() bytes and is zero. Throws Error("CORRUPT").
  void load_memory(kvm::GuestMemory& memory) const;

 private:
  struct Run {
    uint64_t first_page = 0;
    uint64_t pages = 0;
  };
  [[noreturn]] void corrupt(const std::string& what) const;
  std::string path_;
  Fd fd_;
  std::vector<uint8_t> state_;
  uint64_t memory_size_ = 0;
  uint64_t memory_checksum_ = 0;
  std::vector<Run> runs_;
};

}  // namespace hypertwin::machine
