// A machine's state in a file (docs/snapshot-format.md). Written whole or not at all; read as hostile input.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "base/new_file.h"
#include "devices/guest_ram.h"

namespace hypertwin::machine {

class MachineMemory;

// The snapshot that an incremental one adds to.
struct SnapshotParent {
  std::string path;
  Digest128 identity;
};

struct SnapshotInfo {
  uint64_t pages = 0;  // of memory, in the file
  uint64_t bytes = 0;  // that were written
  std::string parent;  // path; empty for a full one
  Digest128 identity;
};

// The files of a chain: a snapshot and all that it adds to.
inline constexpr size_t kMaxSnapshotChain = 256;

// `state`: everything but memory, as the machine lays it out. With a parent: only the pages of the bitmap
// `changed`, one bit a page. Throws Error: BUSY, EEXIST (base/new_file.h), SNAPSHOT_LIMIT, or the failed
// call.
SnapshotInfo write_snapshot_file(const std::string& path, std::span<const uint8_t> state,
                                 const MachineMemory& memory, const SnapshotParent* parent = nullptr,
                                 std::span<const uint64_t> changed = {},
                                 NewFile::Over over = NewFile::Over::kAnother);

class SnapshotFile {
 public:
  // Pages of memory that the file has something about; at most kMaxRun.
  struct Run {
    uint64_t first_page = 0;
    uint64_t pages = 0;
    bool zero = false;  // of an incremental snapshot: they are zero now, and not in the file
    uint64_t checksum = 0;
  };
  static constexpr uint64_t kMaxRun = 256;
  // Page n of memory lies at kMemoryOffset + 4096 n.
  static constexpr uint64_t kMemoryOffset = devices::kPageSize;

  // Is called before bytes [offset, offset + size) of the file are read, which may not be there yet.
  using Bring = std::function<void(uint64_t offset, uint64_t size)>;
  // Checks header and state; reads nothing of the memory. With `bring` it must be a full one: no other file
  // is looked for. Throws Error: the failed call, SNAPSHOT_VERSION, SNAPSHOT_PARENT, CORRUPT, what `bring`
  // throws.
  explicit SnapshotFile(const std::string& path, const Bring& bring = {});
  const std::string& path() const { return path_; }
  std::span<const uint8_t> state() const { return state_; }
  uint64_t memory_size() const { return memory_size_; }
  Digest128 identity() const { return identity_; }
  // Its path is where it is looked for.
  const std::optional<SnapshotParent>& parent() const { return parent_; }
  const std::vector<Run>& runs() const { return runs_; }  // ascending, apart
  int fd() const { return fd_.get(); }

  // As they are in the file. Throws Error: the failed call, CORRUPT (it is cut short).
  void read_pages(uint64_t first, std::span<uint8_t> into) const;
  // Reads a run that is not zero, and checks it. Throws Error("CORRUPT").
  void read(const Run& run, std::span<uint8_t> into) const;
  // Reads all of them, and sees that the rest is zero. False: `go_on` did not want it any more.
  bool verify(const std::function<bool()>& go_on) const;

 private:
  [[noreturn]] void corrupt(const std::string& what) const;
  std::string path_;
  Fd fd_;
  std::vector<uint8_t> state_;
  uint64_t memory_size_ = 0;
  Digest128 identity_;
  std::optional<SnapshotParent> parent_;
  std::vector<Run> runs_;
};

// A snapshot and those that it adds to: itself first, the full one last.
using SnapshotChain = std::vector<std::shared_ptr<const SnapshotFile>>;
// Throws also Error("SNAPSHOT_PARENT"): one is not where it was, or is another one.
SnapshotChain open_snapshot(const std::string& path);

}  // namespace hypertwin::machine
