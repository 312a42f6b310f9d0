// One epoll loop over the listening socket, the peers and the device's events.
#include "backends/vsock_unix.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace hypertwin::backends {

using devices::kVsockByGuest;
using devices::kVsockNoReceive;
using devices::kVsockNoSend;
using devices::kVsockWindow;
using devices::VsockEvent;
using devices::VsockOperation;

namespace {

constexpr uint64_t kListener = UINT64_MAX, kWake = UINT64_MAX - 1;
constexpr uint32_t kBoth = kVsockNoReceive | kVsockNoSend;
// Ports of the host's ends are given from here on.
constexpr uint32_t kFirstPort = 1u << 30;
constexpr size_t kPortSuffix = sizeof("_4294967295") - 1;
// When the process has no descriptor left for a peer: how long until it is tried again.
constexpr int kRetryMilliseconds = 100;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Fd unix_socket() { return Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

// "CONNECT <port>", without the line's end.
bool parse_line(std::string_view line, uint32_t& port) {
  constexpr std::string_view kWord = "CONNECT ";
  if (!line.starts_with(kWord)) return false;
  line.remove_prefix(kWord.size());
  auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  return error == std::errc() && end == line.data() + line.size();
}

}  // namespace

VsockUnix::VsockUnix(std::string path, OnEvent on_event, OnIdle on_idle)
    : path_(std::move(path)),
      on_event_(std::move(on_event)),
      on_idle_(std::move(on_idle)),
      scratch_(16u << 10) {
  if (path_.empty() || path_.size() + kPortSuffix >= sizeof(sockaddr_un::sun_path))
    throw Error("ENAMETOOLONG", "the vsock path \"" + path_ + "\" must have 1 to " +
                                    std::to_string(sizeof(sockaddr_un::sun_path) - kPortSuffix - 1) +
                                    " bytes");
  // Numbers are new ones also after another backend served the same device.
  if (getrandom(&next_number_, sizeof next_number_, 0) != sizeof next_number_)
    throw_errno("getrandom", "numbering vsock connections");
  next_number_ = (next_number_ & ~kVsockByGuest) >> 1;
  next_port_ = kFirstPort;
  listener_ = unix_socket();
  if (!listener_) throw_errno("socket", "making the vsock socket " + path_);
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) throw_errno("epoll_create1", "making the vsock thread's loop");
  wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) throw_errno("eventfd", "making the vsock thread's signal");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWake}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) < 0)
    throw_errno("epoll_ctl", "making the vsock thread's loop");
  const sockaddr_un address = address_of(path_);
  if (bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    throw_errno("bind", "making the vsock socket " + path_ +
                            (errno == EADDRINUSE ? " (remove it if nobody uses it)" : ""));
  if (listen(listener_.get(), 128) < 0) {
    const int err = errno;
    unlink(path_.c_str());
    throw Error::system(err, "listen", "making the vsock socket " + path_);
  }
  watch_listener(true);
  thread_ = std::thread([this] { run(); });
}

VsockUnix::~VsockUnix() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  eventfd_write(wake_.get(), 1);
  thread_.join();
  unlink(path_.c_str());
}

void VsockUnix::submit(VsockEvent event) {
  {
    std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(event));
  }
  eventfd_write(wake_.get(), 1);
}

bool VsockUnix::busy() const {
  std::lock_guard lock(mutex_);
  return inbox_.size() >= kMaxQueued;
}

void VsockUnix::emit(VsockOperation operation, uint64_t number, uint32_t value) {
  on_event_({.operation = operation, .connection = number, .value = value, .data = {}});
}

void VsockUnix::watch_listener(bool on) {
  if (on == listening_) return;
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kListener}};
  if (epoll_ctl(epoll_.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener_.get(), &event) == 0)
    listening_ = on;
}

void VsockUnix::run() {
  pthread_setname_np(pthread_self(), "ht-vsock");
  epoll_event events[64];
  for (;;) {
    const int n = epoll_wait(epoll_.get(), events, std::size(events), listening_ ? -1 : kRetryMilliseconds);
    if (n < 0 && errno != EINTR) return;
    if (n == 0) watch_listener(true);
    // The device's events first: what it ended is not served any more.
    for (int i = 0; i < n; ++i)
      if (events[i].data.u64 == kWake) take_events();
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
    }
    for (int i = 0; i < n; ++i) {
      if (events[i].data.u64 == kListener)
        accept_peers();
      else if (events[i].data.u64 != kWake)
        serve(events[i].data.u64, events[i].events);
    }
  }
}

