// A machine's snapshots: full ones, and incremental ones of what changed since their base. The base is the
// latest snapshot that was written with `track`, or else the file that the machine was restored from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dirty/tracker.h"
#include "machine/machine_memory.h"
#include "machine/snapshot.h"

namespace hypertwin::machine {

struct SnapshotOptions {
  bool incremental = false;  // only what changed since the base
  bool track = false;        // this one is the base of those that come
  NewFile::Over over = NewFile::Over::kAnother;
};

class Snapshots {
 public:
  // `target`: what a dirty tracker needs of the machine.
  Snapshots(const MachineMemory& memory, dirty::Target target)
      : memory_(memory), target_(std::move(target)) {}

  // The machine stands still meanwhile. Throws Error: BAD_STATE (incremental without a base), EINVAL (over
  // one that it adds to), SNAPSHOT_LIMIT (it could not be restored), BUSY (another is being written there),
  // DIRTY_BUSY, or a failed call; then nothing is written, and nothing forgotten.
  SnapshotInfo write(const std::string& path, std::span<const uint8_t> state, const SnapshotOptions& options);
  // Tracks no longer; for who tracks the machine's pages itself.
  void stop_tracking();

 private:
  void harvest();

  const MachineMemory& memory_;
  const dirty::Target target_;
  std::mutex mutex_;  // guards the following
  std::unique_ptr<dirty::Tracker> tracker_;
  std::optional<SnapshotParent> base_;  // with tracker_
  std::vector<std::string> lineage_;    // the base's path, and of those that it adds to
  bool origin_replaced_ = false;        // the file that the memory is mapped from has another's name now
  std::vector<uint64_t> dirty_;         // since the base, as far as harvested
  dirty::Harvest harvested_;
};

}  // namespace hypertwin::machine
