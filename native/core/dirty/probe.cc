#include "dirty/probe.h"

#include "dirty/tiny_guest.h"

#if defined(__x86_64__)

#include <algorithm>
#include <string>

#include "base/error.h"

namespace hypertwin::dirty {

namespace {

constexpr uint64_t kDataSize = 16 << 20;
constexpr uint64_t kPages = kDataSize / devices::kPageSize;
// The smallest that every CPU's KVM takes: an Intel one reserves 576 entries.
constexpr uint32_t kSmallRing = 16 * 1024;
// KVM ends KVM_RUN when 64 entries (and what a CPU logs by itself) are left. One instruction may dirty a few
// pages more.
constexpr uint32_t kMostEntries = kSmallRing / sizeof(kvm_dirty_gfn) - 64 + 8;

struct Step {
  uint64_t first, stride, count;  // pages
};
// A host that overruns its 1024 entries loses pages, or never comes back from KVM_RUN: a little too many
// come first, since a loss is the sooner told of the two. One page after nothing shows what stayed behind.
constexpr Step kSteps[] = {{3, 2, 5},      {0, 1, 1100}, {7, 1, 1500},       {0, 1, 2500},
                           {0, 1, kPages}, {0, 1, 0},    {kPages - 1, 1, 1}, {0, 1, kPages}};

}  // namespace

ProbeResult probe(const std::shared_ptr<kvm::System>& system, Mode mode, bool user) {
  const std::string where = user ? "guest writes at CPL 3" : "guest writes at CPL 0";
  try {
    TinyGuest guest(
        system, {.data_size = kDataSize, .ring_bytes = mode == Mode::kRing ? kSmallRing : 0, .user = user});
    Tracker tracker(guest.target(), {.mode = mode});
    uint32_t most = 0;
    guest.on_ring_full([&] {
      uint32_t entries = tracker.on_ring_full();
      if (entries == 0) throw Error("GUEST", "the ring is full, and holds nothing");
      most = std::max(most, entries);
    });
    tracker.start();
    Harvest harvest;
    uint64_t extra = 0;
    uint64_t value = 1;
    for (const Step& step : kSteps) {
      guest.fill(step.first * devices::kPageSize, step.stride * devices::kPageSize, step.count, value++);
      tracker.harvest(harvest);
      const SlotHarvest& data = harvest.slots.at(TinyGuest::kDataSlot);
      uint64_t found = 0;
      for (uint64_t i = 0; i < step.count; ++i) found += data.has(step.first + i * step.stride);
      if (found < step.count)
        return {false, where + ": " + std::to_string(step.count - found) + " of " +
                           std::to_string(step.count) + " written pages were not reported"};
      if (most > kMostEntries)
        return {false, where + ": the vCPU ran on to " + std::to_string(most) +
                           " entries of a ring that ends it at " + std::to_string(kMostEntries) +
                           ", so it can overrun and lose pages"};
      extra += data.pages - found;
    }
    tracker.stop();
    if (extra) return {true, where + ": every written page reported, and " + std::to_string(extra) + " more"};
    return {true, where + ": exact, page for page"};
  } catch (const Error& error) {
    return {false, where + ": " + error.what()};
  }
}

}  // namespace hypertwin::dirty

#endif
