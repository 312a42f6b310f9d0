// Where a log's bytes go. A sink knows segments and bytes, no records; it is used by one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/fd.h"

namespace hypertwin::log {

// Every method throws Error when it fails; the writer then stops and may call it again later.
class Sink {
 public:
  virtual ~Sink() = default;
  // Ends the open segment and begins segment `number` with `header` as its first bytes: all or nothing.
  virtual void begin_segment(uint32_t number, std::span<const uint8_t> header) = 0;
  // Writes all of `bytes` at `offset` of the open segment. The writer goes on at the end, or, after a
  // failure, again at an offset that it wrote before, with the same bytes.
  virtual void write(uint64_t offset, std::span<const uint8_t> bytes) = 0;
  // Cuts off what a failed write left behind `size`. May do nothing.
  virtual void truncate(uint64_t size) = 0;
  // Returns when everything written lies on stable storage (or is acknowledged).
  virtual void sync() = 0;
  // For messages: a path, an address.
  virtual std::string name() const = 0;
};

// The system calls of FileSink; tests put failing ones here.
struct FileCalls {
  std::function<ssize_t(int, const void*, size_t, off_t)> pwrite;
  std::function<int(int)> fdatasync;
  std::function<int(int, off_t)> ftruncate;
  static FileCalls system();
};

// Segments as files in a directory, which is created if absent and must hold no segment
// (Error("LOG_EXISTS")). A segment appears under its name with its whole header in it. Files are private
// to the user: a log holds what the guest received.
class FileSink : public Sink {
 public:
  explicit FileSink(std::filesystem::path directory, FileCalls calls = FileCalls::system());
  void begin_segment(uint32_t number, std::span<const uint8_t> header) override;
  void write(uint64_t offset, std::span<const uint8_t> bytes) override;
  void truncate(uint64_t size) override;
  void sync() override;
  std::string name() const override { return path_.string(); }

 private:
  void write_all(int fd, uint64_t offset, std::span<const uint8_t> bytes);

  std::filesystem::path directory_;
  FileCalls calls_;
  Fd directory_fd_;
  Fd file_;
  // The open segment, or the directory before the first.
  std::filesystem::path path_;
  bool directory_dirty_ = false;
};

}  // namespace hypertwin::log
