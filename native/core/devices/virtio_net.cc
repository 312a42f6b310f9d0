// Packets in and out of the two queues.
#include "devices/virtio_net.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr uint64_t kChecksum = 1 << 0, kMtu = 1 << 3, kMac = 1 << 5, kTcp4 = 1 << 11, kTcp6 = 1 << 12,
                   kCongestion = 1 << 13, kMergeable = 1 << 15, kStatus = 1 << 16;
constexpr uint64_t kUnfinished = kChecksum | kTcp4 | kTcp6 | kCongestion | VirtioNet::kGuestChecksum |
                                 VirtioNet::kGuestTcp4 | VirtioNet::kGuestTcp6 | VirtioNet::kGuestCongestion;
constexpr size_t kHeader = sizeof(NetHeader);
constexpr size_t kLinkHeader = 14 + 4;  // Ethernet's, with a VLAN tag
constexpr size_t kMaxParts = 1024;      // of one writev
}  // namespace

VirtioNet::VirtioNet(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options)
    : VirtioDevice(id, std::move(name), ram, 2,
                   kMtu | kMac | kMergeable | kStatus | (options.unfinished ? kUnfinished : 0)),
      host_(host),
      unfinished_(options.unfinished),
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

bool VirtioNet::lend_queues() {
  if (!live() || !pending_.empty() || !queues_[kReceiveQueue].enabled() || !queues_[kTransmitQueue].enabled())
    return false;
  return lent_ = true;
}

void VirtioNet::take_queues(std::span<const uint16_t> next_available) {
  for (unsigned i = 0; i < queues_.size(); ++i) queues_[i].go_on(ram_, next_available[i]);
  lent_ = false;
}

// Several segments may come as one packet.
size_t VirtioNet::longest() const { return negotiated() & (kGuestTcp4 | kGuestTcp6) ? kMaxPacket : longest_; }

bool VirtioNet::receive(std::span<const uint8_t> packet) {
  std::vector<uint8_t> kept;
  if (headed()) {
    kept.resize(kHeader);
    kept.insert(kept.end(), packet.begin(), packet.end());
  }
  const bool taken = take({}, packet, headed() ? kept : packet);
  publish(kReceiveQueue);
  return taken;
}

bool VirtioNet::receive_unfinished(std::span<const uint8_t> packet) {
  NetHeader header;
  if (packet.size() < kHeader) return false;
  std::memcpy(&header, packet.data(), kHeader);
  const auto frame = packet.subspan(kHeader);
  // What came before the guest's driver had said what it takes.
  if (!headed() && (header.flags & NetHeader::kNeedsChecksum || header.segments != NetHeader::kNone)) {
    ++counters_.dropped;
    return false;
  }
  if (!headed()) header = {};
  return take(header, frame, headed() ? packet : frame);
}

bool VirtioNet::take(const NetHeader& header, std::span<const uint8_t> packet,
                     std::span<const uint8_t> kept) {
  bool taken = false;
  if (live() && !packet.empty() && packet.size() <= longest()) {
    Placed placed = pending_.empty() ? place(header, packet) : Placed::kNoBuffer;
    if (placed == Placed::kYes) return true;
    if (placed == Placed::kNoBuffer && pending_.size() < kMaxPending) {
      pending_.emplace_back(kept.begin(), kept.end());
      taken = true;
    }
  }
  if (!taken) ++counters_.dropped;
  return taken;
}

// Into as many buffers as it needs and the guest allows, not yet published.
VirtioNet::Placed VirtioNet::place(const NetHeader& header, std::span<const uint8_t> packet) {
  VirtQueue& queue = queues_[kReceiveQueue];
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
  uint8_t bytes[kHeader];
  std::memcpy(bytes, &header, kHeader);
  put_le(&bytes[10], used);
  size_t from = 0;  // of the header and the packet
  for (unsigned i = 0; i < used; ++i) {
    size_t n = 0;
    if (from < kHeader) n = copy_to(ram_, chains_[i].writable, 0, std::span(bytes).subspan(from));
    if (from + n >= kHeader) n += copy_to(ram_, chains_[i].writable, n, packet.subspan(from + n - kHeader));
    queue.push(ram_, chains_[i].head, static_cast<uint32_t>(n));
    from += n;
  }
  ++counters_.received;
  return Placed::kYes;
}

VirtioNet::Placed VirtioNet::place_pending() {
  const std::span<const uint8_t> packet = pending_.front();
  if (!headed()) return place({}, packet);
  NetHeader header;
  std::memcpy(&header, packet.data(), kHeader);
  return place(header, packet.subspan(kHeader));
}

void VirtioNet::fill() {
  while (live() && !pending_.empty()) {
    Placed placed = place_pending();
    if (placed == Placed::kNoBuffer) break;
    if (placed == Placed::kDropped) ++counters_.dropped;
    pending_.pop_front();
  }
  publish(kReceiveQueue);
}

