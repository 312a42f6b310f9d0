#include "dirty/tracker.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"

namespace hypertwin::dirty {

namespace {

// VMs with a started tracker: a second one would steal the first one's pages.
class Busy {
 public:
  static bool enter(const kvm::Vm* vm) {
    std::lock_guard lock(mutex());
    return all().insert(vm).second;
  }
  static void leave(const kvm::Vm* vm) {
    std::lock_guard lock(mutex());
    all().erase(vm);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex guards_all;
    return guards_all;
  }
  static std::set<const kvm::Vm*>& all() {
    static std::set<const kvm::Vm*> vms;
    return vms;
  }
};

uint64_t manual_caps(const kvm::Vm& vm) {
  return static_cast<uint64_t>(std::max(0, vm.check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)));
}

// All pages of a slot of `page_count`.
void fill(std::span<uint64_t> bitmap, uint64_t page_count) {
  std::fill(bitmap.begin(), bitmap.end(), ~uint64_t{0});
  if (page_count % 64 && !bitmap.empty()) bitmap.back() = (uint64_t{1} << (page_count % 64)) - 1;
}

int region_for(const devices::GuestRam* ram, const kvm::Slot& slot) {
  if (!ram) return -1;
  const auto& regions = ram->regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    if (regions[i].slot != slot.slot) continue;
    if (regions[i].guest_address != slot.guest_address || regions[i].size > slot.size)
      throw Error("DIRTY_SLOT", "the RAM region of slot " + std::to_string(slot.slot) +
                                    " is elsewhere than the slot: devices' writes could not be matched");
    return static_cast<int>(i);
  }
  return -1;
}

}  // namespace

std::string_view to_string(Mode mode) {
  switch (mode) {
    case Mode::kBitmap:
      return "bitmap";
    case Mode::kManual:
      return "manual";
    case Mode::kRing:
      return "ring";
  }
  return "?";
}

Mode mode_from(std::string_view text) {
  for (Mode mode : {Mode::kBitmap, Mode::kManual, Mode::kRing})
    if (to_string(mode) == text) return mode;
  throw Error("DIRTY_MODE", "no tracking mode \"" + std::string(text) + "\": use bitmap, manual or ring");
}

void enable_ring(kvm::Vm& vm, uint32_t bytes) {
  if (vm.dirty_ring_bytes() == bytes) return;
  uint32_t cap = vm.check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0 ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL
                                                                        : KVM_CAP_DIRTY_LOG_RING;
  int largest = vm.check_extension(cap);
  if (largest <= 0) throw Error("DIRTY_MODE", "this kernel offers no dirty ring (KVM_CAP_DIRTY_LOG_RING)");
  if (bytes > static_cast<uint32_t>(largest))
    throw Error("DIRTY_RING", "a dirty ring of " + std::to_string(bytes) + " bytes is beyond this kernel's " +
                                  std::to_string(largest));
  vm.enable_cap(cap, bytes);
}

Tracker::Tracker(Target target, Options options) : target_(std::move(target)), options_(std::move(options)) {
  kvm::Vm& vm = *target_.vm;
  bool ring = options_.mode == Mode::kRing;
  if (ring && vm.dirty_ring_bytes() == 0)
    throw Error("DIRTY_RING", "this VM has no dirty ring: turn it on before the first vCPU is created");
  if (!ring && vm.dirty_ring_bytes() != 0)
    throw Error("DIRTY_RING", "this VM uses the dirty ring: track it in ring mode");
  if (options_.mode == Mode::kManual && manual_caps(vm) == 0)
    throw Error("DIRTY_MODE", "this kernel offers no manual clear (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)");
  if (options_.clear_chunk_pages == 0 || options_.clear_chunk_pages % 64 ||
      options_.clear_chunk_pages > uint64_t{1} << 31)
    throw Error("EINVAL", "clear_chunk_pages must be a multiple of 64, up to 2^31");

  auto track = [&](const kvm::Slot& slot) {
    uint64_t pages = slot.size / devices::kPageSize;
    tracked_.push_back({slot.slot, slot.guest_address, pages, region_for(target_.ram.get(), slot)});
    if (ring) tracked_.back().pending.resize(words_for(pages));
  };
  if (options_.slots.empty()) {
    for (const kvm::Slot& slot : vm.slots())
      if (!(slot.flags & KVM_MEM_READONLY)) track(slot);
  } else {
    std::set<uint32_t> wanted(options_.slots.begin(), options_.slots.end());
    for (uint32_t number : wanted) {
      auto slot = vm.slot(number);
      if (!slot) throw Error("DIRTY_SLOT", "no memory slot " + std::to_string(number) + " to track");
      track(*slot);
    }
  }
  if (ring)
    for (const auto& vcpu : target_.vcpus) rings_.emplace_back(vcpu);
}

