// The event log's fixed parts as bytes: header blob, segment header, block header.
#include "log/format.h"

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"
#include "base/error.h"
#include "base/random.h"

namespace hypertwin::log {

namespace {

// Tags of the header blob; a number never gets a second meaning.
enum HeaderTag : uint64_t {
  kTagHypertwinVersion = 1,
  kTagCpuVendor = 2,
  kTagCpuFamily = 3,
  kTagCpuModel = 4,
  kTagCpuStepping = 5,
  kTagCpuFeatures = 6,
  kTagKvmQuirks = 7,
  kTagBoard = 8,
  kTagBoardVersion = 9,
  kTagMemorySize = 10,
  kTagInitialState = 11,
  kTagMachineConfig = 12,
  kTagCreatedUnixNs = 13,
  kTagLogId = 14,
};

void put_text(ByteWriter& out, uint64_t tag, std::string_view text) {
  out.varint(tag);
  out.text(text);
}

void put_number(ByteWriter& out, uint64_t tag, uint64_t value) {
  uint8_t bytes[kMaxVarintBytes];
  out.varint(tag);
  out.blob({bytes, put_varint(bytes, value)});
}

void put_digest(ByteWriter& out, uint64_t tag, const Digest128& digest) {
  out.varint(tag);
  out.varint(16);
  out.u64(digest.lo);
  out.u64(digest.hi);
}

uint64_t number(ByteReader& in) { return in.varint(); }

uint32_t number32(ByteReader& in) {
  uint64_t value = in.varint();
  if (value > UINT32_MAX) in.corrupt("a number over 32 bits");
  return static_cast<uint32_t>(value);
}

Digest128 digest(ByteReader& in) {
  uint64_t lo = in.u64();
  return {lo, in.u64()};
}

std::string text(ByteReader& in) { return std::string(as_text(in.raw(in.remaining()))); }

}  // namespace

LogId random_log_id() {
  LogId id;
  fill_random(id, "making a log id");
  return id;
}

std::string hex(const LogId& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t byte : id) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::vector<uint8_t> encode_header(const LogHeader& header) {
  ByteWriter out;
  put_text(out, kTagHypertwinVersion, header.hypertwin_version);
  put_text(out, kTagCpuVendor, header.cpu_vendor);
  put_number(out, kTagCpuFamily, header.cpu_family);
  put_number(out, kTagCpuModel, header.cpu_model);
  put_number(out, kTagCpuStepping, header.cpu_stepping);
  put_digest(out, kTagCpuFeatures, header.cpu_features);
  put_text(out, kTagKvmQuirks, header.kvm_quirks);
  put_text(out, kTagBoard, header.board);
  put_number(out, kTagBoardVersion, header.board_version);
  put_number(out, kTagMemorySize, header.memory_size);
  put_digest(out, kTagInitialState, header.initial_state);
  put_text(out, kTagMachineConfig, header.machine_config);
  put_number(out, kTagCreatedUnixNs, header.created_unix_ns);
  out.varint(kTagLogId);
  out.blob(header.log_id);
  if (out.size() > kMaxHeaderBlob) {
    throw Error("LOG_HEADER_TOO_BIG", "The log's header has " + std::to_string(out.size()) +
                                          " bytes, at most " + std::to_string(kMaxHeaderBlob) +
                                          " are possible: shorten the machine's configuration");
  }
  return out.take();
}

LogHeader decode_header(std::span<const uint8_t> blob) {
  LogHeader header;
  ByteReader in(blob, "log header");
  while (!in.done()) {
    uint64_t tag = in.varint();
    ByteReader field(in.blob(), "log header field");
    switch (tag) {
      case kTagHypertwinVersion:
        header.hypertwin_version = text(field);
        break;
      case kTagCpuVendor:
        header.cpu_vendor = text(field);
        break;
      case kTagCpuFamily:
        header.cpu_family = number32(field);
        break;
      case kTagCpuModel:
        header.cpu_model = number32(field);
        break;
      case kTagCpuStepping:
        header.cpu_stepping = number32(field);
        break;
      case kTagCpuFeatures:
        header.cpu_features = digest(field);
        break;
      case kTagKvmQuirks:
        header.kvm_quirks = text(field);
        break;
      case kTagBoard:
        header.board = text(field);
        break;
      case kTagBoardVersion:
        header.board_version = number32(field);
        break;
      case kTagMemorySize:
        header.memory_size = number(field);
        break;
      case kTagInitialState:
        header.initial_state = digest(field);
        break;
      case kTagMachineConfig:
        header.machine_config = text(field);
        break;
      case kTagCreatedUnixNs:
        header.created_unix_ns = number(field);
        break;
      case kTagLogId:
        std::ranges::copy(field.raw(header.log_id.size()), header.log_id.begin());
        break;
      default:
        continue;
    }
    field.expect_done();
  }
  return header;
}

std::vector<std::string> replay_mismatches(const LogHeader& log, const LogHeader& here) {
  std::vector<std::string> out;
  auto compare = [&](std::string_view field, const std::string& a, const std::string& b) {
    if (a != b) out.push_back(std::string(field) + ": log " + a + ", here " + b);
  };
  auto compare_numbers = [&](std::string_view field, uint64_t a, uint64_t b) {
    compare(field, std::to_string(a), std::to_string(b));
  };
  compare("cpu vendor", log.cpu_vendor, here.cpu_vendor);
  compare_numbers("cpu family", log.cpu_family, here.cpu_family);
  compare_numbers("cpu model", log.cpu_model, here.cpu_model);
  compare_numbers("cpu stepping", log.cpu_stepping, here.cpu_stepping);
  compare("cpu features", log.cpu_features.hex(), here.cpu_features.hex());
  compare("kvm quirks", log.kvm_quirks, here.kvm_quirks);
  compare("board", log.board, here.board);
  compare_numbers("board version", log.board_version, here.board_version);
  compare_numbers("memory size", log.memory_size, here.memory_size);
  compare("initial state", log.initial_state.hex(), here.initial_state.hex());
  return out;
}

uint64_t block_seed(const LogId& id) { return checksum64(id); }

Digest128 first_chain(const LogId& id) { return digest128(id); }

Digest128 next_chain(std::span<const uint8_t, kBlockHeaderBytes> encoded_header) {
  return digest128(encoded_header);
}

std::vector<uint8_t> encode_segment_header(const SegmentHeader& header) {
  ByteWriter out;
  out.raw(kSegmentMagic);
  out.u16(header.version);
  out.u32(header.number);
  out.u32(static_cast<uint32_t>(header.blob.size()));
  out.raw(header.log_id);
  out.u64(header.first_record);
  out.u64(header.first_boundary);
  out.u64(header.chain.lo);
  out.u64(header.chain.hi);
  out.raw(header.blob);
  out.u64(checksum64(out.data()));
  return out.take();
}

HeaderState decode_segment_header(std::span<const uint8_t> bytes, SegmentHeader* out, size_t* size) {
  if (bytes.size() < kSegmentFixedBytes) return HeaderState::kTooShort;
  ByteReader in(bytes, "segment header");
  bool magic = std::ranges::equal(in.raw(kSegmentMagic.size()), kSegmentMagic);
  out->version = in.u16();
  out->number = in.u32();
  uint32_t blob_bytes = in.u32();
  std::ranges::copy(in.raw(out->log_id.size()), out->log_id.begin());
  out->first_record = in.u64();
  out->first_boundary = in.u64();
  out->chain.lo = in.u64();
  out->chain.hi = in.u64();
  if (!magic || blob_bytes > kMaxHeaderBlob) return HeaderState::kDamaged;
  if (in.remaining() < blob_bytes + sizeof(uint64_t)) return HeaderState::kTooShort;
  auto blob = in.raw(blob_bytes);
  size_t covered = in.offset();
  if (in.u64() != checksum64(bytes.first(covered))) return HeaderState::kDamaged;
  if (out->version != kFormatVersion) return HeaderState::kOtherVersion;
  out->blob.assign(blob.begin(), blob.end());
  *size = in.offset();
  return HeaderState::kWhole;
}

void encode_block_header(const BlockHeader& header, uint64_t seed,
                         std::span<uint8_t, kBlockHeaderBytes> out) {
  uint8_t* p = std::ranges::copy(kBlockMagic, out.data()).out;
  p = put_le(p, header.payload_bytes);
  p = put_le(p, header.records);
  p = put_le<uint32_t>(p, 0);
  p = put_le(p, header.first_record);
  p = put_le(p, header.first_boundary);
  p = put_le(p, header.last_boundary);
  p = put_le(p, header.base_time_ns);
  p = put_le(p, header.chain.lo);
  p = put_le(p, header.chain.hi);
  p = put_le(p, header.payload_digest.lo);
  p = put_le(p, header.payload_digest.hi);
  put_le(p, checksum64(out.first<kBlockHeaderBytes - 8>(), seed));
}

bool decode_block_header(std::span<const uint8_t, kBlockHeaderBytes> bytes, uint64_t seed, BlockHeader* out) {
  if (!std::ranges::equal(bytes.first<4>(), kBlockMagic)) return false;
  if (get_le<uint64_t>(bytes.data() + kBlockHeaderBytes - 8) !=
      checksum64(bytes.first<kBlockHeaderBytes - 8>(), seed)) {
    return false;
  }
  ByteReader in(bytes.subspan<4>(), "block header");
  out->payload_bytes = in.u32();
  out->records = in.u32();
  uint32_t flags = in.u32();
  out->first_record = in.u64();
  out->first_boundary = in.u64();
  out->last_boundary = in.u64();
  out->base_time_ns = in.u64();
  out->chain.lo = in.u64();
  out->chain.hi = in.u64();
  out->payload_digest.lo = in.u64();
  out->payload_digest.hi = in.u64();
  // A record has at least 2 bytes.
  return flags == 0 && out->records != 0 && out->payload_bytes <= kMaxBlockPayload &&
         out->records <= out->payload_bytes / 2 && out->first_boundary <= out->last_boundary &&
         out->first_record <= UINT64_MAX - out->records;
}

std::string segment_name(uint32_t number) {
  char name[32];
  std::snprintf(name, sizeof(name), "%08u.htlog", number);
  return name;
}

uint32_t segment_number(std::string_view name) {
  size_t digits = 0;
  uint64_t value = 0;
  while (digits < name.size() && name[digits] >= '0' && name[digits] <= '9' && digits < 10) {
    value = value * 10 + static_cast<uint64_t>(name[digits++] - '0');
  }
  if (value == 0 || value > UINT32_MAX || name != segment_name(static_cast<uint32_t>(value))) return 0;
  return static_cast<uint32_t>(value);
}

}  // namespace hypertwin::log
