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
  std::array<uint16_t, kQueues> next{};
  for (unsigned i = 0; i < kQueues; ++i) {
    const devices::VirtQueue& queue = device.queues()[i];
    next[i] = queue.next_available();
    queues[i] = {.size = queue.size,
                 .descriptors = queue.descriptors,
                 .driver = queue.driver,
                 .device = queue.device,
                 .next_available = next[i],
                 .kick = function_.doorbell(i),
                 .call = call_of(i)};
  }
  try {
    serving_ = vhost_.start(device.negotiated(), queues, tap_);
  } catch (const Error&) {
    // The tap's interface may be gone, for example.
  }
  if (!serving()) {
    hopeless_ = true;
    return device.take_queues(next);
  }
  // What the guest notified before.
  for (unsigned i = 0; i < kQueues; ++i) ring(function_.doorbell(i));
}

std::array<uint16_t, KernelNet::kQueues> KernelNet::stop() {
  if (!serving()) return {};
  serving_ = false;
  ring(calls_[0].get());
  return vhost_.stop();
}

void KernelNet::give_back() {
  if (!serving()) return;
  function_.as<devices::VirtioNet>().take_queues(stop());
  // It may have stopped before it had taken all.
  for (unsigned i = 0; i < kQueues; ++i) ring(function_.doorbell(i));
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
