// The kernel's side of a virtio-net device (vhost-net): a thread of its own moves packets between a tap and
// the guest's queues, and nothing of it passes this process.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/fd.h"
#include "devices/guest_ram.h"

namespace hypertwin::backends {

// Any thread, one at a time but for OtherWriter's.
class VhostNet final : public devices::OtherWriter {
 public:
  static constexpr unsigned kQueues = 2;
  struct Queue {
    uint16_t size = 0;
    uint64_t descriptors = 0, driver = 0, device = 0;  // guest physical
    uint16_t next_available = 0;                       // what it takes first
    int kick = -1;                                     // readable when the guest has notified it
    int call = -1;                                     // written when the guest wants an interrupt
  };

  // Throws Error of opening /dev/vhost-net (ENOENT: module vhost_net missing; EACCES), or of a failed call.
  // The RAM outlives this.
  explicit VhostNet(devices::GuestRam& ram);
  ~VhostNet() override;
  VhostNet(const VhostNet&) = delete;
  VhostNet& operator=(const VhostNet&) = delete;

  // Whether it can serve a guest that uses these features of virtio.
  bool can_serve(uint64_t features) const;
  // Serves them until stop(), with packets of virtio's header at the tap. False where the kernel cannot serve
  // such queues at this tap; it may have begun, and next_available is then where it has ended.
  [[nodiscard]] bool start(uint64_t features, std::array<Queue, kQueues>& queues, int tap);
  // Both queues' next_available: everything before is used. Nothing is touched any more.
  std::array<uint16_t, kQueues> stop();
  bool running() const { return running_; }
  void set_call(unsigned queue, int fd);
  // Readable when a queue of the guest's broke the rules.
  int broken() const { return broken_.get(); }

  void set_log(bool on) override;
  void mark_written() override;

 private:
  void call(unsigned long request, const void* argument, const char* name) const;
  void set_backend(unsigned queue, int tap) const;
  void set_features() const;
  void set_up(unsigned index, const Queue& queue, int tap) const;
  uint16_t next_available(unsigned queue) const;
  void mark_used_rings();

  devices::GuestRam& ram_;
  Fd fd_;
  Fd broken_;
  uint64_t offered_ = 0;
  std::mutex mutex_;  // guards the following
  uint64_t features_ = 0;
  std::array<Queue, kQueues> queues_{};
  bool running_ = false;
  bool logs_ = false;
  size_t words_ = 0;
  std::unique_ptr<std::atomic<uint64_t>[]> log_;  // a bit for each guest page from 0; the kernel sets them
};

}  // namespace hypertwin::backends
