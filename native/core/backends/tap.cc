// /dev/net/tun, one queue, no header before the frames.
#include "backends/tap.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace hypertwin::backends {

namespace {
constexpr size_t kMaxFrame = 65536 + 32;
}

Tap::Tap(const std::string& name, OnPacket on_packet) : on_packet_(std::move(on_packet)) {
  if (name.size() >= IFNAMSIZ)
    throw Error("EINVAL", "the interface name " + name + " is longer than 15 characters");
  fd_ = Fd(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd_) {
    if (errno == ENOENT)
      throw Error::system(ENOENT, "open", "opening /dev/net/tun (load the kernel module tun: modprobe tun)");
    throw_errno("open", "opening /dev/net/tun (it needs read and write permission on it)");
  }
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (ioctl(fd_.get(), TUNSETIFF, &request) < 0) {
    int err = errno;
    std::string attempted = "attaching to the tap interface " + (name.empty() ? "(any name)" : name);
    if (err == EPERM) attempted += " (it needs CAP_NET_ADMIN, or an interface made for this user)";
    throw Error::system(err, "TUNSETIFF", attempted);
  }
  name_ = request.ifr_name;
  stop_ = Fd(eventfd(0, EFD_CLOEXEC));
  if (!stop_) throw_errno("eventfd", "making the tap thread's stop signal");
  thread_ = std::thread([this] { run(); });
}

Tap::~Tap() {
  uint64_t one = 1;
  while (::write(stop_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
  thread_.join();
}

bool Tap::write(std::span<const uint8_t> packet) {
  ssize_t n;
  do n = ::write(fd_.get(), packet.data(), packet.size());
  while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(packet.size())) return true;
  dropped_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

void Tap::run() {
  pthread_setname_np(pthread_self(), "ht-net");
  std::vector<uint8_t> frame(kMaxFrame);
  pollfd fds[2] = {{fd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (fds[1].revents) return;
    ssize_t n = read(fd_.get(), frame.data(), frame.size());
    if (n > 0)
      on_packet_({frame.data(), static_cast<size_t>(n)});
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
      fds[0].fd = -1;  // the interface is gone: only the stop is waited for
  }
}

}  // namespace hypertwin::backends
