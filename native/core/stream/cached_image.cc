#include "stream/cached_image.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace hypertwin::stream {

bool CachedImage::here(uint64_t offset, uint64_t size) const {
  for (uint32_t chunk = chunk_at(offset); chunk <= chunk_at(offset + size - 1); ++chunk)
    if (missing(chunk)) return false;
  return true;
}

std::vector<Loose> CachedImage::bring(uint64_t offset, uint64_t size) {
  uint32_t first = chunk_at(offset);
  uint32_t last = chunk_at(offset + size - 1);
  while (first <= last && !missing(first)) ++first;
  while (last > first && !missing(last)) --last;
  if (first > last) return {};
  std::vector<Loose> loose = manager_.need(first, last - first + 1, [&] { return here(offset, size); });
  // Who brings them may have made the folder's files anew: then they are not in those that are read here.
  auto given = loose.begin();
  for (uint32_t chunk = first; chunk <= last; ++chunk) {
    while (given != loose.end() && given->chunk < chunk) ++given;
    if (missing(chunk) && (given == loose.end() || given->chunk != chunk))
      throw Error(
          "BAD_CACHE",
          "the cache's files have been made anew since they were opened: start again what reads them");
  }
  return loose;
}

bool CachedImage::read(void* to, size_t size, uint64_t offset) {
  const bool hit = here(offset, size);
  std::vector<Loose> loose;
  if (!hit) loose = bring(offset, size);
  view_.read(to, size, offset);
  for (const Loose& one : loose) {
    const uint64_t at = uint64_t{one.chunk} * view_.chunk_size();
    const uint64_t from = std::max(at, offset);
    const uint64_t end = std::min(at + view_.chunk_size(), offset + size);
    std::memcpy(static_cast<uint8_t*>(to) + (from - offset), one.contents.data() + (from - at), end - from);
  }
  return hit;
}

}  // namespace hypertwin::stream
