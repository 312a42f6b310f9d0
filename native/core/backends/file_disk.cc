// pread, pwrite and fdatasync on a thread of its own.
#include "backends/file_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"

namespace hypertwin::backends {

using devices::BlockOperation;
using devices::BlockRequest;
using devices::BlockStatus;

namespace {

// 0, or the errno. A file that ends early reads as zeros: it was cut since it was opened.
int read_all(int fd, std::span<uint8_t> into, uint64_t offset) {
  for (size_t done = 0; done < into.size();) {
    ssize_t n = pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) {
      std::fill(into.begin() + static_cast<ptrdiff_t>(done), into.end(), uint8_t{0});
      return 0;
    }
    done += static_cast<size_t>(n);
  }
  return 0;
}

int write_all(int fd, std::span<const uint8_t> from, uint64_t offset) {
  for (size_t done = 0; done < from.size();) {
    ssize_t n = pwrite(fd, from.data() + done, from.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ENOSPC;
    done += static_cast<size_t>(n);
  }
  return 0;
}

// Whether an error says that the file system or the device cannot do it, or not with this alignment.
bool cannot(int err) { return err == EOPNOTSUPP || err == ENOSYS || err == ENOTTY || err == EINVAL; }

// Frees the space of a range or, for `zero_range`, keeps it and zeroes it; 0, or the errno.
int change_space(int fd, bool block_device, bool zero_range, uint64_t offset, uint64_t size) {
  int result;
  do {
    if (block_device) {
      uint64_t range[2] = {offset, size};
      result = ioctl(fd, zero_range ? BLKZEROOUT : BLKDISCARD, range);
    } else {
      result = fallocate(fd, FALLOC_FL_KEEP_SIZE | (zero_range ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE),
                         static_cast<off_t>(offset), static_cast<off_t>(size));
    }
  } while (result < 0 && errno == EINTR);
  return result < 0 ? errno : 0;
}

int write_zeroes(int fd, bool block_device, bool unmap, uint64_t offset, uint64_t size) {
  // A hole in a file reads as zeros; what a block device discarded need not.
  int err = change_space(fd, block_device, block_device || !unmap, offset, size);
  if (!cannot(err)) return err;
  const std::vector<uint8_t> zeros(static_cast<size_t>(std::min<uint64_t>(size, FileDisk::kBlockBytes)));
  for (uint64_t done = 0; done < size;) {
    const uint64_t n = std::min<uint64_t>(zeros.size(), size - done);
    if ((err = write_all(fd, std::span(zeros).first(static_cast<size_t>(n)), offset + done)) != 0) return err;
    done += n;
  }
  return 0;
}

}  // namespace

FileDisk::FileDisk(const std::string& path, bool read_only, OnComplete on_complete)
    : path_(path), read_only_(read_only), on_complete_(std::move(on_complete)) {
  fd_ = Fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd_) throw_errno("open", "opening the disk image " + path);
  struct stat status {};
  if (fstat(fd_.get(), &status) < 0) throw_errno("fstat", "looking at the disk image " + path);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    throw Error("EINVAL", "the disk image " + path + " is neither a file nor a block device");
  block_device_ = S_ISBLK(status.st_mode);
  off_t end = lseek(fd_.get(), 0, SEEK_END);
  if (end < 0) throw_errno("lseek", "measuring the disk image " + path);
  size_ = static_cast<uint64_t>(end);
  written_ = std::make_unique<std::atomic<uint64_t>[]>((blocks() + 63) / 64);
  thread_ = std::thread([this] { run(); });
}

FileDisk::~FileDisk() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  thread_.join();
}

void FileDisk::submit(BlockRequest request) {
  {
    std::unique_lock lock(mutex_);
    space_.wait(lock, [this] { return queue_.size() < kMaxQueued; });
    queue_.push_back(std::move(request));
  }
  work_.notify_one();
}

