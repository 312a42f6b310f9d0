// A machine's RAM and where it came from: memory of its own, or a snapshot's file mapped copy on write. Knows
// which pages can hold anything, and which differ from the file, without touching the others.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "devices/guest_ram.h"
#include "kvm/kvm.h"
#include "machine/snapshot.h"

namespace hypertwin::machine {

class MachineMemory {
 public:
  // Zero.
  explicit MachineMemory(uint64_t size);
  // The snapshot's. What it adds to the full one is not there before settle().
  explicit MachineMemory(SnapshotChain chain);

  const std::shared_ptr<kvm::GuestMemory>& guest() const { return guest_; }
  uint8_t* data() const { return guest_->data(); }
  uint64_t size() const { return guest_->size(); }
  // Mapped memory: undoes what was written to it since. Throws Error("CORRUPT"); reads nothing of the full
  // snapshot. Else does nothing.
  void settle();
  // Empty, or the snapshot it is mapped from; the full one is the last.
  const SnapshotChain& chain() const { return chain_; }

  // Calls `run` with [first page, pages) of each run of pages that are not all zero, in ascending order.
  void for_each_run(const std::function<void(uint64_t first, uint64_t pages)>& run) const;
  // Of the pages of a bitmap: the runs of those that are zero, and of those that are not.
  void for_each_run_of(std::span<const uint64_t> bitmap,
                       const std::function<void(uint64_t first, uint64_t pages, bool zero)>& run) const;
  // Covers the address and content of each page that is not all zero.
  Digest128 digest() const;
  // Mapped memory: the pages that can differ from the full snapshot's, one bit a page.
  std::vector<uint64_t> changed() const;
  // Gives pages back to the host; they are zero from now on. Any thread.
  void discard(uint64_t offset, uint64_t size);

 private:
  using Candidates = std::function<void(uint64_t begin, uint64_t end)>;
  void for_each_candidate(const Candidates& candidates) const;

  SnapshotChain chain_;
  std::shared_ptr<kvm::GuestMemory> guest_;
  std::vector<uint64_t> in_file_;                       // mapped: pages that the full snapshot holds
  std::unique_ptr<std::atomic<uint64_t>[]> discarded_;  // mapped: pages that are no longer the file's
};

// Looks after a machine that runs from a snapshot's file: checks the file behind it, and notices when the
// file loses bytes.
class OriginWatch {
 public:
  // `on_loss` is called once at most, on a thread of this, with why the machine's memory cannot be trusted.
  OriginWatch(const MachineMemory& memory, bool verify, std::function<void(const Error&)> on_loss);
  ~OriginWatch();

 private:
  void main(const std::function<void(const Error&)>& on_loss);
  const SnapshotChain chain_;
  const std::shared_ptr<kvm::GuestMemory> guest_;
  const bool verify_;
  std::atomic<bool> quit_{false};
  Fd quit_event_;
  std::thread thread_;
};

}  // namespace hypertwin::machine
