// The reader. A block counts only when its header's and its payload's checksums are right; whether it
// follows the block before it is judged by record number and chain. Behind damage the next header with a
// right checksum is looked for.
#include "log/reader.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"

namespace hypertwin::log {

namespace {

constexpr size_t kReadAhead = 256u << 10;
constexpr size_t kIndexAhead = 4u << 10;
constexpr std::chrono::milliseconds kPollInterval{100};

}  // namespace

std::string_view damage_name(DamageKind kind) {
  switch (kind) {
    case DamageKind::kSegmentHeader:
      return "segment-header";
    case DamageKind::kBlock:
      return "block";
    case DamageKind::kTornTail:
      return "torn-tail";
    case DamageKind::kMissingSegment:
      return "missing-segment";
    case DamageKind::kForeignSegment:
      return "foreign-segment";
    case DamageKind::kRepeated:
      return "repeated";
    case DamageKind::kChain:
      return "chain";
    case DamageKind::kRecords:
      return "records";
  }
  return "unknown";
}

std::string Damage::text() const {
  std::string where = segment_name(segment);
  std::string at = " at offset " + std::to_string(offset);
  std::string out;
  switch (kind) {
    case DamageKind::kSegmentHeader:
      out = where + " has a damaged header";
      break;
    case DamageKind::kBlock:
      out = where + " has " + std::to_string(bytes) + " damaged bytes" + at;
      break;
    case DamageKind::kTornTail:
      out = where + " ends in " + std::to_string(bytes) + " bytes of an unfinished block" + at;
      break;
    case DamageKind::kMissingSegment:
      out = where + " is missing";
      break;
    case DamageKind::kForeignSegment:
      out = where + " holds another log or another segment than its name says";
      break;
    case DamageKind::kRepeated:
      out = where + " repeats " + std::to_string(bytes) + " bytes" + at;
      break;
    case DamageKind::kChain:
      out = where + " does not continue what is before it" + at;
      break;
    case DamageKind::kRecords:
      out = where + " has a block of records that cannot be decoded" + at;
      break;
  }
  if (!gap) return out + "; no record is lost";
  if (end_lost) {
    out += "; lost: " + std::to_string(*end_lost - std::min(*end_lost, first_lost)) +
           " records from number " + std::to_string(first_lost);
  } else {
    out += "; lost: everything from record number " + std::to_string(first_lost) + " on";
  }
  out += ", boundaries " + std::to_string(from_boundary);
  return out + (to_boundary ? " to " + std::to_string(*to_boundary) : " and later");
}

std::unique_ptr<Reader> Reader::open(const std::filesystem::path& directory, ReaderOptions options) {
  auto source = open_directory(directory);
  if (source->segments().empty()) {
    throw Error("LOG_NOT_FOUND", "There is no log in " + directory.string() + ": it holds no segment");
  }
  return std::make_unique<Reader>(std::move(source), options);
}

Reader::Reader(std::unique_ptr<Source> source, ReaderOptions options)
    : options_(options), source_(std::move(source)) {
  segments_ = source_->segments();
  if (segments_.empty()) throw Error("LOG_NOT_FOUND", "The log holds no segment");
  find_log_header();
  seed_ = block_seed(log_id_);
  chain_ = first_chain(log_id_);
}

const LogHeader& Reader::header() const {
  if (!header_) {
    throw Error("LOG_HEADER_DAMAGED",
                "No segment of the log has a whole header: what it was recorded on is unknown, and it cannot "
                "be replayed");
  }
  return *header_;
}

void Reader::find_log_header() {
  bool have_id = false;
  for (uint32_t number : segments_) {
    Segment segment = segment_header(number);
    if (segment.state == HeaderState::kOtherVersion) {
      throw Error("LOG_VERSION", "The log has format version " + std::to_string(segment.header.version) +
                                     ", this hypertwin reads version " + std::to_string(kFormatVersion));
    }
    if (segment.state == HeaderState::kWhole) {
      header_ = decode_header(segment.header.blob);
      log_id_ = segment.header.log_id;
      return;
    }
    // Blocks will tell whether the id in a damaged header is right.
    if (!have_id && segment.state == HeaderState::kDamaged) {
      log_id_ = segment.header.log_id;
      have_id = true;
    }
  }
}

Reader::Segment Reader::segment_header(uint32_t number) {
  Segment segment;
  auto bytes = view(number, 0, kSegmentFixedBytes, kIndexAhead);
  if (bytes.size() < kSegmentFixedBytes) return segment;
  // The length of the blob stands behind magic, version and number.
  uint32_t blob_bytes = get_le<uint32_t>(bytes.data() + 12);
  if (blob_bytes <= kMaxHeaderBlob) {
    bytes = view(number, 0, kSegmentFixedBytes + blob_bytes + sizeof(uint64_t), kIndexAhead);
  }
  segment.state = decode_segment_header(bytes, &segment.header, &segment.header_bytes);
  if (segment.state == HeaderState::kTooShort) segment.state = HeaderState::kDamaged;
  if (segment.state != HeaderState::kWhole) return segment;
  try {
    decode_header(segment.header.blob);
  } catch (const Error&) {
    segment.state = HeaderState::kDamaged;
    return segment;
  }
  segment.ours = segment.header.log_id == log_id_ && segment.header.number == number;
  return segment;
}

std::span<const uint8_t> Reader::view(uint32_t segment, uint64_t offset, size_t size, size_t ahead) {
  const bool inside = window_segment_ == segment && offset >= window_offset_ &&
                      offset - window_offset_ <= window_size_ &&
                      window_size_ - static_cast<size_t>(offset - window_offset_) >= size;
  if (!inside) {
    const uint64_t end = source_->size(segment);
    const size_t want = std::max(size, ahead);
    const size_t there = offset >= end ? 0 : static_cast<size_t>(std::min<uint64_t>(want, end - offset));
    if (window_.size() < there) window_.resize(there);
    window_size_ = 0;
    window_segment_ = segment;
    window_offset_ = offset;
    window_size_ = source_->read(segment, offset, {window_.data(), there});
  }
  const size_t at = static_cast<size_t>(offset - window_offset_);
  return std::span<const uint8_t>(window_).subspan(at, std::min(size, window_size_ - at));
}

std::optional<Reader::Found> Reader::find_block(uint32_t segment, uint64_t offset, size_t ahead) {
  for (bool first = true;; first = false) {
    auto bytes = view(segment, offset, first ? kBlockHeaderBytes : kReadAhead, ahead);
    if (bytes.size() < kBlockHeaderBytes) return std::nullopt;
    size_t at = 0;
    while (bytes.size() - at >= kBlockHeaderBytes) {
      Found found;
      found.offset = offset + at;
      if (decode_block_header(bytes.subspan(at).first<kBlockHeaderBytes>(), seed_, &found.header))
        return found;
      auto rest = bytes.subspan(at + 1);
      at += 1 +
            static_cast<size_t>(
                std::search(rest.begin(), rest.end(), kBlockMagic.begin(), kBlockMagic.end()) - rest.begin());
    }
    // Less than a header is left to look at; a magic may begin in it.
    offset += std::min(at, bytes.size() - kBlockHeaderBytes + 1);
  }
}

bool Reader::refresh_segments() {
  auto fresh = source_->segments();
  if (fresh == segments_) return false;
  const uint32_t current = segments_[position_];
  // A segment that vanished leaves its place to the one behind it.
  auto at = std::ranges::lower_bound(fresh, current);
  if (at == fresh.end()) return false;
  if (*at != current) entered_ = false;
  position_ = static_cast<size_t>(at - fresh.begin());
  segments_ = std::move(fresh);
  return true;
}

Damage& Reader::add_damage(DamageKind kind, uint64_t offset, uint64_t bytes) {
  Damage damage;
  damage.kind = kind;
  damage.segment = segments_[position_];
  damage.offset = offset;
  damage.bytes = bytes;
  damage.first_lost = next_record_;
  damage.from_boundary = last_boundary_;
  damages_.push_back(damage);
  return damages_.back();
}

void Reader::settle(bool gap, const BlockHeader& next) {
  for (; unsettled_ < damages_.size(); unsettled_++) {
    Damage& damage = damages_[unsettled_];
    if (damage.kind == DamageKind::kRepeated) continue;
    damage.gap = gap;
    damage.first_lost = next_record_;
    damage.end_lost = next.first_record;
    damage.to_boundary = next.first_boundary;
  }
}

void Reader::enter_segment() {
  const uint32_t number = segments_[position_];
  const uint32_t before = position_ == 0 ? 0 : segments_[position_ - 1];
  entered_ = true;
  if (number != before + 1) add_damage(DamageKind::kMissingSegment, 0, 0).segment = before + 1;
  Segment segment = segment_header(number);
  if (segment.ours) {
    offset_ = segment.header_bytes;
  } else if (segment.state == HeaderState::kWhole || segment.state == HeaderState::kOtherVersion) {
    offset_ = source_->size(number);
    add_damage(DamageKind::kForeignSegment, 0, offset_);
  } else {
    auto found = find_block(number, 0, kReadAhead);
    offset_ = found ? found->offset : source_->size(number);
    add_damage(DamageKind::kSegmentHeader, 0, offset_);
  }
}

bool Reader::next_block() {
  payload_ = {};
  if (tail_reported_) {
    damages_.pop_back();
    tail_reported_ = false;
  }
  for (;;) {
    const uint32_t segment = segments_[position_];
    if (!entered_) enter_segment();
    auto found = find_block(segment, offset_, kReadAhead);
    if (found) {
      const uint64_t end = found->offset + kBlockHeaderBytes + found->header.payload_bytes;
      if (end <= source_->size(segment)) {
        if (found->offset > offset_) add_damage(DamageKind::kBlock, offset_, found->offset - offset_);
        offset_ = end;
        if (take_block(*found)) return true;
        if (stop_ == Stop::kGap) return false;
        continue;
      }
    }
    // A segment is finished when there is a later one; look at its end once more then.
    if (position_ + 1 == segments_.size()) {
      if (refresh_segments()) continue;
      const uint64_t size = source_->size(segment);
      if (size > offset_ && !options_.follow) {
        add_damage(DamageKind::kTornTail, offset_, size - offset_);
        tail_reported_ = true;
      }
      return false;
    }
    const uint64_t size = source_->size(segment);
    if (size > offset_) add_damage(DamageKind::kBlock, offset_, size - offset_);
    position_++;
    entered_ = false;
  }
}

void Reader::load_payload() {
  payload_ = view(block_segment_, block_.offset + kBlockHeaderBytes, block_.header.payload_bytes, kReadAhead);
}

bool Reader::take_block(const Found& found) {
  const BlockHeader& header = found.header;
  const uint64_t bytes = kBlockHeaderBytes + header.payload_bytes;
  if (header.first_record < next_record_) {
    add_damage(DamageKind::kRepeated, found.offset, bytes).gap = false;
    if (unsettled_ + 1 == damages_.size()) unsettled_++;
    return false;
  }
  // The header first: its bytes are needed for the chain.
  auto head = view(segments_[position_], found.offset, kBlockHeaderBytes, kReadAhead);
  if (head.size() < kBlockHeaderBytes) return false;
  const Digest128 chain_after = next_chain(head.first<kBlockHeaderBytes>());
  block_segment_ = segments_[position_];
  block_ = found;
  load_payload();
  if (payload_.size() != header.payload_bytes || digest128(payload_, seed_) != header.payload_digest) {
    payload_ = {};
    Damage& damage = add_damage(DamageKind::kBlock, found.offset, bytes);
    damage.end_lost = header.first_record + header.records;
    damage.to_boundary = header.last_boundary;
    return false;
  }
  const bool follows = header.first_record == next_record_ && (anywhere_ || header.chain == chain_) &&
                       header.first_boundary >= last_boundary_;
  if (!follows) {
    if (unsettled_ == damages_.size()) add_damage(DamageKind::kChain, found.offset, 0);
    after_gap_ = true;
    chain_ok_ = false;
  }
  settle(!follows, header);
  anywhere_ = false;
  next_record_ = header.first_record + header.records;
  last_boundary_ = header.last_boundary;
  chain_ = chain_after;
  blocks_++;
  if (!follows && options_.stop_at_gap) {
    payload_ = {};
    stop_ = Stop::kGap;
    return false;
  }
  payload_at_ = 0;
  records_left_ = header.records;
  cursor_ = {header.first_boundary, header.base_time_ns};
  return true;
}

bool Reader::bad_records() {
  const BlockHeader& header = block_.header;
  Damage& damage = add_damage(DamageKind::kRecords, block_.offset, kBlockHeaderBytes + header.payload_bytes);
  damage.segment = block_segment_;
  damage.first_lost = next_record_ - records_left_;
  damage.end_lost = next_record_;
  damage.from_boundary = cursor_.boundary;
  damage.to_boundary = header.last_boundary;
  unsettled_ = damages_.size();
  records_left_ = 0;
  after_gap_ = true;
  if (options_.stop_at_gap) stop_ = Stop::kGap;
  return options_.stop_at_gap;
}

std::optional<Record> Reader::next() {
  if (stop_ == Stop::kDataEnds) stop_ = Stop::kNone;
  for (;;) {
    if (stop_ != Stop::kNone) return std::nullopt;
    if (source_->cancelled()) {
      stop_ = Stop::kCancelled;
      return std::nullopt;
    }
    if (end_read_) {
      stop_ = Stop::kEnd;
      return std::nullopt;
    }
    // Before looking: what is added meanwhile is then looked for once more.
    const bool complete = !options_.follow || source_->complete();
    if (records_left_ == 0 && !next_block()) {
      if (stop_ != Stop::kNone) return std::nullopt;
      if (complete || source_->yields()) {
        stop_ = Stop::kDataEnds;
        return std::nullopt;
      }
      source_->wait(kPollInterval);
      continue;
    }
    Record record;
    try {
      Cursor cursor = cursor_;
      ByteReader in(payload_.subspan(payload_at_), "log record");
      decode_record(in, &cursor, &scratch_, &record);
      const size_t at = payload_at_ + in.offset();
      const bool last = records_left_ == 1;
      if (last && at != payload_.size()) in.corrupt("bytes behind the block's last record");
      if (last ? cursor.boundary != block_.header.last_boundary
               : cursor.boundary > block_.header.last_boundary) {
        in.corrupt("the block's last boundary is another");
      }
      payload_at_ = at;
      cursor_ = cursor;
    } catch (const Error& error) {
      if (error.code() == "LOG_UNKNOWN_KIND" && !skip_unknown_) throw;
      if (bad_records()) return std::nullopt;
      continue;
    }
    record.index = next_record_ - records_left_;
    record.after_gap = after_gap_;
    records_left_--;
    if (std::holds_alternative<End>(record.body)) end_read_ = true;
    if (record.boundary < seek_boundary_) continue;
    if (std::holds_alternative<Extension>(record.body) && !options_.extensions) continue;
    return record;
  }
}

void Reader::start_at(size_t position, uint64_t offset, const BlockInfo* before) {
  position_ = position;
  offset_ = offset;
  entered_ = true;
  next_record_ = before ? before->header.first_record + before->header.records : 0;
  last_boundary_ = before ? before->header.last_boundary : 0;
  payload_ = {};
  records_left_ = 0;
  anywhere_ = true;
  after_gap_ = false;
  end_read_ = false;
  if (stop_ != Stop::kCancelled) stop_ = Stop::kNone;
}

void Reader::seek(uint64_t boundary) {
  if (tail_reported_) {
    damages_.pop_back();
    tail_reported_ = false;
  }
  refresh_segments();
  unsettled_ = damages_.size();
  seek_boundary_ = boundary;
  // The last segment that begins before the boundary holds it, or a later one does.
  size_t from = 0;
  for (size_t i = 0; i < segments_.size(); i++) {
    Segment segment = segment_header(segments_[i]);
    if (segment.ours && segment.header.first_boundary < boundary) from = i;
  }
  const BlockInfo* before = nullptr;
  for (size_t i = from; i > 0 && !before; i--)
    if (const auto& blocks = segment_index(segments_[i - 1]).blocks; !blocks.empty()) before = &blocks.back();
  for (size_t i = from; i < segments_.size(); i++) {
    const auto& [blocks, scanned] = segment_index(segments_[i]);
    auto at = std::ranges::lower_bound(blocks, boundary, {},
                                       [](const BlockInfo& block) { return block.header.last_boundary; });
    if (at != blocks.begin()) before = &*std::prev(at);
    // Not there yet: go on behind the last block of this scan. Another one may find more.
    const bool later = at == blocks.end();
    if (later && i + 1 < segments_.size()) continue;
    start_at(i, later ? scanned : at->offset, before);
    return;
  }
}

const Reader::SegmentIndex& Reader::segment_index(uint32_t number) {
  auto [it, fresh] = index_.try_emplace(number);
  SegmentIndex& index = it->second;
  if (fresh) {
    Segment segment = segment_header(number);
    if (segment.ours) index.scanned = segment.header_bytes;
    if (!segment.ours && segment.state != HeaderState::kDamaged) index.scanned = UINT64_MAX;
  }
  if (index.scanned == UINT64_MAX) return index;
  while (auto found = find_block(number, index.scanned, kIndexAhead)) {
    const BlockHeader& header = found->header;
    const uint64_t end = found->offset + kBlockHeaderBytes + header.payload_bytes;
    if (end > source_->size(number)) break;
    index.scanned = end;
    if (!index.blocks.empty()) {
      const BlockHeader& last = index.blocks.back().header;
      if (header.first_record < last.first_record + last.records ||
          header.first_boundary < last.last_boundary) {
        continue;
      }
    }
    index.blocks.push_back({number, found->offset, header});
  }
  return index;
}

std::vector<BlockInfo> Reader::index() {
  refresh_segments();
  std::vector<BlockInfo> blocks;
  uint64_t next = 0;
  for (uint32_t number : segments_) {
    for (const BlockInfo& block : segment_index(number).blocks) {
      if (block.header.first_record < next) continue;
      next = block.header.first_record + block.header.records;
      blocks.push_back(block);
    }
  }
  // The window that the current block lay in is gone.
  if (records_left_ != 0) {
    load_payload();
    if (digest128(payload_, seed_) != block_.header.payload_digest) bad_records();
  }
  return blocks;
}

VerifyReport verify(std::unique_ptr<Source> source) {
  ReaderOptions options;
  options.stop_at_gap = false;
  options.extensions = true;
  Reader reader(std::move(source), options);
  reader.skip_unknown_ = true;
  VerifyReport report;
  while (auto record = reader.next()) {
    if (report.records++ == 0) report.first_boundary = record->boundary;
    report.last_boundary = record->boundary;
    if (record->after_gap) continue;
    report.replayable_records++;
    report.replayable_boundary = record->boundary;
  }
  report.ended = reader.stop() == Stop::kEnd;
  report.blocks = reader.blocks_;
  report.segments = reader.segments_.size();
  for (uint32_t number : reader.segments_) report.bytes += reader.source_->size(number);
  report.chain = reader.chain();
  report.damages = reader.damages();
  report.chain_ok = reader.chain_ok_;
  return report;
}

}  // namespace hypertwin::log