bool VirtioNet::transmit() {
  VirtQueue& queue = queues_[kTransmitQueue];
  if (chains_.empty()) chains_.emplace_back();
  Chain& chain = chains_[0];
  bool more = false;
  for (unsigned count = 0;; ++count) {
    if (unfinished_ && count == kMaxBatch) {
      more = true;
      break;
    }
    VirtQueue::Pop pop = queue.pop(ram_, chain);
    if (pop == VirtQueue::Pop::kBroken || (pop == VirtQueue::Pop::kChain && chain.readable_bytes < kHeader)) {
      break_device();
      break;
    }
    if (pop == VirtQueue::Pop::kEmpty) break;
    uint64_t size = chain.readable_bytes - kHeader;
    if (size == 0 || size > kMaxPacket) {
      // Nothing that a network could carry.
    } else if (unfinished_) {
      transmit_unfinished(chain);
    } else {
      scratch_.resize(static_cast<size_t>(size));
      scratch_.resize(copy_from(ram_, chain.readable, kHeader, scratch_));
      host_.transmit(id(), scratch_);
      ++counters_.transmitted;
    }
    queue.push(ram_, chain.head, 0);
  }
  publish(kTransmitQueue);
  return more;
}

// What the guest asks for, where it may ask for it and it is within the packet.
bool VirtioNet::allowed(const NetHeader& header, uint64_t frame) const {
  const bool checksum = header.flags & NetHeader::kNeedsChecksum;
  if (checksum &&
      (!(negotiated() & kChecksum) || uint64_t{header.checksum_start} + header.checksum_offset + 2 > frame))
    return false;
  const uint8_t kind = header.segments & static_cast<uint8_t>(~NetHeader::kCongestion);
  if (header.segments & NetHeader::kCongestion && !(negotiated() & kCongestion)) return false;
  if (kind == NetHeader::kNone) return header.segments == NetHeader::kNone;
  if (kind != NetHeader::kTcp4 && kind != NetHeader::kTcp6) return false;
  return negotiated() & (kind == NetHeader::kTcp4 ? kTcp4 : kTcp6) && checksum && header.segment_size > 0 &&
         header.header_size <= frame;
}

// Straight from guest RAM, but for the header, which must stay what it was found to be.
void VirtioNet::transmit_unfinished(const Chain& chain) {
  NetHeader header;
  uint8_t bytes[kHeader];
  copy_from(ram_, chain.readable, 0, bytes);
  std::memcpy(&header, bytes, kHeader);
  const uint64_t size = chain.readable_bytes - kHeader;
  if (!(negotiated() & kChecksum)) header = {};
  header.flags &= NetHeader::kNeedsChecksum;
  header.buffers = 0;
  if (!allowed(header, size)) {
    ++counters_.refused;
    return;
  }
  parts_.clear();
  parts_.push_back({&header, kHeader});
  if (!host_parts(ram_, chain.readable, kHeader, parts_) || parts_.size() > kMaxParts) {
    scratch_.resize(static_cast<size_t>(size));
    scratch_.resize(copy_from(ram_, chain.readable, kHeader, scratch_));
    parts_.resize(1);
    parts_.push_back({scratch_.data(), scratch_.size()});
  }
  unfinished_->transmit_unfinished(id(), parts_);
  ++counters_.transmitted;
}

void VirtioNet::on_live() {
  if (unfinished_) unfinished_->guest_finishes(id(), negotiated());
  fill();
}

void VirtioNet::on_notify(unsigned queue) {
  if (lent_) return host_.net_ready(id());
  const size_t waited = pending_.size();
  const bool more = queue == kTransmitQueue && transmit();
  if (queue == kReceiveQueue) fill();
  // Any thread may be here: the one that serves the network has to know.
  if (more || pending_.size() < waited) host_.net_ready(id());
}

void VirtioNet::on_reset() {
  pending_.clear();
  lent_ = false;
  if (unfinished_) unfinished_->guest_finishes(id(), 0);
}

void VirtioNet::save_state(ByteWriter& out) const {
  out.u8(config_[6]);
  out.u64(counters_.received);
  out.u64(counters_.transmitted);
  out.u64(counters_.dropped);
  out.varint(pending_.size());
  for (const auto& packet : pending_) out.blob(packet);
}

void VirtioNet::refuse_features(ByteReader& in, uint64_t features) {
  if (features & ~kUnfinished) VirtioDevice::refuse_features(in, features);
  throw Error("BAD_CONFIG", "the guest of the snapshot leaves checksums and segments to a tap: " + name() +
                                " needs a tap as its backend here too");
}

void VirtioNet::load_state(ByteReader& in) {
  config_[6] = load_flag(in);
  counters_.received = in.u64();
  counters_.transmitted = in.u64();
  counters_.dropped = in.u64();
  uint64_t count = in.varint();
  if (count > kMaxPending) in.corrupt("too many packets");
  pending_.clear();
  const size_t header = headed() ? kHeader : 0;
  while (count--) {
    auto packet = in.blob(longest() + header);
    if (packet.size() <= header) in.corrupt("a packet without a frame");
    pending_.emplace_back(packet.begin(), packet.end());
  }
  if (unfinished_) unfinished_->guest_finishes(id(), live() ? negotiated() : 0);
}

}  // namespace hypertwin::devices
