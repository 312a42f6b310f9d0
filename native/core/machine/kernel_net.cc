#include "machine/kernel_net.h"

#include <sys/eventfd.h>

#include "base/error.h"
#include "base/event.h"

namespace hypertwin::machine {

KernelNet::KernelNet(StandardBoard::Function& function, devices::GuestRam& ram, int tap)
    : function_(function), vhost_(ram), tap_(tap) {
  for (Fd& call : calls_) {
    call = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!call) throw_errno("eventfd", "for a queue's interrupts");
  }
  function_.pci().watch_interrupts([this] {
    for (unsigned i = 0; i < kQueues; ++i) vhost_.set_call(i, call_of(i));
  });
}

int KernelNet::call_of(unsigned queue) const {
  const int event = function_.pci().queue_event(queue);
  return event >= 0 ? event : calls_[queue].get();
}

void KernelNet::serve() {
  auto& device = function_.as<devices::VirtioNet>();
  if (hopeless_ || device.lent() || !vhost_.can_serve(device.negotiated()) || !device.lend_queues()) return;
  std::array<backends::VhostNet::Queue, kQueues> queues;
  for (unsigned i = 0; i < kQueues; ++i) {
    const devices::VirtQueue& queue = device.queues()[i];
    queues[i] = {.size = queue.size,
                 .descriptors = queue.descriptors,
                 .driver = queue.driver,
                 .device = queue.device,
                 .next_available = queue.next_available(),
                 .kick = function_.doorbell(i),
                 .call = call_of(i)};
  }
  // What an earlier driver broke.
  unring(vhost_.broken());
  serving_ = vhost_.start(device.negotiated(), queues, tap_);
  if (!serving()) {
    hopeless_ = true;
    return take_back({queues[0].next_available, queues[1].next_available});
  }
  // What the guest notified before.
  function_.ring_doorbells();
}

std::array<uint16_t, KernelNet::kQueues> KernelNet::stop() {
  if (!serving()) return {};
  serving_ = false;
  ring(calls_[0].get());
  return vhost_.stop();
}

void KernelNet::give_back() {
  if (serving()) take_back(stop());
}

void KernelNet::take_back(const std::array<uint16_t, kQueues>& next_available) {
  function_.as<devices::VirtioNet>().take_queues(next_available);
  // An interrupt may have been on its way through calls_, and it may have stopped before it had taken all.
  for (unsigned i = 0; i < kQueues; ++i) function_.pci().queue_interrupt(i);
  function_.ring_doorbells();
}

void KernelNet::forget() {
  stop();
  hopeless_ = false;
}

void KernelNet::on_called(unsigned queue) {
  unring(calls_[queue].get());
  if (serving()) function_.pci().queue_interrupt(queue);
}

void KernelNet::on_broken() {
  unring(vhost_.broken());
  if (!serving()) return;
  give_back();
  function_.as<devices::VirtioNet>().queue_broke();
}

}  // namespace hypertwin::machine
