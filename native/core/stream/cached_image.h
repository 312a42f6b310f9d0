// An image by its local copy: what is here is read from it, what is missing is asked for and waited for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "stream/cache_view.h"
#include "stream/manager.h"

namespace hypertwin::stream {

class CachedImage {
 public:
  // `folder`, `pause`: as of CacheView and Manager.
  CachedImage(const std::string& folder, std::function<bool(int)> pause)
      : view_(folder), manager_(view_.folder(), view_.chunk_size(), std::move(pause)) {}

  const CacheView& view() const { return view_; }
  // Whether [offset, offset + size), which is not empty and of the image, is here.
  bool here(uint64_t offset, uint64_t size) const;
  // Waits for chunks. Those that the copy has no room for come as they are. Throws as Manager::need().
  std::vector<Loose> bring(uint64_t offset, uint64_t size);
  // Reads what is not empty and of the image; false when somebody had to be asked. Throws also as
  // CacheView::read().
  bool read(void* to, size_t size, uint64_t offset);

 private:
  uint32_t chunk_at(uint64_t offset) const { return static_cast<uint32_t>(offset / view_.chunk_size()); }
  bool missing(uint32_t chunk) const { return view_.chunk(chunk) == CacheView::Chunk::kMissing; }
  const CacheView view_;
  Manager manager_;
};

}  // namespace hypertwin::stream