void VsockUnix::accept_peers() {
  for (;;) {
    Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EAGAIN) watch_listener(false);
      return;
    }
    if (peers_.size() >= kMaxPeers) continue;  // closed at once
    const uint64_t number = next_number_++;
    Peer& peer = peers_[number];
    peer.fd = std::move(fd);
    watch(number, peer);
  }
}

void VsockUnix::dial(const VsockEvent& event) {
  const uint64_t number = event.connection;
  if (peers_.contains(number)) return reset(number);
  Fd fd = unix_socket();
  const sockaddr_un address = address_of(path_ + "_" + std::to_string(event.host_port));
  // A UNIX socket is connected at once, or not now.
  if (!(number & kVsockByGuest) || peers_.size() >= kMaxPeers || !fd ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return emit(VsockOperation::kReset, number);
  Peer& peer = peers_[number];
  peer.fd = std::move(fd);
  peer.state = State::kOpen;
  peer.host_port = event.host_port;
  peer.window = kVsockWindow;
  emit(VsockOperation::kAccept, number);
  watch(number, peer);
}

void VsockUnix::take_events() {
  eventfd_t count;
  eventfd_read(wake_.get(), &count);
  std::vector<VsockEvent> events;
  {
    std::lock_guard lock(mutex_);
    events.swap(inbox_);
  }
  for (VsockEvent& event : events) take(event);
  if (events.size() >= kMaxQueued && on_idle_) on_idle_();
}

void VsockUnix::take(VsockEvent& event) {
  const uint64_t number = event.connection;
  if (event.operation == VsockOperation::kConnect) return dial(event);
  auto found = peers_.find(number);
  if (found == peers_.end() || found->second.state == State::kDraining) return;
  Peer& peer = found->second;
  bool sound = peer.state == State::kOpen;
  switch (event.operation) {
    case VsockOperation::kAccept: {
      sound = peer.state == State::kAsked;
      if (!sound) break;
      peer.state = State::kOpen;
      peer.window = kVsockWindow;
      const std::string answer = "OK " + std::to_string(peer.host_port) + "\n";
      // It is in no window: nothing was sent to the socket before it.
      if (send(peer.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(answer.size()))
        return reset(number);
      if (!peer.line.empty()) {
        VsockEvent data{.operation = VsockOperation::kData, .connection = number, .data = {}};
        data.data.assign(peer.line.begin(), peer.line.end());
        peer.window -= static_cast<uint32_t>(peer.line.size());
        peer.line.clear();
        on_event_(std::move(data));
      }
      break;
    }
    case VsockOperation::kData:
      sound = sound && !(peer.guest_shutdown & kVsockNoSend) &&
              event.data.size() <= kVsockWindow - (peer.out.size() - peer.written);
      if (sound && !peer.deaf) peer.out.insert(peer.out.end(), event.data.begin(), event.data.end());
      break;
    case VsockOperation::kRoom:
      sound = sound && event.value <= kVsockWindow - peer.window;
      if (sound) peer.window += event.value;
      break;
    case VsockOperation::kShutdown:
      if (!sound) break;
      peer.guest_shutdown |= event.value & kBoth;
      if (peer.guest_shutdown & kVsockNoReceive) shutdown(peer.fd.get(), SHUT_RD);
      break;
    default:
      // A guest that had said that it would send no more may end before the socket has taken all it sent.
      if (peer.state == State::kOpen && peer.guest_shutdown & kVsockNoSend &&
          peer.written < peer.out.size()) {
        peer.state = State::kDraining;
        break;
      }
      return remove(number);
  }
  if (!sound) return reset(number);
  if (write_stream(number, peer)) watch(number, peer);
}

void VsockUnix::serve(uint64_t number, uint32_t events) {
  auto found = peers_.find(number);
  if (found == peers_.end()) return;
  Peer& peer = found->second;
  if (peer.state == State::kLine) {
    if (read_line(number, peer)) watch(number, peer);
    return;
  }
  if (peer.state == State::kAsked) {
    // The only thing that can happen to who waits for an answer.
    if (events & (EPOLLHUP | EPOLLERR)) reset(number);
    return;
  }
  if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR) && !write_stream(number, peer)) return;
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP) &&
      !read_stream(number, peer, events & (EPOLLHUP | EPOLLERR)))
    return;
  watch(number, peer);
}

