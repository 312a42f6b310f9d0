// Connected and listening sockets: TCP and UNIX. TLS is put around them by tls.cc.
#include "wire/stream.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/event.h"
#include "wire/socket.h"
#include "wire/tls.h"

namespace hypertwin::wire {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A silent peer is noticed by the sessions' heartbeats; these end what has none, or is idle.
constexpr unsigned kUserTimeoutMs = 30'000;
// Unsent bytes that the kernel takes ahead: what comes behind bulk waits for no more than these.
constexpr int kUnsentBytes = 256 << 10;
constexpr int kKeepIdleSeconds = 10, kKeepIntervalSeconds = 5, kKeepCount = 4;
constexpr milliseconds kHandshakeTimeout(10'000);
constexpr int kBacklog = 64;
// Of strangers that connect and say nothing, no more than so many are waited for.
constexpr size_t kMaxHandshakes = 64;

[[noreturn]] void bad_address(const std::string& text, const std::string& problem) {
  throw Error("BAD_ADDRESS", "'" + text + "' is no address: " + problem +
                                 "; write tcp://host:port, tcp://[::1]:port or unix:/path");
}

void set_option(int fd, int level, int name, int value) {
  // Each of these only makes the connection better.
  ::setsockopt(fd, level, name, &value, sizeof(value));
}

void tune(int fd, bool tcp) {
  if (!tcp) return;
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentBytes);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(kUserTimeoutMs));
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepCount);
}

// An address as the kernel wants it.
struct Target {
  sockaddr_storage storage{};
  socklen_t size = 0;
  int family = AF_UNSPEC;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Target unix_target(const std::string& path) {
  Target target;
  auto* name = reinterpret_cast<sockaddr_un*>(&target.storage);
  if (path.size() >= sizeof(name->sun_path))
    bad_address("unix:" + path,
                "its path is longer than " + std::to_string(sizeof(name->sun_path) - 1) + " bytes");
  name->sun_family = AF_UNIX;
  std::memcpy(name->sun_path, path.data(), path.size());
  target.size = sizeof(sockaddr_un);
  target.family = AF_UNIX;
  return target;
}

// What a host name stands for; at least one. `code` is that of the error when there is none.
std::vector<Target> resolve(const Address& address, int flags, const char* code) {
  if (address.kind == Address::Kind::kUnix) return {unix_target(address.host)};
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed =
      ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (failed != 0)
    throw Error(code, "wire: the host name '" + address.host + "' was not resolved: " +
                          (failed == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(failed)));
  std::vector<Target> targets;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    Target target;
    if (info->ai_addrlen > sizeof(target.storage)) continue;
    std::memcpy(&target.storage, info->ai_addr, info->ai_addrlen);
    target.size = info->ai_addrlen;
    target.family = info->ai_family;
    targets.push_back(target);
  }
  ::freeaddrinfo(found);
  return targets;
}

Fd make_socket(int family) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw_errno("socket", "opening a connection");
  return fd;
}

void set_blocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
    throw_errno("fcntl", "making a socket blocking");
}

void connect_one(int fd, const Target& target, Deadline deadline, int cancel, const std::string& attempted) {
  for (;;) {
    if (::connect(fd, target.get(), target.size) == 0) return;
    if (errno == EINTR) continue;
    if (errno == EISCONN) return;
    if (errno == EAGAIN && target.family == AF_UNIX) {
      // The listener's queue is full, and nothing tells when it has room again.
      if (Clock::now() >= deadline) throw Error("TIMEOUT", "wire: " + attempted + " took too long");
      pollfd wait{cancel, POLLIN, 0};
      if (::poll(&wait, 1, 5) == 1) throw Error("CANCELLED", "wire: " + attempted + " was cancelled");
      continue;
    }
    if (errno != EINPROGRESS && errno != EALREADY) throw_errno("connect", attempted);
    wait_ready(fd, POLLOUT, deadline, cancel, attempted);
    int failed = 0;
    socklen_t size = sizeof(failed);
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) != 0) throw_errno("getsockopt", attempted);
    if (failed != 0) throw Error::system(failed, "connect", attempted);
    return;
  }
}

