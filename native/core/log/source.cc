// Segments from a directory, watched by inotify where that works, and from memory.
#include "log/source.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <system_error>

#include "base/error.h"
#include "base/event.h"
#include "log/format.h"

namespace hypertwin::log {

namespace {

class DirectorySource : public Source {
 public:
  explicit DirectorySource(const std::filesystem::path& directory)
      : directory_(directory), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) throw_errno("eventfd", "watching a log");
    directory_fd_ = Fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory_fd_) {
      throw Error("LOG_NOT_FOUND",
                  "There is no log in " + directory.string() + ": " + std::generic_category().message(errno));
    }
  }

  std::vector<uint32_t> segments() override {
    std::vector<uint32_t> numbers;
    std::error_code failure;
    for (std::filesystem::directory_iterator it(directory_, failure), end; !failure && it != end;
         it.increment(failure)) {
      uint32_t number = segment_number(it->path().filename().string());
      if (number != 0) numbers.push_back(number);
    }
    if (failure) throw Error::system(failure.value(), "readdir", "looking into " + directory_.string());
    std::ranges::sort(numbers);
    return numbers;
  }

  uint64_t size(uint32_t segment) override {
    struct stat status;
    if (::fstat(open(segment), &status) != 0) throw_errno("fstat", "looking at " + segment_name(segment));
    return S_ISREG(status.st_mode) ? static_cast<uint64_t>(status.st_size) : 0;
  }

  size_t read(uint32_t segment, uint64_t offset, std::span<uint8_t> out) override {
    int fd = open(segment);
    size_t have = 0;
    while (have < out.size()) {
      ssize_t n = ::pread(fd, out.data() + have, out.size() - have, static_cast<off_t>(offset + have));
      if (n < 0) {
        if (errno == EINTR) continue;
        throw_errno("pread", "reading " + segment_name(segment));
      }
      if (n == 0) break;
      have += static_cast<size_t>(n);
    }
    return have;
  }

  void wait(std::chrono::milliseconds timeout) override {
    if (!watched_) {
      // What came before the watch must be looked for once more.
      watch();
      return;
    }
    pollfd fds[] = {{wake_.get(), POLLIN, 0}, {inotify_.get(), POLLIN, 0}};
    int rc = ::poll(fds, inotify_ ? 2 : 1, static_cast<int>(timeout.count()));
    if (rc < 0 && errno != EINTR) throw_errno("poll", "waiting for the log to grow");
    if (rc > 0 && inotify_ && (fds[1].revents & POLLIN) != 0) {
      alignas(inotify_event) char events[4096];
      while (::read(inotify_.get(), events, sizeof(events)) > 0) {
      }
    }
  }

  void cancel() override {
    cancelled_.store(true);
    ring(wake_.get());
  }

  bool cancelled() const override { return cancelled_.load(); }

 private:
  int open(uint32_t segment) {
    if (file_ && open_segment_ == segment) return file_.get();
    std::string name = segment_name(segment);
    // Never stops at a FIFO that has a segment's name.
    file_ = Fd(::openat(directory_fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file_) throw_errno("openat", "opening the log segment " + (directory_ / name).string());
    open_segment_ = segment;
    return file_.get();
  }

  // Without inotify (no instance left) the callers' timeout makes it a poll.
  void watch() {
    watched_ = true;
    Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!inotify) return;
    if (::inotify_add_watch(inotify.get(), directory_.c_str(), IN_MODIFY | IN_MOVED_TO | IN_CREATE) < 0)
      return;
    inotify_ = std::move(inotify);
  }

  const std::filesystem::path directory_;
  Fd directory_fd_;
  const Fd wake_;
  Fd inotify_;
  bool watched_ = false;
  Fd file_;
  uint32_t open_segment_ = 0;
  std::atomic<bool> cancelled_{false};
};

class MemorySource : public Source {
 public:
  explicit MemorySource(std::map<uint32_t, std::vector<uint8_t>> segments) : segments_(std::move(segments)) {}

  std::vector<uint32_t> segments() override {
    std::vector<uint32_t> numbers;
    for (const auto& [number, bytes] : segments_) numbers.push_back(number);
    return numbers;
  }
  uint64_t size(uint32_t segment) override { return segments_.at(segment).size(); }
  size_t read(uint32_t segment, uint64_t offset, std::span<uint8_t> out) override {
    const auto& bytes = segments_.at(segment);
    if (offset >= bytes.size()) return 0;
    size_t count = std::min(out.size(), bytes.size() - static_cast<size_t>(offset));
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), count, out.begin());
    return count;
  }
  void wait(std::chrono::milliseconds) override {}
  void cancel() override { cancelled_.store(true); }
  bool cancelled() const override { return cancelled_.load(); }

 private:
  const std::map<uint32_t, std::vector<uint8_t>> segments_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace

std::unique_ptr<Source> open_directory(const std::filesystem::path& directory) {
  return std::make_unique<DirectorySource>(directory);
}

std::unique_ptr<Source> memory_source(std::map<uint32_t, std::vector<uint8_t>> segments) {
  return std::make_unique<MemorySource>(std::move(segments));
}

}  // namespace hypertwin::log
