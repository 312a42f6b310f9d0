// What a replica's guest sent while it replayed, kept until the primary says that it let it out: what is left
// when the primary is lost is sent again. Learns the guest's addresses on the way.
#pragma once

#include <deque>
#include <mutex>
#include <vector>

#include "ha/announcer.h"
#include "machine/machine.h"

namespace hypertwin::ha {

class RetainedOutputs final : public machine::Outputs {
 public:
  struct Output {
    uint32_t device = 0;
    bool packet = false;
    std::vector<uint8_t> bytes;
  };

  // Beyond `limit` bytes the oldest go.
  RetainedOutputs(std::vector<Mac> macs, size_t limit) : announcer_(std::move(macs)), limit_(limit) {}

  // The vCPU's thread.
  void packet(uint64_t ordinal, uint32_t device, std::span<const uint8_t> packet) override;
  void console(uint64_t ordinal, uint32_t device, std::span<const uint8_t> bytes) override;
  // The vCPU's thread: comes to the guest.
  void heard(uint32_t device, std::span<const uint8_t> packet) { announcer_.heard(device, packet); }
  // Any thread: the primary let out so many, counted as here from the state on.
  void released(uint64_t count);
  // The vCPU's thread, when the machine goes live: what nobody let out, in order.
  std::deque<Output> take();
  const Announcer& announcer() const { return announcer_; }

  size_t held() const;
  size_t held_bytes() const;

 private:
  void keep(bool packet, uint32_t device, std::span<const uint8_t> bytes);
  // The mutex is held.
  void trim();

  Announcer announcer_;  // vCPU's thread
  const size_t limit_;
  mutable std::mutex mutex_;  // guards the rest
  std::deque<Output> outputs_;
  uint64_t first_ = 0;  // number of the first one in outputs_
  uint64_t released_ = 0;
  size_t bytes_ = 0;
};

}  // namespace hypertwin::ha
