// A whole small VM whose guest writes exactly the pages it is told to, from CPL 3 or CPL 0: for probing what
// a host's dirty tracking really does, and for tests and benchmarks of it. x86-64. Not a machine: no devices.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "dirty/tracker.h"
#include "kvm/kvm.h"

namespace hypertwin::dirty {

class TinyGuest {
 public:
  struct Options {
    uint64_t data_size = 1 << 20;  // bytes, whole pages, up to 3 GiB
    uint32_t ring_bytes = 0;       // 0: no dirty ring
    bool user = true;              // CPL 3; else CPL 0
    kvm::GuestMemory::Backing backing = kvm::GuestMemory::Backing::kAnonymous;
  };
  // Slot 0 holds tables and code, slot 1 the data at kDataAddress.
  static constexpr uint32_t kSystemSlot = 0;
  static constexpr uint32_t kDataSlot = 1;
  static constexpr uint64_t kDataAddress = 2 << 20;

  TinyGuest(const std::shared_ptr<kvm::System>& system, const Options& options);

  // Each runs the guest on the calling thread until it has done what was asked. False when stop() ended it
  // earlier. Throws Error("GUEST") when the guest ends in any other way.
  // Writes `value` at data offset `offset`, offset + stride, …, `count` times.
  bool fill(uint64_t offset, uint64_t stride, uint64_t count, uint64_t value);
  // Writes value, value + 1, … at `count` pseudo-random 8-byte places of the data, whose size must be a
  // power of two. `seed` is not 0.
  bool scatter(uint64_t seed, uint64_t count, uint64_t value);

  // From any thread: the run under way, or else the next, returns false soon.
  void stop();
  // What the run loop calls when the ring is full, in place of kvm::Vm::handle_ring_full.
  void on_ring_full(std::function<void()> call) { ring_full_ = std::move(call); }
  uint64_t ring_full_exits() const { return ring_full_exits_; }

  // `ram` of it is a GuestRam over both slots.
  const Target& target() const { return target_; }
  uint8_t* data() const { return data_->data(); }
  uint64_t data_size() const { return data_->size(); }
  uint64_t data_pages() const { return data_->size() / devices::kPageSize; }

 private:
  void set_up();
  bool run();

  const bool user_;
  std::shared_ptr<kvm::GuestMemory> low_;
  std::shared_ptr<kvm::GuestMemory> data_;
  Target target_;
  std::shared_ptr<kvm::Vcpu> vcpu_;
  std::function<void()> ring_full_;
  uint64_t ring_full_exits_ = 0;
  std::atomic<bool> stop_{false};
};

}  // namespace hypertwin::dirty
