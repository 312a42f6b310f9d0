// Block requests: parsed from the ring, handed out, and finished in any order.
#include "devices/virtio_blk.h"

#include <algorithm>

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr uint64_t kSizeMax = 1 << 1, kSegMax = 1 << 2, kReadOnly = 1 << 5, kBlkSize = 1 << 6,
                   kFlush = 1 << 9, kDiscard = 1 << 13, kWriteZeroes = 1 << 14;
constexpr uint32_t kIn = 0, kOut = 1, kFlushRequest = 4, kGetId = 8, kDiscardRequest = 11,
                   kWriteZeroesRequest = 13;
constexpr uint64_t kHeader = 16;
constexpr size_t kRange = 16;  // sector (64 bits), sectors (32), flags (32)
constexpr uint32_t kUnmap = 1;

bool moves_data(BlockOperation operation) {
  return operation == BlockOperation::kRead || operation == BlockOperation::kWrite;
}
}  // namespace

VirtioBlk::VirtioBlk(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options)
    : VirtioDevice(id, std::move(name), ram, 1,
                   kSizeMax | kSegMax | kBlkSize | kFlush | (options.read_only ? kReadOnly : 0) |
                       (options.discard && !options.read_only ? kDiscard | kWriteZeroes : 0)),
      host_(host),
      direct_(options.direct),
      size_(options.size),
      read_only_(options.read_only) {
  if (size_ == 0 || size_ % kSector || size_ > INT64_MAX)
    throw Error("EINVAL", "a disk's size must be a positive multiple of 512 bytes");
  put_le<uint64_t>(&config_[0], size_ / kSector);
  put_le<uint32_t>(&config_[8], kMaxSegmentSize);
  put_le<uint32_t>(&config_[12], kMaxSegments);
  put_le<uint32_t>(&config_[20], options.block_size);
  if (offered() & kDiscard) {
    config_size_ = config_.size();
    put_le<uint32_t>(&config_[36], kMaxDiscard / kSector);
    put_le<uint32_t>(&config_[40], 1);
    put_le<uint32_t>(&config_[44], std::max<uint32_t>(4096, options.block_size) / kSector);
    put_le<uint32_t>(&config_[48], kMaxWriteZeroes / kSector);
    put_le<uint32_t>(&config_[52], 1);
    config_[56] = 1;  // zeroing may unmap
  }
  std::copy_n(options.serial.begin(), std::min(options.serial.size(), serial_.size()), serial_.begin());
}

void VirtioBlk::on_notify(unsigned) { process(); }

void VirtioBlk::on_reset() {
  // Before the guest uses its memory for something else.
  if (direct_ && !requests_.empty()) direct_->block_cancel(id());
  requests_.clear();
  bytes_in_flight_ = 0;
}