// "tcp://192.0.2.7:40812", or for a UNIX socket the process that connected.
std::string name_of_peer(int fd, const Address& listening) {
  if (listening.kind == Address::Kind::kUnix) {
    ucred who{};
    socklen_t size = sizeof(who);
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return listening.text();
    return listening.text() + " (process " + std::to_string(who.pid) + ")";
  }
  Target target;
  target.size = sizeof(target.storage);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&target.storage), &target.size) != 0 ||
      ::getnameinfo(target.get(), target.size, host.data(), host.size(), port.data(), port.size(),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "a peer that is gone";
  const std::string name(host.data());
  return "tcp://" + (name.find(':') == name.npos ? name : "[" + name + "]") + ":" + port.data();
}

// Bound and listening, or false when the address is taken.
bool bind_one(int fd, const Target& target, const std::string& attempted) {
  if (::bind(fd, target.get(), target.size) == 0) {
    if (::listen(fd, kBacklog) != 0) throw_errno("listen", attempted);
    return true;
  }
  if (errno != EADDRINUSE || target.family != AF_UNIX) throw_errno("bind", attempted);
  return false;
}

// A socket file that no process listens on any more.
bool is_stale(const Target& target, const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  const Fd probe = make_socket(AF_UNIX);
  return ::connect(probe.get(), target.get(), target.size) != 0 && errno == ECONNREFUSED;
}

}  // namespace

Address Address::parse(const std::string& text) {
  Address address;
  if (text.rfind("unix:", 0) == 0) {
    address.kind = Kind::kUnix;
    address.host = text.substr(5);
    if (address.host.rfind("//", 0) == 0) address.host.erase(0, 2);
    if (address.host.empty()) bad_address(text, "it has no path");
    if (address.host.find('\0') != address.host.npos) bad_address(text, "its path has a zero byte");
    unix_target(address.host);
    return address;
  }
  if (text.rfind("tcp://", 0) != 0) bad_address(text, "it begins neither with tcp:// nor with unix:");
  const std::string rest = text.substr(6);
  const size_t colon = rest.rfind(':');
  if (colon == rest.npos) bad_address(text, "it has no port");
  address.host = rest.substr(0, colon);
  const bool brackets = address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']';
  if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
  if (address.host.empty()) bad_address(text, "it has no host");
  if (address.host.find_first_of(std::string_view("[]/ \0", 5)) != address.host.npos ||
      (!brackets && address.host.find(':') != address.host.npos))
    bad_address(text, "its host is malformed");
  const char* end = rest.data() + rest.size();
  const auto [at, failed] = std::from_chars(rest.data() + colon + 1, end, address.port);
  if (failed != std::errc() || at != end) bad_address(text, "its port is none between 0 and 65535");
  return address;
}

std::string Address::text() const {
  // parse() takes two slashes away.
  if (kind == Kind::kUnix) return (host.rfind("//", 0) == 0 ? "unix://" : "unix:") + host;
  return "tcp://" + (host.find(':') == host.npos ? host : "[" + host + "]") + ":" + std::to_string(port);
}

void wait_ready(int fd, short events, Deadline deadline, int cancel, const std::string& attempted) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    std::array<pollfd, 2> wait{pollfd{fd, events, 0}, pollfd{cancel, POLLIN, 0}};
    const int ready =
        ::poll(wait.data(), wait.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
    if (ready < 0 && errno != EINTR) throw_errno("poll", attempted);
    if (ready <= 0) {
      if (ready == 0 && left <= 0) throw Error("TIMEOUT", "wire: " + attempted + " took too long");
      continue;
    }
    if (wait[1].revents != 0) throw Error("CANCELLED", "wire: " + attempted + " was cancelled");
    return;
  }
}

void throw_lost(const char* call, const std::string& peer) {
  const Error cause = Error::system(errno, call, "talking to " + peer);
  throw Error::caused("PEER_LOST", cause.what(), cause);
}

size_t SocketStream::read(std::span<uint8_t> into) {
  for (;;) {
    const ssize_t got = ::recv(socket_.get(), into.data(), into.size(), 0);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw_lost("recv", peer_);
  }
}

