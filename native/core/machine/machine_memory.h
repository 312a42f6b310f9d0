// A machine's RAM and where it came from: memory of its own, or a snapshot's file mapped copy on write. Knows
// which pages can hold anything, and which differ from the file, without touching the others.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "devices/guest_ram.h"
#include "kvm/kvm.h"
#include "machine/pager.h"
#include "machine/snapshot.h"

namespace hypertwin::machine {

class OriginWatch;

class MachineMemory {
 public:
  // Zero.
  explicit MachineMemory(uint64_t size);
  ~MachineMemory();
  // The snapshot's, mapped. What it adds to the full one is not there before settle().
  explicit MachineMemory(SnapshotChain chain);
  // The full snapshot's, brought by a pager from `source`.
  MachineMemory(std::shared_ptr<const SnapshotFile> snapshot, std::shared_ptr<PageSource> source,
                Pager::Options options);

  const std::shared_ptr<kvm::GuestMemory>& guest() const { return guest_; }
  uint8_t* data() const { return guest_->data(); }
  uint64_t size() const { return guest_->size(); }
  // A snapshot's: undoes what was written to it since. Throws Error("CORRUPT"); reads nothing of the full
  // snapshot. Else does nothing.
  void settle();
  // Empty, or the snapshot it is mapped from; the full one is the last.
  const SnapshotChain& chain() const { return chain_; }
  // nullptr where there is none.
  Pager* pager() const { return pager_.get(); }
  // Calls when the memory cannot be trusted any more, as Pager does, until it is given another function. With
  // `verify`, mapped memory's file is checked behind.
  void watch(bool verify, Pager::OnFailure on_loss);
  void stop_watching();
  // What was read of it so far is what the guest had: no page of it was lost.
  bool intact() const;
  // Of what is about to leave the machine from these parts of it: brings what has not come, then as intact().
  bool may_leave(std::span<const iovec> parts) const;
  // Throws why the memory cannot be trusted.
  void check() const;
  // Brings nothing any more: who waits for a page gets one of zeros.
  void give_up();

  // Calls `run` with [first page, pages) of each run of pages that are not all zero, in ascending order. With
  // `before`, which is told of the next few pages before they are looked at: what it throws ends this.
  void for_each_run(const std::function<void(uint64_t first, uint64_t pages)>& run,
                    const std::function<void(uint64_t first, uint64_t pages)>& before = {}) const;
  // Of the pages of a bitmap: the runs of those that are zero, and of those that are not.
  void for_each_run_of(std::span<const uint64_t> bitmap,
                       const std::function<void(uint64_t first, uint64_t pages, bool zero)>& run) const;
  // Covers the address and content of each page that is not all zero.
  Digest128 digest() const;
  // The pages that can differ from the full snapshot's, or from zeros where there is none, one bit a page.
  std::vector<uint64_t> changed() const;
  // Gives pages back to the host; they are zero from now on. Any thread.
  void discard(uint64_t offset, uint64_t size);

 private:
  using Candidates = std::function<void(uint64_t begin, uint64_t end)>;
  void for_each_candidate(const Candidates& candidates) const;
  void know(const SnapshotFile& full);

  SnapshotChain chain_;
  std::shared_ptr<kvm::GuestMemory> guest_;
  std::vector<uint64_t> in_file_;  // pages that the full snapshot holds; empty where there is none
  std::unique_ptr<std::atomic<uint64_t>[]> discarded_;  // mapped: pages that are no longer the file's
  std::mutex mutex_;                                    // guards on_loss_
  Pager::OnFailure on_loss_;
  std::unique_ptr<OriginWatch> origin_watch_;
  std::unique_ptr<Pager> pager_;
};

// A snapshot's pages, from its file.
class FilePages final : public PageSource {
 public:
  explicit FilePages(std::shared_ptr<const SnapshotFile> file) : file_(std::move(file)) {}
  void read(uint64_t first, std::span<uint8_t> into, bool /*urgent*/) override {
    file_->read_pages(first, into);
  }
  bool here(uint64_t /*first*/, uint64_t /*pages*/) const override { return true; }
  void cancel() override {}

 private:
  const std::shared_ptr<const SnapshotFile> file_;
};

}  // namespace hypertwin::machine
