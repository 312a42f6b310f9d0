// Segments as files.
#include "log/sink.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>

#include "base/error.h"
#include "base/new_file.h"
#include "log/format.h"

namespace hypertwin::log {

namespace {

int sync_file(const FileCalls& calls, int fd) {
  int rc;
  do {
    rc = calls.fdatasync(fd);
  } while (rc != 0 && errno == EINTR);
  return rc;
}

[[noreturn]] void there_is_one(const std::filesystem::path& directory) {
  throw Error("LOG_EXISTS",
              "There is a log in " + directory.string() + " already: choose another directory or remove it");
}

}  // namespace

FileCalls FileCalls::system() { return {::pwrite, ::fdatasync, ::ftruncate}; }

FileSink::FileSink(std::filesystem::path directory, FileCalls calls)
    : directory_(std::move(directory)), calls_(std::move(calls)), path_(directory_) {
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    throw_errno("mkdir", "creating the log's directory " + directory_.string());
  }
  directory_fd_ = Fd(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory_fd_) throw_errno("open", "opening the log's directory " + directory_.string());
  std::error_code failure;
  for (std::filesystem::directory_iterator it(directory_, failure), end; !failure && it != end;
       it.increment(failure)) {
    if (segment_number(it->path().filename().string()) != 0) there_is_one(directory_);
  }
  if (failure) throw Error::system(failure.value(), "readdir", "looking into " + directory_.string());
}

void FileSink::write_all(int fd, uint64_t offset, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    ssize_t n = calls_.pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno("pwrite", "writing to the log");
    }
    if (n == 0) throw Error::system(ENOSPC, "pwrite", "writing to the log");
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void FileSink::begin_segment(uint32_t number, std::span<const uint8_t> header) {
  const std::string name = segment_name(number);
  try {
    NewFile file(directory_fd_.get(), name, ".new");
    write_all(file.fd(), 0, header);
    file.give_name(NewFile::Over::kNone);
    file_ = file.take();
  } catch (const Error& error) {
    // Another sink's, which found the directory empty too.
    if (error.code() == "EEXIST" || error.code() == "BUSY") there_is_one(directory_);
    throw;
  }
  path_ = directory_ / name;
  directory_dirty_ = true;
}

void FileSink::write(uint64_t offset, std::span<const uint8_t> bytes) {
  write_all(file_.get(), offset, bytes);
}

void FileSink::truncate(uint64_t size) {
  int rc;
  do {
    rc = calls_.ftruncate(file_.get(), static_cast<off_t>(size));
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) throw_errno("ftruncate", "cutting a part of a block off the log");
}

void FileSink::sync() {
  if (sync_file(calls_, file_.get()) != 0) throw_errno("fdatasync", "syncing the log");
  if (!directory_dirty_) return;
  if (::fsync(directory_fd_.get()) != 0) throw_errno("fsync", "syncing the log's directory");
  directory_dirty_ = false;
}

}  // namespace hypertwin::log
