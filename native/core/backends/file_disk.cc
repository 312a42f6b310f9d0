// preadv, pwritev and fdatasync on threads of its own.
#include "backends/file_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace hypertwin::backends {

using devices::BlockOperation;
using devices::BlockRequest;
using devices::BlockStatus;

namespace {

// So many parts in one call.
constexpr size_t kMaxParts = 1024;

// Moves all of `parts`, with `call(first, count, offset)`: preadv or pwritev. What has moved is cut off; 0,
// or the errno. A file that ends early reads as zeros: it was cut since it was opened.
template <class Call>
int move_all(std::span<iovec> parts, uint64_t offset, bool reading, Call&& call) {
  while (!parts.empty()) {
    ssize_t n = call(parts.data(), static_cast<int>(std::min(parts.size(), kMaxParts)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0 && !reading) return ENOSPC;
    if (n == 0) {
      for (const iovec& part : parts) std::memset(part.iov_base, 0, part.iov_len);
      return 0;
    }
    offset += static_cast<uint64_t>(n);
    size_t left = static_cast<size_t>(n);
    while (!parts.empty() && left >= parts[0].iov_len) {
      left -= parts[0].iov_len;
      parts = parts.subspan(1);
    }
    if (left > 0) {
      parts[0].iov_base = static_cast<uint8_t*>(parts[0].iov_base) + left;
      parts[0].iov_len -= left;
    }
  }
  return 0;
}

int read_all(int fd, std::span<iovec> parts, uint64_t offset) {
  return move_all(parts, offset, true, [fd](const iovec* first, int count, uint64_t at) {
    return preadv(fd, first, count, static_cast<off_t>(at));
  });
}

int read_all(int fd, std::span<uint8_t> into, uint64_t offset) {
  iovec part{into.data(), into.size()};
  return read_all(fd, std::span(&part, 1), offset);
}

int write_all(int fd, std::span<iovec> parts, uint64_t offset) {
  return move_all(parts, offset, false, [fd](const iovec* first, int count, uint64_t at) {
    return pwritev(fd, first, count, static_cast<off_t>(at));
  });
}

int write_all(int fd, std::span<const uint8_t> from, uint64_t offset) {
  iovec part{const_cast<uint8_t*>(from.data()), from.size()};
  return write_all(fd, std::span(&part, 1), offset);
}

// Whether all was in the host's memory, and is read.
bool read_at_hand(int fd, const BlockRequest& request) {
  return request.parts.size() <= kMaxParts &&
         preadv2(fd, request.parts.data(), static_cast<int>(request.parts.size()),
                 static_cast<off_t>(request.offset), RWF_NOWAIT) == static_cast<ssize_t>(request.size);
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

FileDisk::FileDisk(const std::string& path, Options options, OnComplete on_complete)
    : Disk(std::move(options)), path_(path), on_complete_(std::move(on_complete)) {
  fd_ = Fd(open(path.c_str(), (options_.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd_) throw_errno("open", "opening the disk image " + path);
  struct stat status {};
  if (fstat(fd_.get(), &status) < 0) throw_errno("fstat", "looking at the disk image " + path);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    throw Error("EINVAL", "the disk image " + path + " is neither a file nor a block device");
  block_device_ = S_ISBLK(status.st_mode);
  off_t end = lseek(fd_.get(), 0, SEEK_END);
  if (end < 0) throw_errno("lseek", "measuring the disk image " + path);
  set_size(static_cast<uint64_t>(end));
  struct statfs system {};
  in_memory_ = !block_device_ && fstatfs(fd_.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
  active_ = 1;
  threads_.emplace_back([this] { run(); });
}

FileDisk::~FileDisk() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  // Whoever ends lets no other begin: from here on there are no more.
  for (size_t i = 0;; ++i) {
    std::unique_lock lock(mutex_);
    if (i >= threads_.size()) break;
    std::thread thread = std::move(threads_[i]);
    lock.unlock();
    thread.join();
  }
}

void FileDisk::wake() {
  if (active_ + called_ > 0 || held_ || queue_.empty()) return;
  if (idle_ > 0) {
    ++called_;
    work_.notify_one();
  } else if (threads_.size() < options_.threads && !stop_) {
    try {
      threads_.emplace_back([this] { run(); });
      ++active_;
    } catch (const std::system_error&) {
      // Those that there are do it later.
    }
  }
}

void FileDisk::submit(BlockRequest request) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.size() < kMaxQueued; });
  queue_.push_back(std::move(request));
  wake();
}

void FileDisk::drain() {
  std::unique_lock lock(mutex_);
  const uint64_t target = submitted();
  changed_.wait(lock, [&] { return completed_ >= target; });
}

void FileDisk::hold() {
  std::unique_lock lock(mutex_);
  held_ = true;
  changed_.wait(lock, [this] { return performing_ == 0; });
}

void FileDisk::release() {
  std::lock_guard lock(mutex_);
  held_ = false;
  wake();
}

void FileDisk::cancel() {
  auto forget = [this] {
    completed_ += queue_.size();
    queue_.clear();
    changed_.notify_all();
  };
  std::unique_lock lock(mutex_);
  forget();
  changed_.wait(lock, [this] { return performing_ == 0; });
  forget();  // what a thread has put back
}

int FileDisk::move_data(BlockRequest& request, std::vector<uint8_t>& data) {
  const bool reading = request.operation == BlockOperation::kRead;
  iovec whole{};
  std::span<iovec> parts = request.parts;
  if (parts.empty()) {
    if (reading) data.resize(request.size);
    auto& bytes = reading ? data : request.data;
    whole = {bytes.data(), bytes.size()};
    parts = std::span(&whole, 1);
  }
  const int err =
      reading ? read_all(fd_.get(), parts, request.offset) : write_all(fd_.get(), parts, request.offset);
  if (err) data.clear();
  return err;
}

std::optional<FileDisk::Completion> FileDisk::perform_at_hand(BlockRequest& request) {
  if (options_.threads == 1) return {};
  if (in_memory_) return perform(request);
  if (request.operation != BlockOperation::kRead || request.parts.empty() || request.offset > size_ ||
      request.size > size_ - request.offset || !read_at_hand(fd_.get(), request))
    return {};
  Completion done;
  done.ordinal = request.ordinal;
  return done;
}

FileDisk::Completion FileDisk::perform(BlockRequest& request) {
  Completion done;
  done.ordinal = request.ordinal;
  const bool changes =
      request.operation != BlockOperation::kRead && request.operation != BlockOperation::kFlush;
  const uint64_t size = std::max<uint64_t>(request.size, request.data.size());
  auto sync = [this] { return fdatasync(fd_.get()) < 0 ? errno : 0; };
  if (request.offset > size_ || size > size_ - request.offset) {
    done.err = EINVAL;
  } else if (changes && options_.read_only) {
    done.err = EROFS;
  } else {
    switch (request.operation) {
      case BlockOperation::kRead:
      case BlockOperation::kWrite:
        done.err = move_data(request, done.data);
        break;
      case BlockOperation::kFlush:
        if (!options_.read_only) done.err = sync();
        break;
      case BlockOperation::kDiscard:
        done.err = change_space(fd_.get(), block_device_, false, request.offset, request.size);
        break;
      case BlockOperation::kWriteZeroes:
        done.err = write_zeroes(fd_.get(), block_device_, request.unmap, request.offset, request.size);
        break;
      default:
        done.status = BlockStatus::kUnsupported;
        return done;
    }
    // Also one that failed may have changed a part.
    if (changes) mark_written(request.offset, size);
    if (request.operation == BlockOperation::kDiscard && cannot(done.err)) done.err = 0;  // a wish
    if (!done.err && changes && request.durable) done.err = sync();
  }
  if (done.err) done.status = BlockStatus::kIoError;
  return done;
}

void FileDisk::read_at(uint64_t offset, std::span<uint8_t> into) {
  if (offset > size_ || into.size() > size_ - offset)
    throw Error("ERANGE", "reading beyond the end of the disk image " + path_);
  if (int err = read_all(fd_.get(), into, offset))
    throw Error::system(err, "pread", "reading the disk image " + path_);
}

void FileDisk::sync() {
  if (!options_.read_only && fdatasync(fd_.get()) < 0)
    throw_errno("fdatasync", "writing the disk image " + path_);
}

void FileDisk::run() {
  pthread_setname_np(pthread_self(), "ht-blk");
  std::vector<Completion> batch;
  std::unique_lock lock(mutex_);
  // The mutex is held, but not while they are told.
  auto tell = [&] {
    lock.unlock();
    for (Completion& completion : batch) on_complete_(std::move(completion));
    if (options_.on_pause) options_.on_pause();
    lock.lock();
    completed_ += batch.size();
    taken_ -= static_cast<unsigned>(batch.size());
    batch.clear();
    changed_.notify_all();
  };
  for (;;) {
    if (queue_.empty() || (held_ && !stop_)) {
      if (!batch.empty()) {
        tell();
        continue;
      }
      --active_;
      if (stop_ && queue_.empty()) return;
      ++idle_;
      work_.wait(lock);
      --idle_;
      if (called_ > 0) --called_;
      ++active_;
      continue;
    }
    BlockRequest request = std::move(queue_.front());
    queue_.pop_front();
    ++taken_;
    ++performing_;
    changed_.notify_all();
    lock.unlock();
    std::optional<Completion> done = perform_at_hand(request);
    lock.lock();
    if (!done && !batch.empty()) {
      // Nobody waits for what is completed until this is.
      queue_.push_front(std::move(request));
      --taken_;
      if (--performing_ == 0) changed_.notify_all();
      tell();
      continue;
    }
    if (!done) {
      --active_;
      wake();
      lock.unlock();
      done = perform(request);
      lock.lock();
      ++active_;
    }
    batch.push_back(std::move(*done));
    if (--performing_ == 0) changed_.notify_all();
    if (batch.size() >= options_.batch) tell();
  }
}

}  // namespace hypertwin::backends
