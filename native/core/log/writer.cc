// The writer's two sides: append() on the producer's thread, and ht-log, which seals, writes and syncs.
// ht-log holds the lock only to look at the queue, never during a system call; a block in the queue keeps
// its address until it is released.
#include "log/writer.h"

#include <pthread.h>

#include <algorithm>

#include "base/bytes.h"

namespace hypertwin::log {

namespace {

// A block is sealed when it would grow beyond this; a larger record gets a block of its own.
constexpr size_t kBlockTarget = 1u << 20;
constexpr size_t kSpareBlocks = 16;
// After so many latencies without a record ht-log sleeps until it is woken.
constexpr int kQuietRounds = 20;

WriterOptions bounded(WriterOptions options) {
  options.buffer_bytes = std::max(options.buffer_bytes, 2 * kMaxRecordBytes);
  return options;
}

}  // namespace

std::unique_ptr<Writer> Writer::create(const std::filesystem::path& directory, const LogHeader& header,
                                       WriterOptions options) {
  return std::make_unique<Writer>(std::make_unique<FileSink>(directory), header, std::move(options));
}

Writer::Writer(std::unique_ptr<Sink> sink, const LogHeader& header, WriterOptions options)
    : header_(header),
      options_(bounded(std::move(options))),
      seed_(block_seed(header.log_id)),
      header_blob_(encode_header(header)),
      sink_(std::move(sink)),
      encoded_chain_(first_chain(header.log_id)),
      last_sync_(Clock::now()),
      durable_chain_(encoded_chain_) {
  Block first;
  first.header.chain = encoded_chain_;
  roll(first);
  if (options_.sync != SyncPolicy::kNone) sink_->sync();
  stats_.segments = 1;
  stats_.bytes = segment_header_bytes_;
  thread_ = std::thread([this] { run(); });
}

Writer::~Writer() {
  try {
    close();
  } catch (const std::exception&) {
    {
      Lock lock(mutex_);
      stop_ = true;
      work_.notify_one();
    }
    thread_.join();
  }
}

// ---- The producer's side

uint64_t Writer::append(uint64_t boundary, const Body& body) {
  const size_t bound = encoded_bound(body);
  if (bound > kMaxRecordBytes) {
    throw Error("LOG_BAD_RECORD", "A record of about " + std::to_string(bound) +
                                      " bytes cannot be logged: the limit is " +
                                      std::to_string(kMaxRecordBytes));
  }
  const uint64_t kind = kind_of(body);
  if (std::holds_alternative<Extension>(body) && kind < kFirstOptionalKind) {
    throw Error("LOG_BAD_RECORD",
                "An extension record's kind must be at least 128, not " + std::to_string(kind));
  }
  Lock lock(mutex_);
  if (closed_ || ended_) throw Error("LOG_CLOSED", "A record was appended to a log that has ended");
  if (boundary < cursor_.boundary) {
    throw Error("LOG_BAD_RECORD", "A record at boundary " + std::to_string(boundary) +
                                      " was appended after one at boundary " +
                                      std::to_string(cursor_.boundary));
  }
  if (error_) throw_failed();
  if (buffered_ + bound + kBlockHeaderBytes > options_.buffer_bytes) wait_for_room(lock, bound);
  if (open_.data && open_.size + bound > open_.capacity) {
    seal();
    work_.notify_one();
  }
  if (!open_.data) open_block(bound);
  if (open_.header.records == 0) {
    open_.header.first_record = next_index_;
    open_.header.first_boundary = boundary;
    open_.header.base_time_ns = cursor_.time_ns;
    cursor_.boundary = boundary;
    open_since_ = Clock::now();
    if (idle_) work_.notify_one();
  }
  uint8_t* at = open_.data.get() + open_.size;
  const size_t size = static_cast<size_t>(encode_record(at, boundary, body, &cursor_) - at);
  const size_t before = open_.size;
  open_.size += size;
  open_.header.records++;
  open_.header.last_boundary = boundary;
  buffered_ += size;
  if (open_.header.records >= options_.block_records) {
    seal();
    work_.notify_one();
  } else if (before < options_.commit_bytes && open_.size >= options_.commit_bytes) {
    work_.notify_one();
  }
  if (kind == static_cast<uint64_t>(RecordKind::kEnd)) ended_ = true;
  stats_.records++;
  stats_.input_bytes += input_bytes(body);
  stats_.bytes_by_kind[kind < stats_.bytes_by_kind.size() ? kind : 0] += size;
  stats_.buffer_high_water = std::max<uint64_t>(stats_.buffer_high_water, buffered_);
  return next_index_++;
}

void Writer::wait_for_room(Lock& lock, size_t bytes) {
  if (options_.full == FullPolicy::kFail) {
    throw Error("LOG_BUFFER_FULL", "The log's buffer of " + std::to_string(options_.buffer_bytes) +
                                       " bytes is full: " + sink_->name() +
                                       " takes records more slowly than they come");
  }
  stats_.waits++;
  wanted_ = std::max(wanted_, next_index_);
  work_.notify_one();
  progress_.wait(lock, [&] {
    return error_ || closed_ || buffered_ + bytes + kBlockHeaderBytes <= options_.buffer_bytes;
  });
  if (error_) throw_failed();
  if (closed_) throw Error("LOG_CLOSED", "The log was closed while a record waited for room");
}

void Writer::open_block(size_t payload) {
  if (payload <= kBlockTarget && !spare_.empty()) {
    open_ = std::move(spare_.back());
    spare_.pop_back();
  } else {
    open_ = Block();
    open_.capacity = kBlockHeaderBytes + std::max(payload, kBlockTarget);
    open_.data = std::make_unique_for_overwrite<uint8_t[]>(open_.capacity);
  }
  open_.size = kBlockHeaderBytes;
  buffered_ += kBlockHeaderBytes;
}

void Writer::seal() {
  open_.header.payload_bytes = static_cast<uint32_t>(open_.size - kBlockHeaderBytes);
  pending_.push_back(std::exchange(open_, Block()));
}

// ---- Any thread

void Writer::throw_failed() const { throw Error(*error_); }

void Writer::wait_until_durable(Lock& lock, uint64_t index) {
  if (durable_index() >= index) return;
  wanted_ = std::max(wanted_, index);
  work_.notify_one();
  progress_.wait(lock, [&] { return durable_index() >= index || error_ || closed_; });
  if (durable_index() >= index) return;
  if (error_) throw_failed();
  throw Error("LOG_CLOSED", "The log was closed before record " + std::to_string(index) + " was written");
}

void Writer::commit() {
  Lock lock(mutex_);
  if (wanted_ == next_index_ || durable_index() == next_index_) return;
  wanted_ = next_index_;
  // Without the lock, which ht-log needs as soon as it is awake.
  lock.unlock();
  work_.notify_one();
}

void Writer::flush() {
  Lock lock(mutex_);
  wait_until_durable(lock, next_index_);
}

void Writer::wait_durable(uint64_t index) {
  Lock lock(mutex_);
  wait_until_durable(lock, index);
}

void Writer::retry() {
  Lock lock(mutex_);
  if (!error_) return;
  error_.reset();
  failed_.store(false, std::memory_order_release);
  work_.notify_one();
  wait_until_durable(lock, next_index_);
}

void Writer::close() {
  Lock lock(mutex_);
  if (closed_) return;
  wait_until_durable(lock, next_index_);
  if (closed_) return;
  closed_ = true;
  stop_ = true;
  work_.notify_one();
  progress_.notify_all();
  lock.unlock();
  thread_.join();
}

std::optional<Error> Writer::error() const {
  Lock lock(mutex_);
  return error_;
}

WriterStats Writer::stats() const {
  Lock lock(mutex_);
  return stats_;
}

Digest128 Writer::chain() const {
  Lock lock(mutex_);
  return durable_chain_;
}

// ---- ht-log

bool Writer::sync_due(Clock::time_point now) const {
  if (written_ == 0) return false;
  return options_.sync == SyncPolicy::kAlways || wanted_ > durable_index() ||
         now >= last_sync_ + options_.sync_interval || unsynced_bytes_ >= options_.buffer_bytes / 2;
}

void Writer::run() {
  pthread_setname_np(pthread_self(), "ht-log");
  Lock lock(mutex_);
  int quiet = 0;
  for (;;) {
    if (error_) {
      if (stop_) return;
      work_.wait(lock);
      continue;
    }
    const auto now = Clock::now();
    const bool open = open_.header.records != 0;
    if (open && (stop_ || wanted_ > open_.header.first_record || open_.size >= options_.commit_bytes ||
                 now >= open_since_ + options_.commit_latency)) {
      seal();
    }
    if (written_ < pending_.size() || sync_due(now)) {
      commit(lock, options_.sync != SyncPolicy::kNone);
      quiet = 0;
      continue;
    }
    if (stop_) return;
    if (!open && written_ == 0 && ++quiet > kQuietRounds) {
      idle_ = true;
      work_.wait(lock);
      idle_ = false;
      continue;
    }
    auto deadline = (open ? open_since_ : now) + options_.commit_latency;
    if (!open && written_ != 0) deadline = last_sync_ + options_.sync_interval;
    work_.wait_until(lock, deadline);
  }
}

void Writer::commit(Lock& lock, bool syncs) {
  try {
    while (written_ < pending_.size()) {
      Block& block = pending_[written_];
      const bool unsynced = written_ != 0;
      lock.unlock();
      if (!block.encoded) encode(block);
      if (offset_ + block.size > options_.segment_bytes && offset_ > segment_header_bytes_) {
        if (unsynced) {
          lock.lock();
          sync(lock);
          continue;
        }
        roll(block);
      }
      write(block);
      offset_ += block.size;
      lock.lock();
      written_++;
      unsynced_bytes_ += block.size;
      if (!syncs) release(lock, 1);
    }
    if (sync_due(Clock::now())) sync(lock);
  } catch (const Error& cause) {
    fail(lock, cause);
  } catch (const std::exception& cause) {
    fail(lock, Error("LOG_SINK", cause.what()));
  }
}

void Writer::write(const Block& block) {
  try {
    sink_->write(offset_, {block.data.get(), block.size});
  } catch (...) {
    try {
      sink_->truncate(offset_);
    } catch (const Error&) {
      // A part of a block stays at the end; readers see it as torn, retry() writes over it.
    }
    throw;
  }
}

void Writer::encode(Block& block) {
  auto payload = std::span<const uint8_t>(block.data.get() + kBlockHeaderBytes, block.header.payload_bytes);
  auto head = std::span<uint8_t, kBlockHeaderBytes>(block.data.get(), kBlockHeaderBytes);
  block.header.chain = encoded_chain_;
  block.header.payload_digest = digest128(payload, seed_);
  encode_block_header(block.header, seed_, head);
  block.chain_after = encoded_chain_ = next_chain(head);
  block.encoded = true;
}

void Writer::roll(const Block& block) {
  SegmentHeader header;
  header.number = segment_ + 1;
  header.log_id = header_.log_id;
  header.first_record = block.header.first_record;
  header.first_boundary = block.header.first_boundary;
  header.chain = block.header.chain;
  header.blob = header_blob_;
  auto bytes = encode_segment_header(header);
  sink_->begin_segment(header.number, bytes);
  segment_ = header.number;
  segment_header_bytes_ = offset_ = bytes.size();
}

void Writer::sync(Lock& lock) {
  // Only ht-log changes written_, so it is the same afterwards.
  lock.unlock();
  try {
    sink_->sync();
  } catch (...) {
    // What the disk holds is unknown now, and the kernel may have forgotten it: write it again.
    lock.lock();
    offset_ -= unsynced_bytes_;
    unsynced_bytes_ = 0;
    written_ = 0;
    throw;
  }
  lock.lock();
  stats_.syncs++;
  last_sync_ = Clock::now();
  release(lock, written_);
}

void Writer::release(Lock& lock, size_t count) {
  if (count == 0) return;
  for (size_t i = 0; i < count; i++) {
    Block& block = pending_.front();
    durable_chain_ = block.chain_after;
    durable_index_.store(block.header.first_record + block.header.records, std::memory_order_release);
    buffered_ -= block.size;
    stats_.bytes += block.size;
    stats_.blocks++;
    if (spare_.size() < kSpareBlocks && block.capacity == kBlockHeaderBytes + kBlockTarget) {
      block.header = BlockHeader();
      block.encoded = false;
      spare_.push_back(std::move(block));
    }
    pending_.pop_front();
  }
  if (stats_.segments != segment_) {
    stats_.segments = segment_;
    stats_.bytes += segment_header_bytes_;
  }
  written_ -= count;
  unsynced_bytes_ = 0;
  progress_.notify_all();
  if (!options_.on_durable) return;
  lock.unlock();
  options_.on_durable(durable_index());
  lock.lock();
}

void Writer::fail(Lock& lock, const Error& cause) {
  if (!lock.owns_lock()) lock.lock();
  error_ = Error::caused("LOG_WRITE_FAILED",
                         "Writing the log to " + sink_->name() + " failed, records before " +
                             std::to_string(durable_index()) + " are durable, " + std::to_string(buffered_) +
                             " bytes wait in memory: mend the cause and retry (" + cause.what() + ")",
                         cause);
  failed_.store(true, std::memory_order_release);
  progress_.notify_all();
  if (!options_.on_failure) return;
  const Error error = *error_;
  lock.unlock();
  options_.on_failure(error);
  lock.lock();
}

}  // namespace hypertwin::log
