// An image's local copy as lib/stream/cache.ts writes it, looked at while it grows: which chunks are there,
// and their bytes. docs/stream-format.md describes the files; what they say is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/mapping.h"

namespace hypertwin::stream {

class CacheView {
 public:
  enum class Chunk : uint8_t { kMissing = 0, kHere = 1, kHole = 2 };

  explicit CacheView(const std::string& folder);

  uint64_t image_size() const { return image_size_; }
  uint32_t chunk_size() const { return chunk_size_; }
  uint32_t chunks() const { return chunks_; }
  // 32 bytes.
  const uint8_t* manifest_digest() const { return map_.data() + 32; }
  // For sockets in the folder, however long its path is.
  int folder() const { return folder_.get(); }

  // What the writer did before it said so is seen after this.
  Chunk chunk(uint32_t number) const;
  // Of chunks that are here or holes; throws when the file has less.
  void read(void* to, size_t size, uint64_t offset) const;

 private:
  Fd folder_;
  Fd image_;
  Mapping map_;
  uint64_t image_size_ = 0;
  uint32_t chunk_size_ = 0;
  uint32_t chunks_ = 0;
};

}  // namespace hypertwin::stream