Tracker::~Tracker() {
  try {
    stop();
  } catch (const Error&) {  // the VM goes its own way: nothing to report to
  }
}

bool Tracker::started() const {
  std::lock_guard lock(mutex_);
  return started_;
}

void Tracker::turn_on(Tracked& tracked) {
  auto slot = target_.vm->slot(tracked.slot);
  if (!slot || slot->guest_address != tracked.guest_address ||
      slot->size != tracked.page_count * devices::kPageSize)
    throw Error("DIRTY_SLOT", "memory slot " + std::to_string(tracked.slot) + " was changed or removed");
  tracked.was_logging = (slot->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
  if (tracked.was_logging) return;
  slot->flags |= KVM_MEM_LOG_DIRTY_PAGES;
  target_.vm->set_user_memory_region(*slot);
}

void Tracker::start() {
  std::lock_guard control(control_);
  if (started()) return;
  if (!Busy::enter(target_.vm.get()))
    throw Error("DIRTY_BUSY", "another tracker of this VM is started: stop it first, each would miss pages");
  attach();
  try {
    std::lock_guard lock(mutex_);
    start_locked();
  } catch (...) {
    detach();
    throw;
  }
}

void Tracker::start_locked() {
  kvm::Vm& vm = *target_.vm;
  started_ = true;
  try {
    if (target_.ram) {
      target_.ram->watch();
      watching_ = true;
    }
    // Each mode sets the capability: an earlier tracker of this VM may have wanted the other. In ring mode
    // "initially all set" would leave pages unwatched.
    uint64_t caps = manual_caps(vm);
    if (caps) vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, options_.mode == Mode::kManual ? caps : 0);
    if (target_.ram)
      for (Tracked& tracked : tracked_)
        if (tracked.ram_region >= 0) {
          std::vector<uint64_t> old(words_for(tracked.page_count));
          target_.ram->take_written(static_cast<size_t>(tracked.ram_region), old);
        }
    for (Tracked& tracked : tracked_) {
      turn_on(tracked);
      std::vector<uint64_t> old(words_for(tracked.page_count));
      if (options_.mode == Mode::kManual) {
        // Everything is set at first and nothing watched yet; what was set before is cleared with it.
        fill(old, tracked.page_count);
        clear(tracked, old);
      } else if (options_.mode == Mode::kBitmap && tracked.was_logging) {
        vm.get_dirty_log(tracked.slot, old);
      }
    }
    if (options_.mode == Mode::kRing) {
      drain_rings();
      for (Tracked& tracked : tracked_) std::fill(tracked.pending.begin(), tracked.pending.end(), 0);
    }
    first_ = true;
    last_ns_ = now_ns();
  } catch (...) {
    try {
      stop_locked();
    } catch (const Error&) {  // the first error says more
    }
    throw;
  }
}

void Tracker::stop() {
  std::lock_guard control(control_);
  try {
    std::lock_guard lock(mutex_);
    stop_locked();
  } catch (...) {
    detach();
    throw;
  }
  // Last: until the slots are no longer logged, a full ring must find its reader.
  detach();
}

void Tracker::attach() {
  {
    std::lock_guard lock(ring_full_->mutex);
    ring_full_->tracker = this;
  }
  target_.vm->set_ring_full_handler([ring_full = ring_full_] {
    std::lock_guard lock(ring_full->mutex);
    if (ring_full->tracker) ring_full->tracker->on_ring_full();
  });
}

