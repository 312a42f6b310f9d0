// Buffers of the guest, one after the other, filled with what the host gives.
#include "devices/virtio_rng.h"

#include <algorithm>

#include "devices/state.h"

namespace hypertwin::devices {

VirtioRng::VirtioRng(EntropyHost& host, uint32_t id, std::string name, GuestRam& ram)
    : VirtioDevice(id, std::move(name), ram, 1, 0), host_(host) {}

void VirtioRng::process() {
  if (request_ || !live()) return;
  VirtQueue::Pop pop = queues_[0].pop(ram_, chain_);
  if (pop == VirtQueue::Pop::kEmpty) return;
  // 5.4.6.1: the driver places no readable buffers into the queue.
  if (pop == VirtQueue::Pop::kBroken || !chain_.readable.empty()) return break_device();
  Request request{.ordinal = next_ordinal_++, .head = chain_.head, .size = 0, .writable = {}};
  for (Segment segment : chain_.writable) {
    segment.size = std::min(segment.size, kMaxRequest - request.size);
    if (segment.size == 0) break;
    request.writable.push_back(segment);
    request.size += segment.size;
  }
  EntropyRequest wanted{.ordinal = request.ordinal, .size = request.size};
  request_ = std::move(request);
  host_.entropy_wanted(id(), wanted);
}

bool VirtioRng::complete(uint64_t ordinal, std::span<const uint8_t> bytes) {
  if (!request_ || request_->ordinal != ordinal || bytes.empty()) return false;
  Request request = std::move(*request_);
  request_.reset();
  if (!live()) return true;
  size_t n = copy_to(ram_, request.writable, 0, bytes.first(std::min<size_t>(bytes.size(), request.size)));
  queues_[0].push(ram_, request.head, static_cast<uint32_t>(n));
  process();
  publish(0);
  return true;
}

std::optional<EntropyRequest> VirtioRng::in_flight() const {
  if (!request_) return std::nullopt;
  return EntropyRequest{.ordinal = request_->ordinal, .size = request_->size};
}

void VirtioRng::save_state(ByteWriter& out) const {
  out.u64(next_ordinal_);
  out.u8(request_.has_value());
  if (!request_) return;
  out.u64(request_->ordinal);
  out.u16(request_->head);
  save_segments(out, request_->writable);
}

void VirtioRng::load_state(ByteReader& in) {
  next_ordinal_ = in.u64();
  request_.reset();
  if (!load_flag(in)) return;
  Request request;
  request.ordinal = in.u64();
  request.head = in.u16();
  uint64_t size = load_segments(in, ram_, request.writable);
  if (request.ordinal >= next_ordinal_ || request.head >= VirtQueue::kMaxSize || size == 0 ||
      size > kMaxRequest)
    in.corrupt("a request for random bytes is out of range");
  request.size = static_cast<uint32_t>(size);
  request_ = std::move(request);
}

}  // namespace hypertwin::devices
