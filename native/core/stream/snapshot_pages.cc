#include "stream/snapshot_pages.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace hypertwin::stream {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLookMs = 2;
constexpr int kRoomMs = 2000;
thread_local Clock::time_point waits_since;

}  // namespace

SnapshotPages::SnapshotPages(const std::string& cache, unsigned wait_seconds)
    : path_(cache + "/image"),
      wait_seconds_(wait_seconds),
      image_(cache, [this](int ms) { return pause(ms); }) {}

bool SnapshotPages::pause(int ms) {
  if (wait_seconds_ != 0 && Clock::now() - waits_since > std::chrono::seconds(wait_seconds_)) return false;
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return cancelled_; });
}

void SnapshotPages::cancelled() {
  throw Error("CLOSED", "the machine was closed before its memory had come");
}

void SnapshotPages::cancel() {
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  wake_.notify_all();
}

// Says why nobody waits any longer.
template <class Read>
void SnapshotPages::waiting(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    {
      std::lock_guard lock(mutex_);
      if (cancelled_) cancelled();
    }
    if (error.code() != "ESHUTDOWN") throw;
    throw Error("ETIMEDOUT", "nobody has brought the machine's memory for " + std::to_string(wait_seconds_) +
                                 " s: is the stream into " + path_ + " still there?");
  }
}

void SnapshotPages::keep(uint64_t offset, uint64_t size) {
  waits_since = Clock::now();
  if (image_.bring(offset, size).empty()) return;
  // What it was given may be on its way into the cache still, or finds no room there.
  for (int waited = 0; waited < kRoomMs && pause(kLookMs); waited += kLookMs)
    if (image_.here(offset, size)) return;
  if (!image_.here(offset, size))
    throw Error("CACHE_FULL", "there is no room for the snapshot's state beside " + path_ +
                                  ": make some, or put the cache elsewhere");
}

std::shared_ptr<const machine::SnapshotFile> SnapshotPages::open() {
  return std::make_shared<machine::SnapshotFile>(
      path_, [this](uint64_t offset, uint64_t size) { waiting([&] { keep(offset, size); }); });
}

std::vector<uint64_t> SnapshotPages::pages_of(std::span<const uint32_t> chunks) const {
  std::vector<uint64_t> pages;
  pages.reserve(chunks.size());
  for (uint64_t chunk : chunks) {
    const uint64_t offset = chunk * image_.view().chunk_size();
    pages.push_back(
        (std::max(offset, machine::SnapshotFile::kMemoryOffset) - machine::SnapshotFile::kMemoryOffset) /
        devices::kPageSize);
  }
  return pages;
}

machine::Pager::Options SnapshotPages::options() const {
  machine::Pager::Options options;
  options.block = image_.view().chunk_size() / devices::kPageSize;
  options.phase = machine::SnapshotFile::kMemoryOffset / devices::kPageSize % options.block;
  return options;
}

void SnapshotPages::read(uint64_t first, std::span<uint8_t> into, bool urgent) {
  const uint64_t offset = machine::SnapshotFile::kMemoryOffset + first * devices::kPageSize;
  waits_since = Clock::now();
  if (!urgent) {
    // It comes in its turn; who asks for it would only be in the way of what is urgent.
    std::unique_lock lock(mutex_);
    while (!cancelled_ && !image_.here(offset, into.size()))
      wake_.wait_for(lock, std::chrono::milliseconds(kLookMs));
    if (cancelled_) cancelled();
  }
  waiting([&] { image_.read(into.data(), into.size(), offset); });
}

bool SnapshotPages::here(uint64_t first, uint64_t pages) const {
  return image_.here(machine::SnapshotFile::kMemoryOffset + first * devices::kPageSize,
                     pages * devices::kPageSize);
}

}  // namespace hypertwin::stream
