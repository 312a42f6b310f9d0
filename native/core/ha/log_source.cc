// The reader goes forwards: a chunk that ends well before where it reads now is not read again.
#include "ha/log_source.h"

#include <algorithm>

#include "base/error.h"
#include "ha/clock.h"

namespace hypertwin::ha {

namespace {
// How far the reader may go back in a segment, beside its header.
constexpr uint64_t kLookBack = 4096;
}  // namespace

void LogSource::check_room(size_t size) const {
  if (unread_ + size > limit_)
    throw Error("BACKUP_SLOW", "more than " + std::to_string(limit_) +
                                   " bytes of the log wait to be replayed: the backup is too slow");
}

void LogSource::begin_segment(uint32_t number, std::span<const uint8_t> header) {
  {
    std::lock_guard lock(mutex_);
    const uint32_t expected = segments_.empty() ? 1 : segments_.back().number + 1;
    if (number != expected)
      throw Error("PROTOCOL", "log segment " + std::to_string(number) + " came where segment " +
                                  std::to_string(expected) + " was due");
    check_room(header.size());
    unpacker_.begin_segment(header);
    segments_.push_back({number, {header.begin(), header.end()}, header.size(), header.size(), {}});
    unread_ += header.size();
    ++changes_;
  }
  received_.fetch_add(header.size(), std::memory_order_relaxed);
  grown_.notify_one();
}

void LogSource::append(std::span<const uint8_t> frame) {
  std::vector<uint8_t> chunk = unpacker_.unpack(frame);
  const size_t size = chunk.size();
  {
    std::lock_guard lock(mutex_);
    check_room(size);
    Segment& last = segments_.back();
    last.end += chunk.size();
    last.chunks.push_back(std::move(chunk));
    unread_ += size;
    ++changes_;
    dry_since_.store(0, std::memory_order_relaxed);
  }
  received_.fetch_add(size, std::memory_order_relaxed);
}

void LogSource::announce() { grown_.notify_one(); }

void LogSource::finish() {
  {
    std::lock_guard lock(mutex_);
    complete_.store(true, std::memory_order_release);
    ++changes_;
  }
  grown_.notify_one();
}

void LogSource::wake() {
  {
    std::lock_guard lock(mutex_);
    woken_.store(true);
    ++changes_;
  }
  grown_.notify_one();
}

void LogSource::cancel() {
  {
    std::lock_guard lock(mutex_);
    cancelled_.store(true, std::memory_order_release);
  }
  grown_.notify_one();
}

std::vector<uint32_t> LogSource::segments() {
  std::lock_guard lock(mutex_);
  std::vector<uint32_t> numbers;
  for (const Segment& segment : segments_) numbers.push_back(segment.number);
  return numbers;
}

LogSource::Segment* LogSource::find(uint32_t number) {
  for (Segment& segment : segments_)
    if (segment.number == number) return &segment;
  return nullptr;
}

uint64_t LogSource::size(uint32_t number) {
  std::lock_guard lock(mutex_);
  const Segment* segment = find(number);
  return segment ? segment->end : 0;
}

size_t LogSource::read(uint32_t number, uint64_t offset, std::span<uint8_t> out) {
  std::lock_guard lock(mutex_);
  while (!segments_.empty() && segments_.front().number < number) {
    unread_ -= static_cast<size_t>(segments_.front().end - segments_.front().begin) +
               segments_.front().header.size();
    segments_.pop_front();
  }
  // What came up to now is being read: a wait from here on waits for more.
  seen_ = changes_;
  Segment* segment = find(number);
  if (!segment || offset >= segment->end) return 0;
  const size_t count = static_cast<size_t>(std::min<uint64_t>(out.size(), segment->end - offset));
  size_t done = 0;
  if (offset < segment->header.size()) {
    done = std::min(count, segment->header.size() - static_cast<size_t>(offset));
    std::copy_n(segment->header.begin() + static_cast<ptrdiff_t>(offset), done, out.begin());
  }
  uint64_t at = segment->begin;
  for (const auto& chunk : segment->chunks) {
    if (done == count) break;
    const uint64_t from = offset + done;
    if (from < at) throw Error("LOG_TRIMMED", "a part of the log is read again that was given away");
    if (from < at + chunk.size()) {
      const size_t n = std::min(count - done, static_cast<size_t>(at + chunk.size() - from));
      std::copy_n(chunk.begin() + static_cast<ptrdiff_t>(from - at), n,
                  out.begin() + static_cast<ptrdiff_t>(done));
      done += n;
    }
    at += chunk.size();
  }
  while (!segment->chunks.empty() && segment->begin + segment->chunks.front().size() + kLookBack <= offset) {
    segment->begin += segment->chunks.front().size();
    unread_ -= segment->chunks.front().size();
    segment->chunks.pop_front();
  }
  return done;
}

void LogSource::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (changes_ == seen_ && dry_since_.load(std::memory_order_relaxed) == 0)
    dry_since_.store(now_ns(), std::memory_order_relaxed);
  grown_.wait_for(lock, timeout,
                  [this] { return changes_ != seen_ || cancelled_.load() || complete_.load(); });
  seen_ = changes_;
}

}  // namespace hypertwin::ha