void Tracker::detach() {
  {
    std::lock_guard lock(ring_full_->mutex);
    if (!ring_full_->tracker) return;
    ring_full_->tracker = nullptr;
  }
  target_.vm->set_ring_full_handler({});
  Busy::leave(target_.vm.get());
}

void Tracker::stop_locked() {
  if (!started_) return;
  started_ = false;
  if (std::exchange(watching_, false)) target_.ram->unwatch();
  for (Tracked& tracked : tracked_) {
    auto slot = target_.vm->slot(tracked.slot);
    if (tracked.was_logging || !slot || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES)) continue;
    slot->flags &= ~static_cast<uint32_t>(KVM_MEM_LOG_DIRTY_PAGES);
    target_.vm->set_user_memory_region(*slot);
  }
  // Leaves no vCPU waiting for a reader.
  drain_rings();
}

uint32_t Tracker::drain_rings() {
  uint32_t taken = 0;
  for (kvm::DirtyRing& ring : rings_)
    taken += ring.harvest([&](uint32_t slot, uint64_t page) {
      auto found = std::find_if(tracked_.begin(), tracked_.end(),
                                [&](const Tracked& tracked) { return tracked.slot == slot; });
      if (found != tracked_.end() && page < found->page_count)
        found->pending[page / 64] |= uint64_t{1} << (page % 64);
    });
  if (taken) target_.vm->reset_dirty_rings();
  return taken;
}

void Tracker::clear(const Tracked& tracked, std::span<const uint64_t> bitmap) const {
  const uint64_t chunk_words = options_.clear_chunk_pages / 64;
  for (size_t word = find_other_than(bitmap, 0, 0); word < bitmap.size();) {
    size_t words = static_cast<size_t>(std::min<uint64_t>(chunk_words, bitmap.size() - word));
    uint64_t first = uint64_t{word} * 64;
    uint64_t pages = std::min<uint64_t>(uint64_t{words} * 64, tracked.page_count - first);
    target_.vm->clear_dirty_log(tracked.slot, first, static_cast<uint32_t>(pages),
                                bitmap.subspan(word, words));
    word = find_other_than(bitmap, word + words, 0);
  }
}

uint32_t Tracker::on_ring_full() {
  std::lock_guard lock(mutex_);
  return started_ && options_.mode == Mode::kRing ? drain_rings() : 0;
}

void Tracker::harvest(Harvest& into) {
  std::lock_guard lock(mutex_);
  if (!started_) throw Error("DIRTY_STOPPED", "the tracker is not started");
  into.slots.resize(tracked_.size());
  into.pages = 0;
  if (options_.mode == Mode::kRing) drain_rings();
  for (size_t i = 0; i < tracked_.size(); ++i) {
    Tracked& tracked = tracked_[i];
    SlotHarvest& slot = into.slots[i];
    slot.slot = tracked.slot;
    slot.guest_address = tracked.guest_address;
    slot.page_count = tracked.page_count;
    slot.bitmap.resize(words_for(tracked.page_count));
    switch (options_.mode) {
      case Mode::kBitmap:
        target_.vm->get_dirty_log(tracked.slot, slot.bitmap);
        break;
      case Mode::kManual:
        target_.vm->get_dirty_log(tracked.slot, slot.bitmap);
        clear(tracked, slot.bitmap);
        break;
      case Mode::kRing:
        slot.bitmap.swap(tracked.pending);
        std::fill(tracked.pending.begin(), tracked.pending.end(), 0);
        break;
    }
    if (tracked.ram_region >= 0)
      target_.ram->take_written(static_cast<size_t>(tracked.ram_region), slot.bitmap);
    if (first_ && options_.everything_first) fill(slot.bitmap, tracked.page_count);
    if (skip_one_page_)
      if (size_t word = find_other_than(slot.bitmap, 0, 0); word < slot.bitmap.size())
        slot.bitmap[word] &= slot.bitmap[word] - 1;
    slot.pages = popcount(slot.bitmap);
    into.pages += slot.pages;
  }
  first_ = false;
  into.sequence = ++sequence_;
  into.started_ns = last_ns_;
  into.ended_ns = last_ns_ = now_ns();
}

}  // namespace hypertwin::dirty
