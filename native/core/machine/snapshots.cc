#include "machine/snapshots.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace hypertwin::machine {

namespace {

bool same_file(const std::string& a, const std::string& b) {
  namespace fs = std::filesystem;
  std::error_code none;
  return fs::absolute(a).lexically_normal() == fs::absolute(b).lexically_normal() ||
         fs::equivalent(a, b, none);
}

}  // namespace

void Snapshots::harvest() {
  tracker_->harvest(harvested_);
  for (const auto& slot : harvested_.slots) {
    // Slots lie in the memory one behind the other.
    const auto where = target_.vm->slot(slot.slot);
    const uint64_t offset = where ? where->offset / devices::kPageSize : 0;
    for (auto [first, count] : slot.ranges()) dirty::set_range(dirty_, offset + first, count);
  }
}

SnapshotInfo Snapshots::write(const std::string& path, std::span<const uint8_t> state,
                              const SnapshotOptions& options) {
  std::lock_guard lock(mutex_);
  const auto takes_place_of = [&](const std::string& file) { return same_file(file, path); };
  std::optional<SnapshotParent> parent;
  std::vector<std::string> lineage;
  if (options.incremental) {
    if (base_) {
      parent = base_;
      lineage = lineage_;
    } else if (!memory_.chain().empty() && !origin_replaced_) {
      const SnapshotFile& full = *memory_.chain().back();
      parent = SnapshotParent{full.path(), full.identity()};
      lineage = {full.path()};
    } else {
      throw Error(
          "BAD_STATE",
          "an incremental snapshot has nothing to add to: write one with `track` first, or restore one");
    }
    if (std::ranges::any_of(lineage, takes_place_of))
      throw Error("EINVAL", "the snapshot " + path + " would take the place of one that it adds to: give " +
                                "another path");
    if (lineage.size() >= kMaxSnapshotChain)
      throw Error("SNAPSHOT_LIMIT", "the snapshot " + path + " would add to " +
                                        std::to_string(lineage.size()) +
                                        " others, and could not be restored: take a full one");
  }
  lineage.insert(lineage.begin(), path);
  const bool replaces_base = std::ranges::any_of(lineage_, takes_place_of);
  const bool replaces_origin = !memory_.chain().empty() && takes_place_of(memory_.chain().back()->path());

  std::unique_ptr<dirty::Tracker> fresh;
  if (tracker_) {
    harvest();
  } else if (options.track) {
    // Before the file is written, since it may be refused.
    dirty::Tracker::Options how;
    how.mode = target_.vm->dirty_ring_bytes() ? dirty::Mode::kRing : dirty::Mode::kBitmap;
    fresh = std::make_unique<dirty::Tracker>(target_, how);
    fresh->start();
  }
  std::vector<uint64_t> changed;
  if (parent) changed = base_ ? dirty_ : memory_.changed();
  const SnapshotInfo info =
      write_snapshot_file(path, state, memory_, parent ? &*parent : nullptr, changed, options.over);
  // What is not there any more can be added to no more.
  origin_replaced_ |= replaces_origin;
  if (replaces_base) {
    base_.reset();
    lineage_.clear();
  }
  if (options.track) {
    if (fresh) tracker_ = std::move(fresh);
    base_ = SnapshotParent{path, info.identity};
    lineage_ = std::move(lineage);
    dirty_.assign(dirty::words_for(memory_.size() / devices::kPageSize), 0);
  }
  return info;
}

void Snapshots::stop_tracking() {
  std::lock_guard lock(mutex_);
  tracker_.reset();
  base_.reset();
  lineage_.clear();
  dirty_ = {};
}

}  // namespace hypertwin::machine
