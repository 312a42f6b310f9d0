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
  // Each whole block follows the one before.
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

  struct Segment {
    HeaderState state = HeaderState::kTooShort;
    SegmentHeader header;
    size_t header_bytes = 0;
    // Whole, and of this log, and under its own name.
    bool ours = false;
  };
  struct Found {
    uint64_t offset = 0;
    BlockHeader header;
  };
  struct SegmentIndex {
    std::vector<BlockInfo> blocks;
    uint64_t scanned = 0;
  };

  Segment segment_header(uint32_t number);
  void find_log_header();
  bool refresh_segments();
  // Bytes of a segment, fewer than `size` only at its end; valid until the next call.
  std::span<const uint8_t> view(uint32_t segment, uint64_t offset, size_t size, size_t ahead);
  // The first valid block header at or after `offset`.
  std::optional<Found> find_block(uint32_t segment, uint64_t offset, size_t ahead);
  void enter_segment();
  bool next_block();
  bool take_block(const Found& found);
  void load_payload();
  Damage& add_damage(DamageKind kind, uint64_t offset, uint64_t bytes);
  void settle(bool gap, const BlockHeader& next);
  bool bad_records();
  // Behind the block `before`, or where the log begins; what lies between is lost.
  void start_at(size_t position, uint64_t offset, const BlockInfo* before);
  const SegmentIndex& segment_index(uint32_t number);

  const ReaderOptions options_;
  const std::unique_ptr<Source> source_;
  std::optional<LogHeader> header_;
  LogId log_id_{};
  uint64_t seed_ = 0;
  std::vector<uint32_t> segments_;
  std::map<uint32_t, SegmentIndex> index_;

  // Where the next block is looked for: segments_[position_], whose header was judged if entered_.
  size_t position_ = 0;
  uint64_t offset_ = 0;
  bool entered_ = false;

  std::vector<uint8_t> window_;
  uint32_t window_segment_ = 0;
  uint64_t window_offset_ = 0;
  size_t window_size_ = 0;

  // The block being read.
  uint32_t block_segment_ = 0;
  Found block_;
  std::span<const uint8_t> payload_;
  size_t payload_at_ = 0;
  uint32_t records_left_ = 0;
  Cursor cursor_;
  std::vector<uint16_t> scratch_;

  // What the next block must follow; after a seek any block will do.
  uint64_t next_record_ = 0;
  uint64_t last_boundary_ = 0;
  Digest128 chain_;
  bool anywhere_ = false;
  bool chain_ok_ = true;  // each did

  uint64_t seek_boundary_ = 0;
  bool after_gap_ = false;
  bool end_read_ = false;
  Stop stop_ = Stop::kNone;
  std::vector<Damage> damages_;
  // Of damages from here on it is not known yet whether records are lost.
  size_t unsettled_ = 0;
  // The last damage is a torn tail that may yet grow to a block.
  bool tail_reported_ = false;
  bool skip_unknown_ = false;
  uint64_t blocks_ = 0;
};

// Reads all of a log.
VerifyReport verify(std::unique_ptr<Source> source);

}  // namespace hypertwin::log
