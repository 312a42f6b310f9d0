// The event log's bytes, version 1 (docs/eventlog-format.md): limits, the header that says what must
// match to replay, segment and block headers. No files and no threads here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"

namespace hypertwin::log {

inline constexpr uint16_t kFormatVersion = 1;
inline constexpr size_t kMaxRecordBytes = 4u << 20;
inline constexpr size_t kMaxBlockPayload = 16u << 20;
inline constexpr size_t kMaxHeaderBlob = 1u << 20;

using LogId = std::array<uint8_t, 16>;
// From getrandom(2).
LogId random_log_id();
std::string hex(const LogId& id);

// What a log was recorded on. Replay needs the same; `created_unix_ns` and `log_id` only tell logs apart.
struct LogHeader {
  std::string hypertwin_version;
  std::string cpu_vendor;
  uint32_t cpu_family = 0;
  uint32_t cpu_model = 0;
  uint32_t cpu_stepping = 0;
  // Of the CPUID table that the guest sees.
  Digest128 cpu_features;
  // What differs between KVM implementations and shows in the log, for example "rip-at-pio=past".
  std::string kvm_quirks;
  std::string board;
  uint32_t board_version = 0;
  uint64_t memory_size = 0;
  // Of initial.htsnap.
  Digest128 initial_state;
  // JSON text; opaque here.
  std::string machine_config;
  uint64_t created_unix_ns = 0;
  LogId log_id{};

  bool operator==(const LogHeader&) const = default;
};

std::vector<uint8_t> encode_header(const LogHeader& header);
// Unknown tags are skipped; throws Error("CORRUPT").
LogHeader decode_header(std::span<const uint8_t> blob);

// Each field that must match for a replay and does not, as "cpu model: log 25, here 17"; empty when all
// match. Not compared: times, ids, the machine's configuration text and the version of hypertwin.
std::vector<std::string> replay_mismatches(const LogHeader& log, const LogHeader& here);

// ---- Segments and blocks

inline constexpr std::array<uint8_t, 6> kSegmentMagic = {'H', 'T', 'L', 'O', 'G', 0};
inline constexpr std::array<uint8_t, 4> kBlockMagic = {'H', 'T', 'B', 0xb7};
inline constexpr size_t kSegmentFixedBytes = 64;
inline constexpr size_t kBlockHeaderBytes = 88;

struct SegmentHeader {
  uint16_t version = kFormatVersion;
  uint32_t number = 0;
  LogId log_id{};
  uint64_t first_record = 0;
  // No record of this segment has a smaller boundary.
  uint64_t first_boundary = 0;
  // The chain before this segment's first block.
  Digest128 chain;
  std::vector<uint8_t> blob;
};

struct BlockHeader {
  uint32_t payload_bytes = 0;
  uint32_t records = 0;
  uint64_t first_record = 0;
  // The first record's boundary, from which the first delta counts (it is 0), and the last record's.
  uint64_t first_boundary = 0;
  uint64_t last_boundary = 0;
  // The last logged time before this block.
  uint64_t base_time_ns = 0;
  // The chain before this block.
  Digest128 chain;
  Digest128 payload_digest;
};

// Seeds the checksums of a log's blocks, so that a block of another log, or one that a guest put into a
// packet, is never taken for one of this log.
uint64_t block_seed(const LogId& id);

// The chain before the first block.
Digest128 first_chain(const LogId& id);
// The chain after a block: the digest of the block's header (which holds the chain before it). The
// header covers the payload by its digest and length.
Digest128 next_chain(std::span<const uint8_t, kBlockHeaderBytes> encoded_header);

std::vector<uint8_t> encode_segment_header(const SegmentHeader& header);

enum class HeaderState { kWhole, kTooShort, kDamaged, kOtherVersion };
// `bytes` starts at the file's start and may be longer than the header. On kWhole `out` is filled and
// `size` is the header's length; on kDamaged and kOtherVersion `out.log_id` is as it was read.
HeaderState decode_segment_header(std::span<const uint8_t> bytes, SegmentHeader* out, size_t* size);

void encode_block_header(const BlockHeader& header, uint64_t seed, std::span<uint8_t, kBlockHeaderBytes> out);
// False when magic, checksum or a limit is wrong.
bool decode_block_header(std::span<const uint8_t, kBlockHeaderBytes> bytes, uint64_t seed, BlockHeader* out);

// "00000001.htlog"
std::string segment_name(uint32_t number);
// 0 when `name` is no segment's.
uint32_t segment_number(std::string_view name);

}  // namespace hypertwin::log
