#include "stream/manager.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace hypertwin::stream {
namespace {

constexpr uint32_t kMagic = 0x72647468;
constexpr uint32_t kNeed = 1;
constexpr uint32_t kMaxCount = 1024;
constexpr uint32_t kInCache = 0;
constexpr uint32_t kData = 1;
constexpr uint32_t kFailed = 2;
constexpr uint32_t kMaxMessage = 512;
// Between two tries to reach the process.
constexpr int kRetryMs = 50;
// Between two looks whether anybody still wants the answer.
constexpr int kLookMs = 250;

Error gone(const char* what) { return {"EPIPE", what}; }

}  // namespace

Manager::Manager(int folder, uint32_t chunk_size, std::function<bool(int)> pause)
    : folder_(folder),
      path_("/proc/self/fd/" + std::to_string(folder) + "/manager.sock"),
      chunk_size_(chunk_size),
      pause_(std::move(pause)) {}

std::vector<Loose> Manager::need(uint32_t first, uint32_t count, const std::function<bool()>& enough) {
  std::vector<Loose> loose;
  while (count > 0) {
    const uint32_t some = count < kMaxCount ? count : kMaxCount;
    try {
      Fd socket = take();
      std::vector<Loose> got = ask(socket, first, some);
      give_back(std::move(socket));
      for (Loose& one : got) loose.push_back(std::move(one));
      first += some;
      count -= some;
    } catch (const Error& error) {
      if (error.code() != "EPIPE") throw;
      if (enough()) return loose;
      struct stat info {};
      if (fstat(folder_, &info) == 0 && info.st_nlink == 0)
        throw Error("BAD_CACHE",
                    "the cache's folder has been removed, and nobody can stream into it any more");
      if (!pause_(kRetryMs))
        throw Error("ESHUTDOWN", "nobody brings the image's chunks, and nobody waits for them");
    }
  }
  return loose;
}

Fd Manager::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      Fd socket = std::move(idle_.back());
      idle_.pop_back();
      // One that has something to say before it is asked has been closed.
      struct pollfd look = {socket.get(), POLLIN, 0};
      if (poll(&look, 1, 0) == 0) return socket;
      idle_.clear();
    }
  }
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // There will be a descriptor for it again.
  if (!socket) throw gone("no socket could be made");
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  if (connect(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0)
    throw gone("nobody listens");
  return socket;
}

void Manager::give_back(Fd socket) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(socket));
}

std::vector<Loose> Manager::ask(const Fd& socket, uint32_t first, uint32_t count) const {
  const uint32_t request[4] = {kMagic, kNeed, first, count};
  if (send(socket.get(), request, sizeof request, MSG_NOSIGNAL) != sizeof request)
    throw gone("the connection broke");
  std::vector<Loose> loose;
  for (uint32_t chunk = first; chunk < first + count; chunk++) {
    uint32_t head[2];
    receive(socket, head, sizeof head);
    const auto [status, size] = head;
    if (status == kInCache && size == 0) continue;
    if (status == kData && size == chunk_size_) {
      std::vector<uint8_t> contents(size);
      receive(socket, contents.data(), size);
      loose.push_back({chunk, std::move(contents)});
    } else if (status == kFailed && size <= kMaxMessage) {
      std::string message(size, '\0');
      receive(socket, message.data(), size);
      throw Error("EIO", message);
    } else {
      throw gone("the answer is none");
    }
  }
  return loose;
}

void Manager::receive(const Fd& socket, void* to, size_t size) const {
  auto* bytes = static_cast<uint8_t*>(to);
  while (size > 0) {
    struct pollfd look = {socket.get(), POLLIN, 0};
    const int ready = poll(&look, 1, kLookMs);
    if (ready == 0 && !pause_(0)) throw Error("ESHUTDOWN", "nobody waits for the chunks any more");
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t got = recv(socket.get(), bytes, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw gone("the connection broke");
    bytes += got;
    size -= static_cast<size_t>(got);
  }
}

}  // namespace hypertwin::stream
