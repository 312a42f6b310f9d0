#include "stream/cache_view.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace hypertwin::stream {
namespace {

constexpr size_t kHead = 4096;
constexpr char kMagic[] = "htchunks";
constexpr uint32_t kVersion = 1;
constexpr size_t kCleanAt = 28, kBootAt = 64, kBootSize = 36;

Fd open_in(int folder, const char* name, int flags) {
  Fd fd(openat(folder, name, flags | O_CLOEXEC));
  if (!fd) throw_errno("openat", std::string("opening the cache's file ") + name);
  return fd;
}

uint64_t size_of(const Fd& fd) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) throw_errno("fstat", "looking at the cache");
  return static_cast<uint64_t>(info.st_size);
}

template <typename T>
T at(const Mapping& map, size_t offset) {
  T value;
  std::memcpy(&value, map.data() + offset, sizeof value);
  return value;
}

std::string boot_id() {
  std::string id(kBootSize, '\0');
  const Fd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  if (!fd || ::read(fd.get(), id.data(), id.size()) != static_cast<ssize_t>(id.size()))
    throw_errno("read", "reading the kernel's boot id");
  return id;
}

}  // namespace

CacheView::CacheView(const std::string& folder)
    : folder_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (!folder_) throw_errno("open", "opening the cache " + folder);
  image_ = open_in(folder_.get(), "image", O_RDONLY);
  const Fd map = open_in(folder_.get(), "chunks", O_RDONLY);
  const uint64_t size = size_of(map);
  const auto bad = [&](const char* what) {
    return Error("BAD_CACHE", "the folder " + folder + " holds no image's cache: " + what);
  };
  if (size <= kHead) throw bad("its map is too short");
  map_ = Mapping::map(size, PROT_READ, MAP_SHARED, map.get(), 0, "the cache's map");
  if (std::memcmp(map_.data(), kMagic, 8) != 0) throw bad("its map does not begin as one");
  if (at<uint32_t>(map_, 8) != kVersion) throw bad("its map has another version");
  // Else chunks may count as here that a power failure has lost.
  if (at<uint32_t>(map_, kCleanAt) != 1 &&
      std::memcmp(map_.data() + kBootAt, boot_id().data(), kBootSize) != 0)
    throw bad(
        "it has not been looked through since the host started: stream into it first, or open it again when "
        "that has begun");
  chunk_size_ = at<uint32_t>(map_, 12);
  image_size_ = at<uint64_t>(map_, 16);
  chunks_ = at<uint32_t>(map_, 24);
  if (chunk_size_ < 4096 || chunk_size_ > (1u << 20) || (chunk_size_ & (chunk_size_ - 1)) != 0)
    throw bad("its chunks have no size");
  if (size != kHead + chunks_ || image_size_ != size_of(image_) || image_size_ == 0 ||
      (image_size_ - 1) / chunk_size_ + 1 != chunks_)
    throw bad("its files' sizes do not fit");
}

CacheView::Chunk CacheView::chunk(uint32_t number) const {
  const uint8_t value = __atomic_load_n(map_.data() + kHead + number, __ATOMIC_ACQUIRE);
  return value == 1 ? Chunk::kHere : value == 2 ? Chunk::kHole : Chunk::kMissing;
}

void CacheView::read(void* to, size_t size, uint64_t offset) const {
  auto* bytes = static_cast<uint8_t*>(to);
  while (size > 0) {
    const ssize_t got = pread(image_.get(), bytes, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("pread", "reading the cache");
    if (got == 0) throw Error("BAD_CACHE", "the cache's image has been cut");
    bytes += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
}

}  // namespace hypertwin::stream