void FileDisk::drain() {
  std::unique_lock lock(mutex_);
  const uint64_t target = submitted();
  space_.wait(lock, [&] { return completed_ >= target; });
}

FileDisk::Completion FileDisk::perform(BlockRequest& request) {
  Completion done;
  done.ordinal = request.ordinal;
  if (request.offset > size_ ||
      std::max<uint64_t>(request.size, request.data.size()) > size_ - request.offset) {
    done.err = EINVAL;
  } else if (request.operation == BlockOperation::kRead) {
    done.data.resize(request.size);
    done.err = read_all(fd_.get(), done.data, request.offset);
    if (done.err) done.data.clear();
  } else if (request.operation == BlockOperation::kWrite) {
    done.err = read_only_ ? EROFS : write_all(fd_.get(), request.data, request.offset);
    // Also a write that failed may have changed a part.
    if (!read_only_) mark_written(request.offset, request.data.size());
    if (!done.err && request.durable && fdatasync(fd_.get()) < 0) done.err = errno;
  } else if (request.operation == BlockOperation::kFlush) {
    if (!read_only_ && fdatasync(fd_.get()) < 0) done.err = errno;
  } else if (request.operation == BlockOperation::kDiscard) {
    done.err =
        read_only_ ? EROFS : change_space(fd_.get(), block_device_, false, request.offset, request.size);
    if (!read_only_) mark_written(request.offset, request.size);
    if (cannot(done.err)) done.err = 0;  // a wish
  } else if (request.operation == BlockOperation::kWriteZeroes) {
    done.err = read_only_
                   ? EROFS
                   : write_zeroes(fd_.get(), block_device_, request.unmap, request.offset, request.size);
    if (!read_only_) mark_written(request.offset, request.size);
    if (!done.err && request.durable && fdatasync(fd_.get()) < 0) done.err = errno;
  } else {
    done.status = BlockStatus::kUnsupported;
  }
  if (done.err) done.status = BlockStatus::kIoError;
  return done;
}

void FileDisk::mark_written(uint64_t offset, uint64_t size) {
  if (size == 0) return;
  for (uint64_t block = offset / kBlockBytes; block <= (offset + size - 1) / kBlockBytes; ++block)
    written_[block / 64].fetch_or(uint64_t{1} << (block % 64), std::memory_order_release);
}

void FileDisk::take_written(std::span<uint64_t> bitmap) {
  const size_t words = std::min<size_t>(bitmap.size(), (blocks() + 63) / 64);
  for (size_t i = 0; i < words; ++i)
    if (written_[i].load(std::memory_order_relaxed))
      bitmap[i] |= written_[i].exchange(0, std::memory_order_acquire);
}

void FileDisk::read_at(uint64_t offset, std::span<uint8_t> into) const {
  if (offset > size_ || into.size() > size_ - offset)
    throw Error("ERANGE", "reading beyond the end of the disk image " + path_);
  if (int err = read_all(fd_.get(), into, offset))
    throw Error::system(err, "pread", "reading the disk image " + path_);
}

void FileDisk::write_at(uint64_t offset, std::span<const uint8_t> from) {
  if (offset > size_ || from.size() > size_ - offset)
    throw Error("ERANGE", "writing beyond the end of the disk image " + path_);
  if (int err = read_only_ ? EROFS : write_all(fd_.get(), from, offset))
    throw Error::system(err, "pwrite", "writing the disk image " + path_);
  mark_written(offset, from.size());
}

void FileDisk::sync() {
  if (!read_only_ && fdatasync(fd_.get()) < 0) throw_errno("fdatasync", "writing the disk image " + path_);
}

void FileDisk::run() {
  pthread_setname_np(pthread_self(), "ht-blk");
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    BlockRequest request = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    on_complete_(perform(request));
    lock.lock();
    busy_ = false;
    ++completed_;
    space_.notify_all();
  }
}

}  // namespace hypertwin::backends