bool VsockUnix::read_line(uint64_t number, Peer& peer) {
  char bytes[kMaxLine];
  const ssize_t n = recv(peer.fd.get(), bytes, kMaxLine - peer.line.size(), 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (n > 0) peer.line.append(bytes, static_cast<size_t>(n));
  const size_t end = peer.line.find('\n');
  VsockEvent event{.operation = VsockOperation::kConnect, .connection = number, .data = {}};
  if (n > 0 && end == std::string::npos && peer.line.size() < kMaxLine) return true;
  if (n <= 0 || end == std::string::npos ||
      !parse_line(std::string_view(peer.line).substr(0, end), event.guest_port)) {
    remove(number);
    return false;
  }
  peer.line.erase(0, end + 1);
  peer.state = State::kAsked;
  peer.host_port = next_port_;
  next_port_ = next_port_ == UINT32_MAX - 1 ? kFirstPort : next_port_ + 1;
  event.host_port = peer.host_port;
  on_event_(std::move(event));
  return true;
}

bool VsockUnix::read_stream(uint64_t number, Peer& peer, bool hung_up) {
  while (!peer.ended && peer.state == State::kOpen && peer.window > 0) {
    const size_t most = std::min<size_t>(scratch_.size(), peer.window);
    const ssize_t n = recv(peer.fd.get(), scratch_.data(), most, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n <= 0) {
      peer.ended = true;
      // Closed, maybe without having read all, or only this direction.
      peer.deaf = peer.deaf || hung_up || n < 0;
      if (peer.deaf) {
        leave(number);
        return false;
      }
      emit(VsockOperation::kShutdown, number, kVsockNoSend);
      break;
    }
    peer.window -= static_cast<uint32_t>(n);
    VsockEvent event{.operation = VsockOperation::kData, .connection = number, .data = {}};
    event.data.assign(scratch_.begin(), scratch_.begin() + n);
    on_event_(std::move(event));
  }
  return true;
}

bool VsockUnix::write_stream(uint64_t number, Peer& peer) {
  uint32_t taken = 0;
  while (peer.written < peer.out.size() && !peer.deaf) {
    const ssize_t n =
        send(peer.fd.get(), peer.out.data() + peer.written, peer.out.size() - peer.written, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      peer.deaf = true;
      if (peer.state == State::kOpen && !peer.ended) emit(VsockOperation::kShutdown, number, kVsockNoReceive);
      break;
    }
    peer.written += static_cast<size_t>(n);
    taken += static_cast<uint32_t>(n);
  }
  if (peer.deaf || peer.written == peer.out.size()) {
    peer.out.clear();
    peer.written = 0;
  } else if (peer.written >= kVsockWindow) {
    peer.out.erase(peer.out.begin(), peer.out.begin() + static_cast<ptrdiff_t>(peer.written));
    peer.written = 0;
  }
  if (taken && peer.state == State::kOpen) emit(VsockOperation::kRoom, number, taken);
  if (!peer.out.empty()) return true;
  if (peer.state == State::kDraining) {
    remove(number);
    return false;
  }
  // All that the guest sent is there: what it said about the end holds now. What it has not taken yet of the
  // host's would be lost by a reset.
  if (peer.guest_shutdown == kBoth ||
      (peer.guest_shutdown & kVsockNoSend && peer.ended && peer.window == kVsockWindow)) {
    reset(number);
    return false;
  }
  if (peer.deaf && peer.ended) {
    leave(number);
    return false;
  }
  if (peer.guest_shutdown & kVsockNoSend) shutdown(peer.fd.get(), SHUT_WR);
  return true;
}

void VsockUnix::watch(uint64_t number, Peer& peer) {
  uint32_t wanted = 0;
  if (peer.state == State::kLine) wanted = EPOLLIN;
  // Looks only for the end, which epoll always reports.
  if (peer.state == State::kAsked) wanted = EPOLLET;
  if (peer.state == State::kOpen && !peer.ended && peer.window > 0) wanted |= EPOLLIN;
  if (!peer.out.empty()) wanted |= EPOLLOUT;
  if (wanted == peer.watched) return;
  epoll_event event{.events = wanted, .data = {.u64 = number}};
  // What nobody waits for is taken out: its end would be reported again and again.
  const int operation = wanted == 0 ? EPOLL_CTL_DEL : (peer.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
  if (epoll_ctl(epoll_.get(), operation, peer.fd.get(), &event) < 0) return reset(number);
  peer.watched = wanted;
}

void VsockUnix::reset(uint64_t number) {
  const State state = peers_.at(number).state;
  remove(number);
  if (state == State::kAsked || state == State::kOpen) emit(VsockOperation::kReset, number);
}

void VsockUnix::leave(uint64_t number) {
  remove(number);
  emit(VsockOperation::kShutdown, number, kBoth);
}

void VsockUnix::remove(uint64_t number) {
  peers_.erase(number);
  watch_listener(true);
}

}  // namespace hypertwin::backends