void VirtioBlk::process() {
  VirtQueue& queue = queues_[0];
  while (live() && requests_.size() < queue.size && bytes_in_flight_ < kMaxInFlight) {
    VirtQueue::Pop pop = queue.pop(ram_, chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    if (pop == VirtQueue::Pop::kBroken || !start(chain_)) break_device();
  }
  publish(0);
}

bool VirtioBlk::start(const Chain& chain) {
  uint8_t header[kHeader];
  if (chain.writable_bytes == 0 || copy_from(ram_, chain.readable, 0, header) != kHeader) return false;
  const uint32_t type = get_le<uint32_t>(header);
  const uint64_t sector = get_le<uint64_t>(header + 8);
  const uint64_t data_size =
      type == kOut ? chain.readable_bytes - kHeader : (type == kIn ? chain.writable_bytes - 1 : 0);
  auto end = [&](BlockStatus status, uint64_t written) {
    finish(chain.head, chain.writable, chain.writable_bytes, written, status);
    return true;
  };

  BlockOperation operation;
  switch (type) {
    case kIn:
      operation = BlockOperation::kRead;
      break;
    case kOut:
      operation = BlockOperation::kWrite;
      break;
    case kFlushRequest:
      operation = BlockOperation::kFlush;
      break;
    case kGetId: {
      size_t n = static_cast<size_t>(std::min<uint64_t>(chain.writable_bytes - 1, serial_.size()));
      copy_to(ram_, chain.writable, 0, std::span(serial_).first(n));
      return end(BlockStatus::kOk, n);
    }
    case kDiscardRequest:
    case kWriteZeroesRequest: {
      BlockRequest range;
      BlockStatus status;
      if (!parse_range(type, chain, range, status)) return end(status, 0);
      range.ordinal = next_ordinal_++;
      requests_.emplace(range.ordinal, Request{.head = chain.head,
                                               .operation = range.operation,
                                               .offset = range.offset,
                                               .size = range.size,
                                               .unmap = range.unmap,
                                               .data = {},
                                               .readable = {},
                                               .writable = chain.writable,
                                               .writable_bytes = chain.writable_bytes});
      host_.block_submit(id(), std::move(range));
      return true;
    }
    default:
      return end(BlockStatus::kUnsupported, 0);
  }
  if (operation != BlockOperation::kFlush) {
    const uint64_t sectors = size_ / kSector;
    if (data_size == 0 || data_size % kSector || data_size > kMaxRequest || sector >= sectors ||
        data_size / kSector > sectors - sector || (type == kOut && read_only_))
      return end(BlockStatus::kIoError, 0);
  }

  BlockRequest out{.ordinal = next_ordinal_++,
                   .operation = operation,
                   .offset = operation == BlockOperation::kFlush ? 0 : sector * kSector,
                   .size = operation == BlockOperation::kRead ? static_cast<uint32_t>(data_size) : 0,
                   .data = {},
                   .durable = durable(operation),
                   .unmap = false};
  Request request{.head = chain.head,
                  .operation = operation,
                  .offset = out.offset,
                  .size = static_cast<uint32_t>(data_size),
                  .unmap = false,
                  .data = {},
                  .readable = {},
                  .writable = chain.writable,
                  .writable_bytes = chain.writable_bytes};
  request.direct = direct_ && data_size > 0 && find_parts(chain, out);
  if (request.direct) {
    out.size = request.size;
    if (operation == BlockOperation::kWrite) request.readable = chain.readable;
  } else if (operation == BlockOperation::kWrite) {
    out.data.resize(static_cast<size_t>(data_size));
    copy_from(ram_, chain.readable, kHeader, out.data);
    request.data = out.data;
  }
  bytes_in_flight_ += data_size;
  requests_.emplace(out.ordinal, std::move(request));
  host_.block_submit(id(), std::move(out));
  return true;
}

bool VirtioBlk::find_parts(const Chain& chain, BlockRequest& request) const {
  const bool reading = request.operation == BlockOperation::kRead;
  if (host_parts(ram_, reading ? chain.writable : chain.readable, reading ? 0 : kHeader, request.parts)) {
    // Behind the data of a read is the status byte.
    if (reading && --request.parts.back().iov_len == 0) request.parts.pop_back();
    return true;
  }
  request.parts.clear();
  return false;
}

// After the data is there: a harvest in between would otherwise take the mark and miss the data.
void VirtioBlk::mark_data(const Request& request) {
  uint64_t left = request.size;
  for (const Segment& segment : request.writable) {
    const uint64_t size = std::min<uint64_t>(left, segment.size);
    ram_.mark_written(segment.address, size);
    left -= size;
  }
}

void VirtioBlk::mark_reads() {
  for (const auto& [ordinal, request] : requests_)
    if (request.direct && request.operation == BlockOperation::kRead) mark_data(request);
}

// virtio 1.2, 5.2.6: one range; a flag that is not known is not supported, and none is for a discard.
bool VirtioBlk::parse_range(uint32_t type, const Chain& chain, BlockRequest& request,
                            BlockStatus& status) const {
  const bool zeroes = type == kWriteZeroesRequest;
  status = BlockStatus::kUnsupported;
  if (!(negotiated() & (zeroes ? kWriteZeroes : kDiscard))) return false;
  status = BlockStatus::kIoError;
  std::array<uint8_t, kRange> range;
  if (chain.readable_bytes != kHeader + kRange ||
      copy_from(ram_, chain.readable, kHeader, range) != range.size())
    return false;
  const uint64_t sector = get_le<uint64_t>(range.data());
  const uint32_t sectors = get_le<uint32_t>(range.data() + 8);
  const uint32_t flags = get_le<uint32_t>(range.data() + 12);
  if (flags & ~(zeroes ? kUnmap : 0u)) {
    status = BlockStatus::kUnsupported;
    return false;
  }
  const uint64_t all = size_ / kSector;
  if (sectors == 0 || sectors > (zeroes ? kMaxWriteZeroes : kMaxDiscard) / kSector || sector >= all ||
      sectors > all - sector)
    return false;
  request.operation = zeroes ? BlockOperation::kWriteZeroes : BlockOperation::kDiscard;
  request.offset = sector * kSector;
  request.size = sectors * kSector;
  request.durable = durable(request.operation);
  request.unmap = flags & kUnmap;
  return true;
}

// `written`: bytes of data at the buffer's beginning.
void VirtioBlk::finish(uint16_t head, std::span<const Segment> writable, uint64_t writable_bytes,
                       uint64_t written, BlockStatus status) {
  const uint8_t byte = static_cast<uint8_t>(status);
  copy_to(ram_, writable, writable_bytes - 1, {&byte, 1});
  // The used length counts from the beginning without gaps.
  if (written == writable_bytes - 1) ++written;
  queues_[0].push(ram_, head, static_cast<uint32_t>(written));
}

bool VirtioBlk::complete(uint64_t ordinal, BlockStatus status, std::span<const uint8_t> data) {
  if (!complete_one(ordinal, status, data)) return false;
  if (live()) process();  // what waited for room
  return true;
}

bool VirtioBlk::complete_one(uint64_t ordinal, BlockStatus status, std::span<const uint8_t> data) {
  auto found = requests_.find(ordinal);
  if (found == requests_.end()) return false;
  Request request = std::move(found->second);
  requests_.erase(found);
  if (moves_data(request.operation)) bytes_in_flight_ -= request.size;
  if (request.direct && request.operation == BlockOperation::kRead) mark_data(request);
  if (!live()) return true;  // broken since: its ring is left alone
  uint64_t written = 0;
  if (request.operation == BlockOperation::kRead && status == BlockStatus::kOk) {
    if (request.direct)
      written = request.size;
    else if (data.size() >= request.size)
      written = copy_to(ram_, request.writable, 0, data.first(request.size));
    else
      status = BlockStatus::kIoError;
  }
  finish(request.head, request.writable, request.writable_bytes, written, status);
  return true;
}

bool VirtioBlk::write_through() const { return !(negotiated() & kFlush); }

bool VirtioBlk::durable(BlockOperation operation) const {
  return write_through() &&
         (operation == BlockOperation::kWrite || operation == BlockOperation::kWriteZeroes);
}

std::vector<BlockRequest> VirtioBlk::in_flight() const {
  std::vector<BlockRequest> out;
  out.reserve(requests_.size());
  for (const auto& [ordinal, request] : requests_)
    out.push_back({.ordinal = ordinal,
                   .operation = request.operation,
                   .offset = request.offset,
                   .size = request.operation == BlockOperation::kWrite ? 0 : request.size,
                   .data = data_of(request),
                   .durable = durable(request.operation),
                   .unmap = request.unmap});
  return out;
}

std::vector<uint8_t> VirtioBlk::data_of(const Request& request) const {
  if (request.operation != BlockOperation::kWrite || !request.direct) return request.data;
  std::vector<uint8_t> data(request.size);
  copy_from(ram_, request.readable, kHeader, data);
  return data;
}

void VirtioBlk::save_state(ByteWriter& out) const {
  out.u64(size_);
  out.u64(next_ordinal_);
  out.varint(requests_.size());
  for (const auto& [ordinal, request] : requests_) {
    out.u64(ordinal);
    out.u16(request.head);
    out.u8(static_cast<uint8_t>(request.operation));
    out.u64(request.offset);
    out.u32(request.size);
    if (request.operation == BlockOperation::kWrite) out.raw(data_of(request));
    if (request.operation == BlockOperation::kWriteZeroes) out.u8(request.unmap);
    save_segments(out, request.writable);
  }
}

void VirtioBlk::load_state(ByteReader& in) {
  if (in.u64() != size_) in.corrupt("a disk of another size");
  next_ordinal_ = in.u64();
  uint64_t count = in.varint();
  if (count > VirtQueue::kMaxSize) in.corrupt("too many requests in flight");
  requests_.clear();
  bytes_in_flight_ = 0;
  while (count--) {
    uint64_t ordinal = in.u64();
    Request request;
    request.head = in.u16();
    uint8_t operation = in.u8();
    request.operation = static_cast<BlockOperation>(operation);
    request.offset = in.u64();
    request.size = in.u32();
    bool flush = request.operation == BlockOperation::kFlush;
    const uint32_t most = request.operation == BlockOperation::kDiscard       ? kMaxDiscard
                          : request.operation == BlockOperation::kWriteZeroes ? kMaxWriteZeroes
                                                                              : kMaxRequest;
    if (operation > (offered() & kDiscard ? 4 : 2) ||
        (!requests_.empty() && ordinal <= requests_.rbegin()->first) || ordinal >= next_ordinal_ ||
        request.head >= VirtQueue::kMaxSize ||
        (flush ? request.size != 0 || request.offset != 0
               : request.size == 0 || request.size % kSector || request.size > most ||
                     request.offset % kSector || request.offset >= size_ ||
                     request.size > size_ - request.offset))
      in.corrupt("a block request is out of range");
    if (request.operation == BlockOperation::kWrite) {
      if (read_only_) in.corrupt("a write to a read-only disk");
      auto data = in.raw(request.size);
      request.data.assign(data.begin(), data.end());
    }
    if (request.operation == BlockOperation::kWriteZeroes) request.unmap = load_flag(in);
    request.writable_bytes = load_segments(in, ram_, request.writable);
    if (request.writable_bytes < 1 ||
        (request.operation == BlockOperation::kRead && request.writable_bytes != uint64_t{request.size} + 1))
      in.corrupt("a block request's buffer does not fit");
    if (moves_data(request.operation)) bytes_in_flight_ += request.size;
    requests_.emplace(ordinal, std::move(request));
  }
}

}  // namespace hypertwin::devices
