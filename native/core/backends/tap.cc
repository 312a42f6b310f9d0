// /dev/net/tun, one queue.
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
#include "base/event.h"

namespace hypertwin::backends {

namespace {
constexpr size_t kMaxFrame = 65536 + 32;
constexpr int kHeader = 12;       // virtio 1.2's
constexpr unsigned kMaxRun = 64;  // packets until somebody else has a turn
}  // namespace

Tap::Tap(const std::string& name, Frames frames) : frame_(kMaxFrame) {
  const bool headed = frames == Frames::kHeaded;
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
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | (headed ? IFF_VNET_HDR : 0));
  if (ioctl(fd_.get(), TUNSETIFF, &request) < 0) {
    int err = errno;
    std::string attempted = "attaching to the tap interface " + (name.empty() ? "(any name)" : name);
    if (err == EPERM) attempted += " (it needs CAP_NET_ADMIN, or an interface made for this user)";
    throw Error::system(err, "TUNSETIFF", attempted);
  }
  name_ = request.ifr_name;
  if (headed) {
    // An interface keeps both from who had it before.
    int size = kHeader, little_endian = 1;
    if (ioctl(fd_.get(), TUNSETVNETHDRSZ, &size) < 0 || ioctl(fd_.get(), TUNSETVNETLE, &little_endian) < 0 ||
        !set_receiver_finishes({}))
      throw_errno("TUNSETOFFLOAD", "setting up the header of packets of the tap interface " + name_);
  }
}

bool Tap::count(ssize_t written, size_t wanted) {
  if (written == static_cast<ssize_t>(wanted)) return true;
  dropped_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

bool Tap::write(std::span<const uint8_t> packet) {
  ssize_t n;
  do n = ::write(fd_.get(), packet.data(), packet.size());
  while (n < 0 && errno == EINTR);
  return count(n, packet.size());
}

bool Tap::write(std::span<const iovec> parts) {
  size_t size = 0;
  for (const iovec& part : parts) size += part.iov_len;
  ssize_t n;
  do n = ::writev(fd_.get(), parts.data(), static_cast<int>(parts.size()));
  while (n < 0 && errno == EINTR);
  return count(n, size);
}

bool Tap::set_receiver_finishes(const Finishes& what) {
  // Segments need checksums.
  unsigned flags = 0;
  if (what.checksum) {
    flags |= TUN_F_CSUM;
    if (what.tcp4) flags |= TUN_F_TSO4;
    if (what.tcp6) flags |= TUN_F_TSO6;
    if (what.congestion && (what.tcp4 || what.tcp6)) flags |= TUN_F_TSO_ECN;
  }
  return ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(flags)) == 0;
}

Tap::Read Tap::read(const OnPacket& on_packet) {
  unsigned packets = 0;
  while (packets < kMaxRun) {
    const ssize_t n = ::read(fd_.get(), frame_.data(), frame_.size());
    if (n > 0) {
      on_packet({frame_.data(), static_cast<size_t>(n)});
      ++packets;
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return Read::kGone;
    break;
  }
  return packets > 0 ? Read::kPackets : Read::kNothing;
}

ReadTap::ReadTap(const std::string& name, Tap::OnPacket on_packet)
    : tap_(name), stop_(eventfd(0, EFD_CLOEXEC)), on_packet_(std::move(on_packet)) {
  if (!stop_) throw_errno("eventfd", "making the tap thread's stop signal");
  thread_ = std::thread([this] { run(); });
}

ReadTap::~ReadTap() {
  ring(stop_.get());
  thread_.join();
}

void ReadTap::run() {
  pthread_setname_np(pthread_self(), "ht-net");
  pollfd fds[2] = {{tap_.fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) continue;  // EINTR alone is possible
    if (fds[1].revents) return;
    if (tap_.read(on_packet_) == Tap::Read::kGone) fds[0].fd = -1;  // only the stop is waited for
  }
}

}  // namespace hypertwin::backends
