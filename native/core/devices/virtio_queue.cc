// The split ring. All of it lies in guest RAM and may change under us; each field is read once.
#include "devices/virtio_queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {

constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

// Aligned, so never across a page. 0 outside RAM, which enable() has ruled out.
uint16_t load_acquire(const GuestRam& ram, uint64_t address) {
  const uint8_t* p = ram.translate(address, 2);
  return p ? __atomic_load_n(reinterpret_cast<const uint16_t*>(p), __ATOMIC_ACQUIRE) : uint16_t{0};
}

void store_release(GuestRam& ram, uint64_t address, uint16_t value) {
  if (uint8_t* p = ram.translate(address, 2)) {
    __atomic_store_n(reinterpret_cast<uint16_t*>(p), value, __ATOMIC_RELEASE);
    ram.mark_written(address, 2);
  }
}

template <class Byte, class Copy>
size_t walk(std::span<const Segment> segments, uint64_t offset, std::span<Byte> bytes, Copy&& copy) {
  size_t done = 0;
  for (const Segment& segment : segments) {
    if (done == bytes.size()) break;
    if (offset >= segment.size) {
      offset -= segment.size;
      continue;
    }
    size_t n = static_cast<size_t>(std::min<uint64_t>(segment.size - offset, bytes.size() - done));
    if (!copy(segment.address + offset, bytes.subspan(done, n))) break;
    done += n;
    offset = 0;
  }
  return done;
}

}  // namespace

size_t copy_from(const GuestRam& ram, std::span<const Segment> from, uint64_t offset,
                 std::span<uint8_t> into) {
  return walk(from, offset, into, [&](uint64_t at, std::span<uint8_t> part) { return ram.read(at, part); });
}

size_t copy_to(GuestRam& ram, std::span<const Segment> to, uint64_t offset, std::span<const uint8_t> from) {
  return walk(to, offset, from,
              [&](uint64_t at, std::span<const uint8_t> part) { return ram.write(at, part); });
}

bool host_parts(const GuestRam& ram, std::span<const Segment> segments, uint64_t offset,
                std::vector<iovec>& parts) {
  for (const Segment& segment : segments) {
    if (offset >= segment.size) {
      offset -= segment.size;
      continue;
    }
    uint8_t* at = ram.translate(segment.address + offset, segment.size - offset);
    if (!at) return false;
    parts.push_back({at, static_cast<size_t>(segment.size - offset)});
    offset = 0;
  }
  return true;
}

void save_segments(ByteWriter& out, std::span<const Segment> segments) {
  out.varint(segments.size());
  for (const Segment& segment : segments) {
    out.u64(segment.address);
    out.u32(segment.size);
  }
}

uint64_t load_segments(ByteReader& in, const GuestRam& ram, std::vector<Segment>& segments) {
  uint64_t count = in.varint();
  if (count > VirtQueue::kMaxSegments) in.corrupt("too many segments");
  segments.clear();
  uint64_t bytes = 0;
  while (count--) {
    Segment segment;
    segment.address = in.u64();
    segment.size = in.u32();
    if (segment.size == 0 || !ram.contains(segment.address, segment.size))
      in.corrupt("a segment of a request is not in RAM");
    segments.push_back(segment);
    bytes += segment.size;
  }
  return bytes;
}

bool VirtQueue::enable(const GuestRam& ram) {
  bool valid = size != 0 && size <= kMaxSize && std::has_single_bit(size) && descriptors % 16 == 0 &&
               driver % 2 == 0 && device % 4 == 0 && ram.contains(descriptors, uint64_t{16} * size) &&
               ram.contains(driver, 6 + uint64_t{2} * size) && ram.contains(device, 6 + uint64_t{8} * size);
  enabled_ = valid;
  broken_ = !valid;
  next_available_ = next_used_ = published_used_ = 0;
  return valid;
}

void VirtQueue::go_on(GuestRam& ram, uint16_t next_available) {
  store_release(ram, device, 0);
  next_available_ = next_available;
  next_used_ = published_used_ = load_acquire(ram, device + 2);
}

void VirtQueue::reset() { *this = VirtQueue{}; }

