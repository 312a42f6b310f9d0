// What the tests of the event log share: records that own their bytes, a directory that goes away, and
// logs in memory.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "log/reader.h"
#include "log/writer.h"

namespace hypertwin::log {

inline std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// A record's boundary and its encoding alone: equal when the records are, and owns its bytes.
struct Canonical {
  uint64_t boundary = 0;
  std::vector<uint8_t> bytes;
  bool operator==(const Canonical&) const = default;
};

inline Canonical canonical(uint64_t boundary, const Body& body) {
  Canonical out{boundary, std::vector<uint8_t>(encoded_bound(body))};
  Cursor cursor{boundary, 0};
  uint8_t* end = encode_record(out.bytes.data(), boundary, body, &cursor);
  out.bytes.resize(static_cast<size_t>(end - out.bytes.data()));
  return out;
}

inline Canonical canonical(const Record& record) { return canonical(record.boundary, record.body); }

// A record of every kind in turn, of random content; the same for the same seed.
class RandomRecords {
 public:
  explicit RandomRecords(uint64_t seed, size_t max_bytes = 300) : random_(seed), max_bytes_(max_bytes) {}

  // Views live until the next call.
  std::pair<uint64_t, Body> next() {
    boundary_ += below(4) == 0 ? below(100000) : below(3);
    bytes_.resize(below(max_bytes_ + 1));
    for (auto& byte : bytes_) byte = static_cast<uint8_t>(random_());
    prefixes_.resize(below(40));
    for (auto& prefix : prefixes_) prefix = static_cast<uint16_t>(random_());
    return {boundary_, body()};
  }

 private:
  uint64_t below(uint64_t limit) { return random_() % limit; }
  Digest128 digest() { return {random_(), random_()}; }
  Body body() {
    switch (below(13)) {
      case 0:
        return Time{ns_ += below(1000000)};
      case 1:
        return PacketRx{below(4), bytes_};
      case 2:
        return ConsoleRx{below(2), bytes_};
      case 3:
        return BlockCompletion{below(3), random_(), static_cast<uint8_t>(below(256)), bytes_};
      case 4:
        return Interrupt{static_cast<uint8_t>(below(256))};
      case 5:
        return Entropy{below(2), bytes_};
      case 6:
        return Check{digest(), prefixes_, bytes_};
      case 7:
        return StateDigest{digest(), digest(), digest()};
      case 8:
        return Epoch{bytes_};
      case 9:
        return Marker{as_text(bytes_), bytes_};
      case 10:
        return Lifecycle{static_cast<uint8_t>(below(256))};
      case 11:
        return Output{};
      default:
        return Extension{128 + random_() % 1000, bytes_};
    }
  }

  std::mt19937_64 random_;
  const size_t max_bytes_;
  uint64_t boundary_ = 0;
  uint64_t ns_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<uint16_t> prefixes_;
};

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hypertwin-log-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw_errno("mkdtemp", "making a directory for a test");
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline LogHeader sample_header() {
  LogHeader header;
  header.hypertwin_version = "0.1.0";
  header.cpu_vendor = "GenuineIntel";
  header.cpu_family = 6;
  header.cpu_model = 143;
  header.cpu_stepping = 8;
  header.cpu_features = {1, 2};
  header.kvm_quirks = "rip-at-pio=past";
  header.board = "deterministic";
  header.board_version = 1;
  header.memory_size = 64u << 20;
  header.initial_state = {3, 4};
  header.machine_config = "{\"memory\":\"64MiB\"}";
  header.created_unix_ns = 1700000000000000000;
  for (size_t i = 0; i < header.log_id.size(); i++) header.log_id[i] = static_cast<uint8_t>(i * 7 + 1);
  return header;
}

using Segments = std::map<uint32_t, std::vector<uint8_t>>;

// Keeps segments in memory; shared with the test that looks at them while the writer runs.
struct MemoryLog {
  std::mutex mutex;
  Segments segments;
  uint64_t syncs = 0;
};

class MemorySink : public Sink {
 public:
  explicit MemorySink(std::shared_ptr<MemoryLog> log) : log_(std::move(log)) {}
  void begin_segment(uint32_t number, std::span<const uint8_t> header) override {
    std::lock_guard lock(log_->mutex);
    log_->segments[segment_ = number].assign(header.begin(), header.end());
  }
  void write(uint64_t offset, std::span<const uint8_t> bytes) override {
    std::lock_guard lock(log_->mutex);
    auto& data = log_->segments[segment_];
    if (data.size() < offset + bytes.size()) data.resize(offset + bytes.size());
    std::ranges::copy(bytes, data.begin() + static_cast<ptrdiff_t>(offset));
  }
  void truncate(uint64_t size) override {
    std::lock_guard lock(log_->mutex);
    log_->segments[segment_].resize(size);
  }
  void sync() override {
    std::lock_guard lock(log_->mutex);
    log_->syncs++;
  }
  std::string name() const override { return "memory"; }

 private:
  std::shared_ptr<MemoryLog> log_;
  uint32_t segment_ = 0;
};

struct MadeLog {
  Segments segments;
  std::vector<Canonical> records;
};

// `blocks` blocks of `per_block` random records, and an End record if wanted.
inline MadeLog make_log(int blocks, int per_block, bool end, uint64_t seed = 1, size_t max_bytes = 24,
                        uint64_t segment_bytes = 64u << 20, LogHeader header = sample_header()) {
  MadeLog made;
  auto log = std::make_shared<MemoryLog>();
  WriterOptions options;
  options.segment_bytes = segment_bytes;
  // Blocks end where flush() is called and nowhere else.
  options.commit_latency = std::chrono::hours(1);
  options.commit_bytes = SIZE_MAX;
  Writer writer(std::make_unique<MemorySink>(log), header, options);
  RandomRecords records(seed, max_bytes);
  uint64_t boundary = 0;
  for (int i = 0; i < blocks; i++) {
    for (int j = 0; j < per_block; j++) {
      auto [at, body] = records.next();
      boundary = at;
      made.records.push_back(canonical(at, body));
      writer.append(at, body);
    }
    if (end && i + 1 == blocks) {
      made.records.push_back(canonical(boundary, End{7}));
      writer.append(boundary, End{7});
    }
    writer.flush();
  }
  writer.close();
  made.segments = log->segments;
  return made;
}

inline ReaderOptions with_extensions(bool stop_at_gap = true) {
  ReaderOptions options;
  options.extensions = true;
  options.stop_at_gap = stop_at_gap;
  return options;
}

// Time in a Canonical counts from 0, whatever the reader's cursor was.
inline std::vector<Canonical> read_all(Reader& reader) {
  std::vector<Canonical> out;
  while (auto record = reader.next()) out.push_back(canonical(*record));
  return out;
}

}  // namespace hypertwin::log
