// A header's record number and chain follow from the blocks before, its digests from the payload.
#include "ha/block_codec.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/frame.h"

namespace hypertwin::ha {

using log::BlockHeader;
using log::kBlockHeaderBytes;

namespace {

// Where the fields of an encoded header stand (docs/eventlog-format.md).
constexpr size_t kRecords = 8, kFirstBoundary = 24, kLastBoundary = 32, kBaseTime = 40;
constexpr size_t kMaxPrefix = 1 + 4 * kMaxVarintBytes;

uint64_t field(std::span<const uint8_t> header, size_t at) { return get_le<uint64_t>(header.data() + at); }

}  // namespace

std::optional<std::vector<uint8_t>> BlockPacker::pack(std::span<const uint8_t> block) {
  const uint64_t first = field(block, kFirstBoundary), last = field(block, kLastBoundary);
  const uint64_t time = field(block, kBaseTime);
  std::vector<uint8_t> out(kMaxPrefix);
  uint8_t* at = out.data();
  *at++ = static_cast<uint8_t>(LogForm::kBlock);
  at = put_varint(at, get_le<uint32_t>(block.data() + kRecords));
  at = put_varint(at, first - boundary_);
  at = put_varint(at, last - first);
  at = put_varint(at, time - time_);
  boundary_ = last;
  time_ = time;
  out.resize(static_cast<size_t>(at - out.data()));
  if (out.size() + block.size() - kBlockHeaderBytes > wire::kMaxPayload) return std::nullopt;
  return out;
}

void BlockUnpacker::begin_segment(std::span<const uint8_t> bytes) {
  log::SegmentHeader header;
  size_t size = 0;
  if (raw_left_ != 0 || log::decode_segment_header(bytes, &header, &size) != log::HeaderState::kWhole ||
      size != bytes.size())
    throw Error("PROTOCOL", "a log segment's header is damaged");
  const uint64_t seed = log::block_seed(header.log_id);
  if (seed_ && (*seed_ != seed || header.first_record != next_record_ || header.chain != chain_))
    throw Error("PROTOCOL", "a log segment does not follow the one before");
  if (!seed_) chain_ = log::first_chain(header.log_id);
  seed_ = seed;
}

void BlockUnpacker::follow(std::span<const uint8_t, kBlockHeaderBytes> header) {
  BlockHeader block;
  if (!log::decode_block_header(header, *seed_, &block))
    throw Error("PROTOCOL", "a log block's header is damaged");
  next_record_ = block.first_record + block.records;
  boundary_ = block.last_boundary;
  time_ = block.base_time_ns;
  chain_ = log::next_chain(header);
}

std::vector<uint8_t> BlockUnpacker::unpack(std::span<const uint8_t> frame) {
  if (!seed_) throw Error("PROTOCOL", "bytes of the log came before its first segment");
  if (frame.empty()) throw Error("PROTOCOL", "an empty frame of the log");
  const auto form = static_cast<LogForm>(frame[0]);
  if (form == LogForm::kBytes) {
    frame = frame.subspan(1);
    if (raw_left_ == 0) {
      if (frame.size() < kBlockHeaderBytes) throw Error("PROTOCOL", "a log block without its header");
      follow(frame.first<kBlockHeaderBytes>());
      raw_left_ = kBlockHeaderBytes + uint64_t{get_le<uint32_t>(frame.data() + 4)};
    }
    if (frame.size() > raw_left_) throw Error("PROTOCOL", "more bytes than the log block has");
    raw_left_ -= frame.size();
    return {frame.begin(), frame.end()};
  }
  if (form != LogForm::kBlock || raw_left_ != 0) throw Error("PROTOCOL", "a frame of the log out of turn");
  BlockHeader block;
  std::span<const uint8_t> payload;
  try {
    ByteReader in(frame.subspan(1), "log block");
    const uint64_t records = in.varint();
    if (records > UINT32_MAX) in.corrupt("too many records");
    block.records = static_cast<uint32_t>(records);
    // A sum that wraps makes boundaries go back, which the header's check finds.
    block.first_boundary = boundary_ + in.varint();
    block.last_boundary = block.first_boundary + in.varint();
    block.base_time_ns = time_ + in.varint();
    payload = in.raw(in.remaining());
  } catch (const Error& error) {
    throw Error("PROTOCOL", error.what());
  }
  block.payload_bytes = static_cast<uint32_t>(payload.size());
  block.first_record = next_record_;
  block.chain = chain_;
  block.payload_digest = digest128(payload, *seed_);
  std::vector<uint8_t> out(kBlockHeaderBytes + payload.size());
  const auto head = std::span(out).first<kBlockHeaderBytes>();
  log::encode_block_header(block, *seed_, head);
  follow(head);
  std::copy(payload.begin(), payload.end(), out.begin() + kBlockHeaderBytes);
  return out;
}

}  // namespace hypertwin::ha