void SocketStream::write(std::span<const std::span<const uint8_t>> parts) {
  constexpr size_t kAtOnce = 16;
  std::array<iovec, kAtOnce> vectors;
  size_t skip = 0;  // bytes of the first part that are out already
  while (!parts.empty()) {
    size_t count = 0;
    for (const auto& part : parts.first(std::min(parts.size(), kAtOnce)))
      vectors[count++] = {const_cast<uint8_t*>(part.data()), part.size()};
    vectors[0].iov_base = static_cast<uint8_t*>(vectors[0].iov_base) + skip;
    vectors[0].iov_len -= skip;
    msghdr message{};
    message.msg_iov = vectors.data();
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      throw_lost("sendmsg", peer_);
    }
    skip += static_cast<size_t>(sent);
    while (!parts.empty() && skip >= parts.front().size()) {
      skip -= parts.front().size();
      parts = parts.subspan(1);
    }
  }
}

void SocketStream::shutdown() noexcept { ::shutdown(socket_.get(), SHUT_RDWR); }

bool SocketStream::ended() const noexcept {
  // Streams are shut down in both directions, never in one.
  pollfd look{socket_.get(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) == 1;
}

std::unique_ptr<Stream> adopt(Fd socket, std::string peer) {
  set_blocking(socket.get());
  sockaddr_storage name{};
  socklen_t size = sizeof(name);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&name), &size) == 0)
    tune(socket.get(), name.ss_family == AF_INET || name.ss_family == AF_INET6);
  return std::make_unique<SocketStream>(std::move(socket), std::move(peer));
}

std::unique_ptr<Stream> connect(const Address& address, const std::optional<TlsOptions>& tls,
                                std::chrono::milliseconds timeout, int cancel) {
  const Deadline deadline = Clock::now() + timeout;
  std::shared_ptr<TlsContext> context;
  std::string name;
  if (tls) {
    name = tls->server_name;
    if (name.empty() && address.kind == Address::Kind::kUnix)
      throw Error("TLS_FAILED", "wire: TLS over " + address.text() +
                                    ": a path is no name that a certificate can have; give a server name");
    if (name.empty()) name = address.host;
    context = std::make_shared<TlsContext>(*tls);
  }
  const std::string attempted = "connecting to " + address.text();
  const auto targets = resolve(address, 0, "PEER_UNREACHABLE");
  for (size_t i = 0;; i++) {
    // An address that swallows what is sent must not use up the others' time.
    const Deadline until = Clock::now() + (deadline - Clock::now()) / static_cast<int>(targets.size() - i);
    try {
      Fd socket = make_socket(targets[i].family);
      connect_one(socket.get(), targets[i], until, cancel, attempted);
      set_blocking(socket.get());
      tune(socket.get(), address.kind == Address::Kind::kTcp);
      if (context) {
        auto stream = std::make_unique<TlsStream>(std::move(socket), address.text(), context,
                                                  TlsStream::Side::kConnecting, name);
        while (const short events = stream->handshake())
          wait_ready(stream->fd(), events, deadline, cancel, "the TLS handshake with " + address.text());
        return stream;
      }
      return std::make_unique<SocketStream>(std::move(socket), address.text());
    } catch (const Error& error) {
      const bool fixed = error.code() == "CANCELLED" || error.code().rfind("TLS_", 0) == 0;
      if (!fixed && i + 1 < targets.size()) continue;
      if (error.err() == 0) throw;
      throw Error::caused("PEER_UNREACHABLE", error.what(), error);
    }
  }
}

struct Listener::Handshake {
  std::unique_ptr<TlsStream> stream;
  Deadline deadline;
  short events;
};

