// A snapshot that is streamed: its file is an image's local copy, and its memory comes as that does.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "machine/pager.h"
#include "machine/snapshot.h"
#include "stream/cached_image.h"

namespace hypertwin::stream {

class SnapshotPages final : public machine::PageSource {
 public:
  // `cache`: the copy's folder. `wait_seconds`: how long a page that somebody waits for may take; 0: for
  // ever.
  SnapshotPages(const std::string& cache, unsigned wait_seconds);

  // Waits for all but the memory. Throws as SnapshotFile, and Error: CACHE_FULL, what makes chunks impossible
  // to have.
  std::shared_ptr<const machine::SnapshotFile> open();
  // The first page of memory that lies in each chunk.
  std::vector<uint64_t> pages_of(std::span<const uint32_t> chunks) const;
  // Pages as they lie in chunks.
  machine::Pager::Options options() const;

  void read(uint64_t first, std::span<uint8_t> into, bool urgent) override;
  bool here(uint64_t first, uint64_t pages) const override;
  void cancel() override;

 private:
  // False when there is no use in waiting any longer.
  bool pause(int ms);
  [[noreturn]] static void cancelled();
  void keep(uint64_t offset, uint64_t size);
  template <class Read>
  void waiting(const Read& read);

  const std::string path_;
  const unsigned wait_seconds_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool cancelled_ = false;  // guarded by mutex_
  CachedImage image_;
};

}  // namespace hypertwin::stream
