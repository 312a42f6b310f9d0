// A memory mapping that is unmapped exactly once.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace hypertwin {

class Mapping {
 public:
  Mapping() = default;
  // mmap(2); throws Error naming what it was for.
  static Mapping map(size_t size, int prot, int flags, int fd, off_t offset, std::string_view what);
  // Anonymous and private, to be read and written, beginning at a multiple of `alignment`, a power of 2.
  static Mapping aligned(size_t size, size_t alignment, std::string_view what);
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  void reset();

 private:
  Mapping(uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace hypertwin
