// Packets in and out of the two queues.
#include "devices/virtio_net.h"

#include <algorithm>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr unsigned kReceive = 0, kTransmit = 1;
constexpr uint64_t kMtu = 1 << 3, kMac = 1 << 5, kMergeable = 1 << 15, kStatus = 1 << 16;
constexpr size_t kHeader = 12;
constexpr size_t kLinkHeader = 14 + 4;  // Ethernet's, with a VLAN tag
}  // namespace

VirtioNet::VirtioNet(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options)
    : VirtioDevice(id, std::move(name), ram, 2, kMtu | kMac | kMergeable | kStatus),
      host_(host),
      longest_(options.mtu + kLinkHeader) {
  std::copy(options.mac.begin(), options.mac.end(), config_.begin());
  put_le<uint16_t>(&config_[6], options.link_up);
  put_le<uint16_t>(&config_[8], 1);
  put_le<uint16_t>(&config_[10], options.mtu);
}

void VirtioNet::set_link(bool up) {
  if ((config_[6] & 1) == up) return;
  config_[6] = up;
  config_changed();
}

bool VirtioNet::receive(std::span<const uint8_t> packet) {
  bool taken = false;
  if (live() && !packet.empty() && packet.size() <= longest_) {
    Placed placed = pending_.empty() ? place(packet) : Placed::kNoBuffer;
    if (placed == Placed::kYes) {
      publish(kReceive);
      return true;
    }
    if (placed == Placed::kNoBuffer && pending_.size() < kMaxPending) {
      pending_.emplace_back(packet.begin(), packet.end());
      taken = true;
    }
  }
  if (!taken) ++counters_.dropped;
  return taken;
}

// Into as many buffers as it needs and the guest allows, not yet published.
VirtioNet::Placed VirtioNet::place(std::span<const uint8_t> packet) {
  VirtQueue& queue = queues_[kReceive];
  const size_t most = negotiated() & kMergeable ? queue.size : 1;
  const uint64_t needed = kHeader + packet.size();
  uint64_t room = 0;
  uint16_t used = 0;
  while (room < needed) {
    if (used == most) {  // never fits
      queue.unpop(used);
      return Placed::kDropped;
    }
    if (chains_.size() <= used) chains_.emplace_back();
    VirtQueue::Pop pop = queue.pop(ram_, chains_[used]);
    if (pop == VirtQueue::Pop::kBroken) {
      break_device();
      return Placed::kDropped;
    }
    if (pop == VirtQueue::Pop::kEmpty) {
      queue.unpop(used);
      return Placed::kNoBuffer;
    }
    room += chains_[used++].writable_bytes;
  }
  scratch_.assign(kHeader, 0);
  put_le(&scratch_[10], used);
  scratch_.insert(scratch_.end(), packet.begin(), packet.end());
  std::span<const uint8_t> left = scratch_;
  for (unsigned i = 0; i < used; ++i) {
    size_t n = copy_to(ram_, chains_[i].writable, 0, left);
    queue.push(ram_, chains_[i].head, static_cast<uint32_t>(n));
    left = left.subspan(n);
  }
  ++counters_.received;
  return Placed::kYes;
}

void VirtioNet::fill() {
  while (live() && !pending_.empty()) {
    Placed placed = place(pending_.front());
    if (placed == Placed::kNoBuffer) break;
    if (placed == Placed::kDropped) ++counters_.dropped;
    pending_.pop_front();
  }
  publish(kReceive);
}

void VirtioNet::transmit() {
  VirtQueue& queue = queues_[kTransmit];
  if (chains_.empty()) chains_.emplace_back();
  Chain& chain = chains_[0];
  for (;;) {
    VirtQueue::Pop pop = queue.pop(ram_, chain);
    if (pop == VirtQueue::Pop::kBroken || (pop == VirtQueue::Pop::kChain && chain.readable_bytes < kHeader)) {
      break_device();
      break;
    }
    if (pop == VirtQueue::Pop::kEmpty) break;
    uint64_t size = chain.readable_bytes - kHeader;
    if (size > 0 && size <= kMaxPacket) {
      scratch_.resize(static_cast<size_t>(size));
      scratch_.resize(copy_from(ram_, chain.readable, kHeader, scratch_));
      host_.transmit(id(), scratch_);
      ++counters_.transmitted;
    }
    queue.push(ram_, chain.head, 0);
  }
  publish(kTransmit);
}

void VirtioNet::on_notify(unsigned queue) {
  if (queue == kReceive)
    fill();
  else
    transmit();
}

void VirtioNet::on_reset() { pending_.clear(); }

void VirtioNet::save_state(ByteWriter& out) const {
  out.u8(config_[6]);
  out.u64(counters_.received);
  out.u64(counters_.transmitted);
  out.u64(counters_.dropped);
  out.varint(pending_.size());
  for (const auto& packet : pending_) out.blob(packet);
}

void VirtioNet::load_state(ByteReader& in) {
  config_[6] = load_flag(in);
  counters_.received = in.u64();
  counters_.transmitted = in.u64();
  counters_.dropped = in.u64();
  uint64_t count = in.varint();
  if (count > kMaxPending) in.corrupt("too many packets");
  pending_.clear();
  while (count--) {
    auto packet = in.blob(longest_);
    pending_.emplace_back(packet.begin(), packet.end());
  }
}

}  // namespace hypertwin::devices