Listener::Listener(const Address& address, std::optional<TlsOptions> tls) : address_(address) {
  if (tls) {
    tls_ = std::make_shared<TlsContext>(*tls);
    tls_name_ = tls->server_name;
  }
  const std::string attempted = "listening on " + address.text();
  const Target target = resolve(address, AI_PASSIVE, "BAD_ADDRESS").front();
  socket_ = make_socket(target.family);
  stop_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_) throw_errno("eventfd", attempted);
  if (address_.kind == Address::Kind::kTcp) {
    set_option(socket_.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    bind_one(socket_.get(), target, attempted);
    Target bound;
    bound.size = sizeof(bound.storage);
    if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&bound.storage), &bound.size) != 0)
      throw_errno("getsockname", attempted);
    address_.port = ntohs(bound.storage.ss_family == AF_INET6
                              ? reinterpret_cast<const sockaddr_in6*>(&bound.storage)->sin6_port
                              : reinterpret_cast<const sockaddr_in*>(&bound.storage)->sin_port);
    return;
  }
  // Linux gives the file the socket's own mode, so nobody else gets in before the chmod.
  ::fchmod(socket_.get(), 0600);
  const char* path = address_.host.c_str();
  if (!bind_one(socket_.get(), target, attempted)) {
    if (!is_stale(target, address_.host)) throw Error::system(EADDRINUSE, "bind", attempted);
    if (::unlink(path) != 0) throw_errno("unlink", attempted);
    if (!bind_one(socket_.get(), target, attempted)) throw Error::system(EADDRINUSE, "bind", attempted);
  }
  struct stat status {};
  if (::chmod(path, 0600) != 0 || ::lstat(path, &status) != 0) throw_errno("chmod", attempted);
  file_device_ = status.st_dev;
  file_inode_ = status.st_ino;
}

Listener::~Listener() {
  if (address_.kind != Address::Kind::kUnix || !socket_) return;
  // Not one that another process put there since.
  struct stat status {};
  if (::lstat(address_.host.c_str(), &status) == 0 && status.st_dev == file_device_ &&
      status.st_ino == file_inode_)
    ::unlink(address_.host.c_str());
}

std::unique_ptr<Stream> Listener::take(const std::function<void(const std::string&)>& on_refused) {
  Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) {
    if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED || errno == EPROTO) return nullptr;
    throw_errno("accept4", "waiting for a peer at " + address_.text());
  }
  tune(socket.get(), address_.kind == Address::Kind::kTcp);
  std::string peer = name_of_peer(socket.get(), address_);
  if (!tls_) return std::make_unique<SocketStream>(std::move(socket), std::move(peer));
  if (handshakes_.size() == kMaxHandshakes) {
    if (on_refused) on_refused(handshakes_.front().stream->peer() + ": too many others wait");
    handshakes_.erase(handshakes_.begin());
  }
  auto stream = std::make_unique<TlsStream>(std::move(socket), std::move(peer), tls_,
                                            TlsStream::Side::kAccepting, tls_name_);
  handshakes_.push_back({std::move(stream), Clock::now() + kHandshakeTimeout, POLLIN});
  return nullptr;
}

std::unique_ptr<Stream> Listener::accept(const std::function<void(const std::string&)>& on_refused) {
  for (;;) {
    std::vector<pollfd> wait{{stop_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
    for (const auto& handshake : handshakes_) wait.push_back({handshake.stream->fd(), handshake.events, 0});
    int timeout = -1;
    if (!handshakes_.empty()) {
      // The oldest one's is the first to pass.
      const auto left = std::chrono::ceil<milliseconds>(handshakes_.front().deadline - Clock::now());
      timeout = static_cast<int>(std::max<int64_t>(left.count(), 0));
    }
    if (::poll(wait.data(), wait.size(), timeout) < 0) {
      if (errno == EINTR) continue;
      throw_errno("poll", "waiting for a peer at " + address_.text());
    }
    if (wait[0].revents != 0) return nullptr;
    const auto now = Clock::now();
    for (size_t i = handshakes_.size(); i-- > 0;) {
      auto& handshake = handshakes_[i];
      std::unique_ptr<Stream> done;
      std::string problem;
      try {
        if (wait[i + 2].revents != 0) handshake.events = handshake.stream->handshake();
        if (handshake.events == 0) {
          done = std::move(handshake.stream);
        } else if (now >= handshake.deadline) {
          problem = handshake.stream->peer() + ": the TLS handshake took too long";
        } else {
          continue;
        }
      } catch (const Error& error) {
        problem = error.what();
      }
      handshakes_.erase(handshakes_.begin() + static_cast<ptrdiff_t>(i));
      if (done) return done;
      if (on_refused) on_refused(problem);
    }
    if (wait[1].revents != 0)
      if (auto stream = take(on_refused)) return stream;
  }
}

void Listener::close() noexcept { ring(stop_.get()); }

}  // namespace hypertwin::wire