bool VirtQueue::add(const GuestRam& ram, Chain& chain, uint64_t address, uint32_t length, bool writable) {
  if (length == 0 || !ram.contains(address, length)) return false;
  if (writable) {
    chain.writable.push_back({address, length});
    chain.writable_bytes += length;
  } else {
    if (!chain.writable.empty()) return false;
    chain.readable.push_back({address, length});
    chain.readable_bytes += length;
  }
  return chain.readable.size() + chain.writable.size() <= kMaxSegments;
}

VirtQueue::Pop VirtQueue::pop(GuestRam& ram, Chain& chain) {
  if (broken_) return Pop::kBroken;
  if (!enabled_) return Pop::kEmpty;
  uint16_t waiting = static_cast<uint16_t>(load_acquire(ram, driver + 2) - next_available_);
  if (waiting == 0 && features_ & kVirtioEventIdx) {
    store_release(ram, device + 4 + uint64_t{8} * size, next_available_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    waiting = static_cast<uint16_t>(load_acquire(ram, driver + 2) - next_available_);
  }
  if (waiting == 0) return Pop::kEmpty;
  if (waiting > size) return fail();
  // Another vCPU may add as fast as this takes.
  if (taken_ >= size) {
    more_ = true;
    return Pop::kEmpty;
  }
  ++taken_;

  uint16_t index = load_acquire(ram, driver + 4 + uint64_t{2} * (next_available_ % size));
  if (index >= size) return fail();
  chain.head = index;
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;

  uint64_t table = descriptors;
  uint32_t entries = size;
  bool indirect = false;
  for (uint32_t steps = 0;;) {
    Descriptor descriptor;
    if (steps++ >= entries || !ram.load(table + uint64_t{16} * index, descriptor)) return fail();
    if (descriptor.flags & kIndirect) {
      if (indirect || !(features_ & kVirtioIndirect) || descriptor.flags & kNext || descriptor.length == 0 ||
          descriptor.length % 16 || descriptor.length / 16 > kMaxSegments ||
          !ram.contains(descriptor.address, descriptor.length))
        return fail();
      table = descriptor.address;
      entries = descriptor.length / 16;
      indirect = true;
      index = 0;
      steps = 0;
      continue;
    }
    if (!add(ram, chain, descriptor.address, descriptor.length, descriptor.flags & kWrite)) return fail();
    if (!(descriptor.flags & kNext)) break;
    index = descriptor.next;
    if (index >= entries) return fail();
  }
  ++next_available_;
  return Pop::kChain;
}

void VirtQueue::push(GuestRam& ram, uint16_t head, uint32_t written) {
  if (!enabled_) return;
  const uint32_t element[2] = {head, written};
  // Within RAM since enable().
  (void)ram.store(device + 4 + uint64_t{8} * (next_used_ % size), element);
  ++next_used_;
}

bool VirtQueue::publish(GuestRam& ram) {
  uint16_t before = published_used_;
  if (!enabled_ || before == next_used_) return false;
  store_release(ram, device + 2, next_used_);
  published_used_ = next_used_;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (features_ & kVirtioEventIdx) {
    uint16_t event = load_acquire(ram, driver + 4 + uint64_t{2} * size);
    return static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
  }
  return !(load_acquire(ram, driver) & 1);
}

void VirtQueue::save(ByteWriter& out) const {
  out.u16(size);
  out.u64(descriptors);
  out.u64(driver);
  out.u64(device);
  out.u16(next_available_);
  out.u16(next_used_);
  out.u16(published_used_);
  out.u8(enabled_);
  out.u8(broken_);
}

void VirtQueue::load(ByteReader& in, const GuestRam& ram) {
  size = in.u16();
  descriptors = in.u64();
  driver = in.u64();
  device = in.u64();
  uint16_t available = in.u16();
  uint16_t used = in.u16();
  uint16_t published = in.u16();
  bool enabled = load_flag(in);
  bool broken = load_flag(in);
  if (enabled && !enable(ram)) in.corrupt("an enabled queue is not in RAM");
  if (size == 0 || size > kMaxSize || !std::has_single_bit(size))
    in.corrupt("a queue's size is out of range");
  enabled_ = enabled;
  broken_ = broken;
  next_available_ = available;
  next_used_ = used;
  published_used_ = published;
}

}  // namespace hypertwin::devices
