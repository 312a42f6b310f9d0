// Dirty-page tracking of one VM: one interface over KVM's bitmap, its bitmap with manual clear, and its
// dirty ring, with the writes of devices and of the host merged in. Reads and writes no guest memory, and
// knows no machine.
//
// The order that makes it exact: harvest() first takes note of the pages and makes KVM watch them again,
// then returns; only then does the caller read those pages. A write that comes after the note is in the next
// harvest; one that came before is in the bytes that the caller reads. Devices mark a page after they have
// written its bytes, for the same reason.
//
// What a harvest of a running VM may not have yet: a write that its CPU has not told KVM of (Intel's page
// modification log while in ring mode). It is never lost, it is in a later harvest. A harvest that shall hold
// everything up to now (the last round of a migration, a snapshot) needs the vCPUs out of KVM_RUN: kick them
// and wait, then harvest.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "devices/guest_ram.h"
#include "dirty/bitmap.h"
#include "kvm/dirty_ring.h"
#include "kvm/kvm.h"

namespace hypertwin::dirty {

enum class Mode {
  kBitmap,  // KVM_GET_DIRTY_LOG reads and protects again in one step
  kManual,  // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: read, then clear what was read, in chunks
  kRing,    // KVM_CAP_DIRTY_LOG_RING
};
std::string_view to_string(Mode mode);
// Throws Error("DIRTY_MODE") for another text than to_string gives.
Mode mode_from(std::string_view text);

// What is tracked. `ram` is null where the host writes no guest memory.
struct Target {
  std::shared_ptr<kvm::Vm> vm;
  std::vector<std::shared_ptr<kvm::Vcpu>> vcpus;  // all of the VM's; only the ring needs them
  std::shared_ptr<devices::GuestRam> ram;
};

struct SlotHarvest {
  uint32_t slot = 0;
  uint64_t guest_address = 0;
  uint64_t page_count = 0;       // of the slot
  uint64_t pages = 0;            // dirty ones
  std::vector<uint64_t> bitmap;  // one bit a page, words_for(page_count) words

  Ranges ranges() const { return Ranges(bitmap); }
  bool has(uint64_t page) const { return page < page_count && (bitmap[page / 64] >> (page % 64) & 1); }
};

// Reuse one: a harvest into it allocates nothing after the first.
struct Harvest {
  std::vector<SlotHarvest> slots;  // ascending slot numbers
  uint64_t pages = 0;              // dirty ones of all slots
  uint64_t sequence = 0;           // 1 for the first of a tracker
  uint64_t started_ns = 0;         // CLOCK_MONOTONIC; the end of the harvest before, or of start()
  uint64_t ended_ns = 0;           // CLOCK_MONOTONIC, when this one was complete
  uint64_t bytes() const { return pages * devices::kPageSize; }
};

// Ring size in bytes for KVM_ENABLE_CAP when the user says nothing: 4096 entries for each vCPU.
inline constexpr uint32_t kDefaultRingBytes = 64 * 1024;
// Turns the ring on. Before the first vCPU is created; bytes a power of two.
void enable_ring(kvm::Vm& vm, uint32_t bytes = kDefaultRingBytes);

// All calls may come from any thread. At most one started tracker a VM.
class Tracker {
 public:
  struct Options {
    Mode mode = Mode::kManual;
    std::vector<uint32_t> slots{};  // empty: every writable slot that the VM has now
    bool everything_first = false;  // the first harvest reports every page: the first round of a migration
    // Manual mode: pages a clear, so that a running vCPU never waits for a whole huge slot.
    uint64_t clear_chunk_pages = uint64_t{1} << 18;
  };

  // Throws Error: DIRTY_SLOT (no such slot, or the RAM does not match it), DIRTY_RING (ring mode of a VM
  // without a ring, or another mode of a VM with one), DIRTY_MODE (this kernel lacks the mode).
  Tracker(Target target, Options options);
  // As stop(), but swallows errors.
  ~Tracker();
  Tracker(const Tracker&) = delete;
  Tracker& operator=(const Tracker&) = delete;

  // From its return on, every page written is in a harvest. The vCPUs may run meanwhile. DIRTY_BUSY when the
  // VM has a started tracker.
  void start();
  // Turns logging off where start() turned it on.
  void stop();
  bool started() const;
  // Pages written since the harvest before, or since start(). DIRTY_STOPPED before start().
  void harvest(Harvest& into);
  // Ring mode: empties the rings and keeps the entries for the next harvest. While started, a vCPU's loop
  // gets here by kvm::Vm::handle_ring_full at KVM_EXIT_DIRTY_RING_FULL. Harmless otherwise. Returns how many
  // entries there were: 0 for a full ring means that the host overran it, and the vCPU would never get on.
  uint32_t on_ring_full();

  Mode mode() const { return options_.mode; }
  const Target& target() const { return target_; }

  // For tests alone: leaves the first dirty page out of every harvest.
  void plant_skipped_page() { skip_one_page_ = true; }

 private:
  struct Tracked {
    uint32_t slot;
    uint64_t guest_address;
    uint64_t page_count;
    int ram_region;  // -1: none
    bool was_logging = false;
    std::vector<uint64_t> pending{};  // ring mode: taken out of the ring, not yet harvested
  };

  void turn_on(Tracked& tracked);
  uint32_t drain_rings();
  void clear(const Tracked& tracked, std::span<const uint64_t> bitmap) const;
  void start_locked();
  void stop_locked();
  void attach();
  void detach();

  // What the VM calls; it may outlive this tracker by one call.
  struct RingFull {
    std::mutex mutex;  // guards tracker; taken before the tracker's own
    Tracker* tracker = nullptr;
  };

  const Target target_;
  const Options options_;
  const std::shared_ptr<RingFull> ring_full_ = std::make_shared<RingFull>();
  std::mutex control_;        // held by start() and stop(), before any other
  mutable std::mutex mutex_;  // guards all below
  bool started_ = false;
  bool watching_ = false;  // the RAM
  bool first_ = true;
  bool skip_one_page_ = false;
  uint64_t sequence_ = 0;
  uint64_t last_ns_ = 0;
  std::vector<Tracked> tracked_;
  std::vector<kvm::DirtyRing> rings_;
};

}  // namespace hypertwin::dirty
