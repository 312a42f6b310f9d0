// What a machine's disk is: it takes a device's requests and completes each, on threads of its own. Knows no
// device and no guest.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/device.h"

namespace hypertwin::backends {

// What becomes of the connection to the server that a disk is on.
struct DiskNotice {
  enum class Link : uint8_t {
    kLost,     // broken; it is sought, and requests wait
    kSilent,   // it stands, but nothing has been answered for some seconds
    kBack,     // the server answers again
    kGivenUp,  // sought for as long as was allowed: requests fail until it is back
  };
  Link link = Link::kLost;
  std::string uri;  // without_secrets()
  std::string message;
};

class Disk {
 public:
  static constexpr size_t kMaxQueued = 1024;

  struct Completion {
    uint64_t ordinal = 0;
    devices::BlockStatus status = devices::BlockStatus::kOk;
    int err = 0;                // errno behind kIoError
    std::vector<uint8_t> data;  // of a read
  };
  // Called on the disk's thread; must not call back into the disk, and must not throw.
  using OnComplete = std::function<void(Completion)>;
  // Called there after some completions, when it is time to show them; must not throw.
  using OnPause = std::function<void()>;
  // Called on a thread of the disk's; must not call back into the disk, and must not throw.
  using OnNotice = std::function<void(DiskNotice)>;

  struct Options {
    bool read_only = false;
    // Of a file: while a thread waits for the file system the next request is begun on another one, of so
    // many.
    unsigned threads = 1;
    // Completions that may come before the pause after them.
    unsigned batch = 1;
    OnPause on_pause = {};
    // Of one on a server: how long it is tried to reach it again before requests fail.
    std::chrono::seconds reconnect{60};
    OnNotice on_notice = {};
  };

  virtual ~Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  // Bytes, at opening.
  uint64_t size() const { return size_; }
  bool read_only() const { return options_.read_only; }
  // Any thread. What exceeds kMaxQueued waits, or fails.
  virtual void submit(devices::BlockRequest request) = 0;
  // Returns when all that was submitted before and changes something is completed.
  virtual void drain() = 0;
  // From its return on no request is performed, until release(); completions may still be told.
  virtual void hold() = 0;
  virtual void release() = 0;
  // What was submitted is not begun any more; from the return on nothing touches its owner's memory.
  virtual void cancel() = 0;

  // ---- The image as a whole, for who copies it; any thread. Blocks of kBlockBytes, the last one shorter.
  static constexpr uint64_t kBlockBytes = 64u << 10;
  uint64_t blocks() const { return (size_ + kBlockBytes - 1) / kBlockBytes; }
  // Blocks written since the last take (or since opening), one bit each, OR-ed into `bitmap` of
  // (blocks() + 63) / 64 words and cleared here. A block is marked after it was written: read blocks after
  // taking, and nothing is missed but what is not completed yet.
  void take_written(std::span<uint64_t> bitmap);
  // Throws Error: the failed call; ERANGE.
  virtual void read_at(uint64_t offset, std::span<uint8_t> into) = 0;
  // To stable storage.
  virtual void sync() = 0;

 protected:
  explicit Disk(Options options) : options_(std::move(options)) {}
  // Before the first request.
  void set_size(uint64_t bytes);
  void mark_written(uint64_t offset, uint64_t size);

  Options options_;
  uint64_t size_ = 0;

 private:
  std::unique_ptr<std::atomic<uint64_t>[]> written_;
};

// nbd://, nbds://, nbd+unix:// and the like.
bool is_nbd_uri(std::string_view path);
// A URI as it may be shown: no password, and of what follows `?` the socket alone.
std::string without_secrets(std::string_view uri);

// Whether an image lies in one of these folders or below it, all links followed. Of a server's none does.
bool lies_in(const std::string& path, std::span<const std::string> folders);

// A raw image file, a block device, or what an NBD server exports. Throws Error (ENOENT, EACCES,
// ECONNREFUSED,
// ...), Error("EINVAL") when it is none of these, Error("LIBNBD_MISSING").
std::unique_ptr<Disk> open_disk(const std::string& path, Disk::Options options, Disk::OnComplete on_complete);

}  // namespace hypertwin::backends
