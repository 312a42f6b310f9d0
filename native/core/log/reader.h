// Reads one log: in order, from a boundary on, or while it grows. Yields only records of blocks whose
// checksums are right, and says what of a damaged log is lost. Trusts nothing that it reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "log/format.h"
#include "log/record.h"
#include "log/source.h"

namespace hypertwin::log {

enum class DamageKind {
  kSegmentHeader,   // a segment's header is torn or damaged; its blocks may be whole
  kBlock,           // bytes that are no whole block, or a block whose payload is damaged
  kTornTail,        // the log ends in a part of a block, as after a crash
  kMissingSegment,  // numbers are skipped
  kForeignSegment,  // a file that belongs to another log or is another segment of this one
  kRepeated,        // blocks that came before already
  kChain,           // whole blocks that do not follow each other
  kRecords,         // a block with a right checksum whose records cannot be decoded
};
std::string_view damage_name(DamageKind kind);

struct Damage {
  DamageKind kind = DamageKind::kBlock;
  uint32_t segment = 0;
  // Where it begins in the segment, and how many bytes are unusable.
  uint64_t offset = 0;
  uint64_t bytes = 0;
  // Whether records are lost (false: only redundant bytes). Replay must not go beyond a gap.
  bool gap = true;
  // Records [first_lost, end_lost) are lost; without end_lost their number is unknown.
  uint64_t first_lost = 0;
  std::optional<uint64_t> end_lost;
  // Their boundaries lie between these two, both included; without to_boundary anything later.
  uint64_t from_boundary = 0;
  std::optional<uint64_t> to_boundary;
  // One sentence for people.
  std::string text() const;
};

struct BlockInfo {
  uint32_t segment = 0;
  uint64_t offset = 0;
  BlockHeader header;
};

enum class Stop {
  kNone,       // not stopped
  kEnd,        // the End record was read
  kDataEnds,   // no End record: the recorder died, or still runs; see damages() for a torn tail
  kGap,        // records are lost here; see damages()
  kCancelled,  // follow mode, cancel()
};

struct ReaderOptions {
  // At the end of the data wait for more, until the End record or cancel().
  bool follow = false;
  // next() stops at a gap. False: goes on behind it, with Record::after_gap set.
  bool stop_at_gap = true;
  // Yield Extension records instead of skipping them.
  bool extensions = false;
};

struct VerifyReport {
  uint64_t records = 0;
  uint64_t blocks = 0;
  uint64_t segments = 0;
  uint64_t bytes = 0;
  uint64_t first_boundary = 0;
  uint64_t last_boundary = 0;
  // Records that can be replayed: those before the first gap.
  uint64_t replayable_records = 0;
  uint64_t replayable_boundary = 0;
  bool chain_ok = true;
  bool ended = false;
  Digest128 chain;
  std::vector<Damage> damages;
  bool ok() const { return damages.empty(); }
};

// For one thread, except cancel().
class Reader {
 public:
  // Throws Error: LOG_NOT_FOUND (no directory or no segment in it), LOG_VERSION. Damage is no error here.
  static std::unique_ptr<Reader> open(const std::filesystem::path& directory, ReaderOptions options = {});
  Reader(std::unique_ptr<Source> source, ReaderOptions options);

  // Throws Error("LOG_HEADER_DAMAGED") when no segment has a whole header.
  const LogHeader& header() const;

  // The next record, whose views live until the next call; nullopt: see stop(). After kDataEnds it may be
  // called again, when the log has grown. Throws Error: LOG_UNKNOWN_KIND, or a failed call.
  std::optional<Record> next();
  Stop stop() const { return stop_; }

  // The next record will be the first whose boundary is >= `boundary`.
  void seek(uint64_t boundary);
  // The blocks of the whole log (headers only are read), in order.
  std::vector<BlockInfo> index();

  // What was found so far.
  const std::vector<Damage>& damages() const { return damages_; }
  // The chain after the last block read.
  Digest128 chain() const { return chain_; }
  // Ends a next() that waits, from any thread, and all later ones.
  void cancel() { source_->cancel(); }

 private:
  friend VerifyReport verify(std::unique_ptr<Source> source);

  enum class Look { kBlock, kSegmentEnds };
  struct Segment {
    HeaderState state = HeaderState::kTooShort;
    SegmentHeader header;
    size_t header_bytes = 0;
  };

  void read_headers();
  Segment read_segment_header(uint32_t number);
  std::span<const uint8_t> view(uint64_t offset, size_t size);
  bool enter_segment(size_t position);
  bool next_block();
  bool grown();
  Look look(uint64_t* offset, BlockHeader* header);
  bool take_block(uint64_t offset, const BlockHeader& header);
  void damage(DamageKind kind, uint64_t offset, uint64_t bytes);
  void close_damage(const BlockHeader* next);
  void reset_position();
  const std::vector<BlockInfo>& segment_index(size_t position);

  const ReaderOptions options_;
  std::unique_ptr<Source> source_;
  std::optional<LogHeader> header_;
  LogId log_id_{};
  uint64_t seed_ = 0;
  std::vector<uint32_t> segments_;

  // Where the next block is looked for.
  size_t position_ = 0;
  uint64_t offset_ = 0;
  bool entered_ = false;
  bool foreign_ = false;

  // A window of the current segment.
  std::vector<uint8_t> window_;
  uint32_t window_segment_ = 0;
  uint64_t window_offset_ = 0;
  size_t window_size_ = 0;

  // The block being read.
  std::span<const uint8_t> payload_;
  size_t payload_at_ = 0;
  uint64_t block_offset_ = 0;
  uint64_t records_left_ = 0;
  Cursor cursor_;
  std::vector<uint16_t> scratch_;

  // What should come next.
  uint64_t next_record_ = 0;
  uint64_t last_boundary_ = 0;
  Digest128 chain_;
  bool expect_any_ = false;
  bool after_gap_ = false;
  bool ended_ = false;
  uint64_t seek_boundary_ = 0;
  Stop stop_ = Stop::kNone;
  std::vector<Damage> damages_;
  // Damages from here on are not yet known to be a gap or not.
  size_t unsettled_ = 0;
  bool skip_unknown_ = false;
  uint64_t blocks_ = 0;
};

// Reads all of a log.
VerifyReport verify(std::unique_ptr<Source> source);

}  // namespace hypertwin::log
