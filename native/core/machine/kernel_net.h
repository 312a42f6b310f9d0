// A network of the standard board whose packets the kernel moves while it can: the device lends it its
// queues. The guest notifies the kernel, and is interrupted by it, without this process; but where the guest
// has masked an interrupt or shares a line, the network's thread stands between.
#pragma once

#include <array>
#include <atomic>

#include "backends/vhost_net.h"
#include "base/fd.h"
#include "machine/standard_board.h"

namespace hypertwin::machine {

// The function's mutex is held in all calls, but where said.
class KernelNet {
 public:
  static constexpr unsigned kQueues = backends::VhostNet::kQueues;

  // Throws as VhostNet does. All outlive this.
  KernelNet(StandardBoard::Function& function, devices::GuestRam& ram, int tap);
  KernelNet(const KernelNet&) = delete;
  KernelNet& operator=(const KernelNet&) = delete;

  // Any thread, without the mutex too.
  bool serving() const { return serving_.load(std::memory_order_relaxed); }
  // Begins, where the device has something to lend. Called by the network's thread, which looks at the
  // following instead of at the device's doorbells and the tap while serving() is true.
  void serve();
  // To the device, as the kernel leaves them.
  void give_back();
  // The guest has reset the device.
  void forget();

  // Readable when the guest wants an interrupt by the network's thread, or when that is to look around.
  int called(unsigned queue) const { return calls_[queue].get(); }
  void on_called(unsigned queue);
  // Readable when the guest broke a queue.
  int broken() const { return vhost_.broken(); }
  void on_broken();

 private:
  std::array<uint16_t, kQueues> stop();
  void take_back(const std::array<uint16_t, kQueues>& next_available);
  int call_of(unsigned queue) const;

  StandardBoard::Function& function_;
  backends::VhostNet vhost_;
  int tap_;
  std::array<Fd, kQueues> calls_;
  std::atomic<bool> serving_{false};
  bool hopeless_ = false;  // the kernel refuses, of this driver
};

}  // namespace hypertwin::machine
