#include "access_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "read_counts.h"

namespace hypertwin::nbdkit {
namespace {

constexpr size_t kHead = 4096;
constexpr size_t kCountersAt = 64;
constexpr char kMagic[] = "htaccess";
constexpr uint32_t kVersion = 1;

struct Record {
  uint64_t at_us;
  uint32_t chunk;
  uint32_t waited_us;
};
static_assert(sizeof(Record) == 16);

}  // namespace

AccessLog::AccessLog(const std::string& path, uint32_t chunk_size, uint32_t chunks,
                     const uint8_t* manifest_digest)
    : file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)),
      start_(std::chrono::steady_clock::now()),
      chunks_(chunks),
      seen_(chunks) {
  if (!file_) throw_errno("open", "writing the log of reads " + path);
  std::vector<uint8_t> head(kHead);
  std::memcpy(head.data(), kMagic, 8);
  std::memcpy(head.data() + 8, &kVersion, 4);
  std::memcpy(head.data() + 12, &chunk_size, 4);
  std::memcpy(head.data() + 16, &chunks, 4);
  std::memcpy(head.data() + 24, manifest_digest, 32);
  if (!write(head.data(), head.size(), 0)) throw_errno("pwrite", "writing the log of reads " + path);
  end_ = kHead;
}

// A disk that is full costs the trace, not the read: so the file is not mapped, which would be fatal then.
bool AccessLog::write(const void* from, size_t size, uint64_t at) {
  return ::pwrite(file_.get(), from, size, static_cast<off_t>(at)) == static_cast<ssize_t>(size);
}

void AccessLog::add(uint32_t first, uint32_t last, uint64_t bytes,
                    std::chrono::steady_clock::time_point begin, uint64_t waited_us) {
  const std::lock_guard lock(mutex_);
  counters_[kReads]++;
  counters_[kBytes] += bytes;
  if (waited_us > 0) {
    counters_[kWaitedReads]++;
    counters_[kWaitedUs] += waited_us;
    if (waited_us > kStallUs) counters_[kStalls]++;
    counters_[kLongestUs] = std::max(counters_[kLongestUs], waited_us);
  }
  write(counters_.data(), sizeof counters_, kCountersAt);
  const auto at = std::chrono::duration_cast<std::chrono::microseconds>(begin - start_).count();
  const uint32_t waited = waited_us > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(waited_us);
  for (uint32_t chunk = first; chunk <= last && chunk < chunks_; chunk++) {
    if (seen_[chunk]) continue;
    // The read's wait is the first chunk's, so that it is counted once.
    const Record record = {static_cast<uint64_t>(at < 0 ? 0 : at), chunk, chunk == first ? waited : 0};
    if (!write(&record, sizeof record, end_)) return;
    end_ += sizeof record;
    seen_[chunk] = true;
  }
}

void AccessLog::failed() {
  const std::lock_guard lock(mutex_);
  counters_[kFailedReads]++;
  write(counters_.data(), sizeof counters_, kCountersAt);
}

}  // namespace hypertwin::nbdkit
