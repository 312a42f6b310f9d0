#include "access_log.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

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

void add_to(uint64_t& counter, uint64_t value) { __atomic_fetch_add(&counter, value, __ATOMIC_RELAXED); }

}  // namespace

struct AccessLog::Counters {
  uint64_t reads;
  uint64_t bytes;
  uint64_t waited_reads;
  uint64_t waited_us;
  uint64_t longest_us;
  uint64_t stalls;
  uint64_t failed_reads;
};

AccessLog::AccessLog(const std::string& path, uint32_t chunk_size, uint32_t chunks,
                     const uint8_t* manifest_digest)
    : file_(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600)),
      start_(std::chrono::steady_clock::now()),
      chunks_(chunks),
      seen_(std::make_unique<uint8_t[]>(chunks)) {
  if (!file_) throw_errno("open", "writing the log of reads " + path);
  std::vector<uint8_t> head(kHead);
  std::memcpy(head.data(), kMagic, 8);
  std::memcpy(head.data() + 8, &kVersion, 4);
  std::memcpy(head.data() + 12, &chunk_size, 4);
  std::memcpy(head.data() + 16, &chunks, 4);
  std::memcpy(head.data() + 24, manifest_digest, 32);
  if (write(file_.get(), head.data(), head.size()) != static_cast<ssize_t>(head.size()))
    throw_errno("write", "writing the log of reads " + path);
  head_ = Mapping::map(kHead, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0, "the log of reads");
  counters_ = reinterpret_cast<Counters*>(head_.data() + kCountersAt);
}

void AccessLog::add(uint32_t first, uint32_t last, uint64_t bytes,
                    std::chrono::steady_clock::time_point begin, uint64_t waited_us) {
  add_to(counters_->reads, 1);
  add_to(counters_->bytes, bytes);
  if (waited_us > 0) {
    add_to(counters_->waited_reads, 1);
    add_to(counters_->waited_us, waited_us);
    if (waited_us > kStallUs) add_to(counters_->stalls, 1);
    uint64_t longest = __atomic_load_n(&counters_->longest_us, __ATOMIC_RELAXED);
    while (waited_us > longest && !__atomic_compare_exchange_n(&counters_->longest_us, &longest, waited_us,
                                                               true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }
  const auto at = std::chrono::duration_cast<std::chrono::microseconds>(begin - start_).count();
  const uint32_t waited = waited_us > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(waited_us);
  for (uint32_t chunk = first; chunk <= last && chunk < chunks_; chunk++) {
    if (__atomic_load_n(&seen_[chunk], __ATOMIC_RELAXED) != 0 ||
        __atomic_exchange_n(&seen_[chunk], uint8_t{1}, __ATOMIC_RELAXED) != 0)
      continue;
    // Whole records, since the file is opened for appending. A disk that is full costs the trace, not the
    // read. The read's wait is the first chunk's, so that it is counted once.
    const Record record = {static_cast<uint64_t>(at < 0 ? 0 : at), chunk, chunk == first ? waited : 0};
    if (write(file_.get(), &record, sizeof record) != sizeof record) return;
  }
}

void AccessLog::failed() { add_to(counters_->failed_reads, 1); }

}  // namespace hypertwin::nbdkit
