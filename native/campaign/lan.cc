#include "lan.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"

namespace hypertwin::campaign {

namespace {

constexpr char kTap[] = "lan0";
constexpr size_t kLargestFrame = 2048;

bool chance(double share, std::mt19937_64& random) {
  return share > 0 && std::uniform_real_distribution<double>(0, 1)(random) < share;
}

// Its exit code; what it says is not for anybody.
int run(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const auto& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int nowhere = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) ::dup2(nowhere, fd);
    ::execvp(words[0], words.data());
    ::_exit(127);
  }
  int status = 0;
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

std::vector<std::string> qdisc(const char* interface, const Weather& weather) {
  std::vector<std::string> command{"tc", "qdisc", "add", "dev", interface, "root", "netem"};
  for (auto& word : weather.netem()) command.push_back(std::move(word));
  return command;
}

// `work` in a process of its own; what it says, or what it threw.
std::string apart(std::string (*work)()) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe2", "trying a network");
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::string text;
    try {
      text = work();
    } catch (const std::exception& error) {
      text = error.what();
    }
    [[maybe_unused]] ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  const Fd from(ends[0]);
  if (pid < 0) throw_errno("fork", "trying a network");
  std::string text(4096, '\0');
  const ssize_t size = ::read(from.get(), text.data(), text.size());
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  ::waitpid(pid, nullptr, 0);
  return text;
}

}  // namespace

// ---- Weather

std::vector<std::string> Weather::netem() const {
  auto time = [](std::chrono::microseconds t) { return std::to_string(t.count()) + "us"; };
  auto share = [](double s) { return std::to_string(s * 100) + "%"; };
  std::vector<std::string> words;
  auto add = [&](std::initializer_list<std::string> more) { words.insert(words.end(), more); };
  if (delay.count() > 0) add({"delay", time(delay)});
  if (delay.count() > 0 && jitter.count() > 0) add({time(jitter)});
  if (loss > 0) add({"loss", share(loss)});
  if (duplicate > 0) add({"duplicate", share(duplicate)});
  if (reorder > 0) add({"reorder", share(reorder)});
  return words;
}

// ---- Lan

void Lan::cut(unsigned port, bool is) {
  directions_[port].cut = is;
  if (is) directions_[port].frames.clear();
}

std::vector<int> Lan::descriptors() const {
  std::vector<int> all;
  for (const Fd& tap : taps_)
    if (tap) all.push_back(tap.get());
  return all;
}

void Lan::take(Direction& direction, std::vector<uint8_t> bytes, uint64_t now, std::mt19937_64& random) {
  if (direction.cut || chance(weather_.loss, random)) {
    counts_.lost += !direction.cut;
    return;
  }
  const bool twice = chance(weather_.duplicate, random);
  counts_.doubled += twice;
  uint64_t due = now;
  if (weather_.delay.count() > 0 && !chance(weather_.reorder, random)) {
    const auto delay = std::chrono::nanoseconds(weather_.delay).count();
    const auto jitter = std::chrono::nanoseconds(std::min(weather_.jitter, weather_.delay)).count();
    due +=
        static_cast<uint64_t>(std::uniform_int_distribution<int64_t>(delay - jitter, delay + jitter)(random));
  }
  const uint64_t number = ++direction.next;
  if (twice) direction.frames.emplace(due, Frame{number, bytes});
  direction.frames.emplace(due, Frame{number, std::move(bytes)});
}

void Lan::pump(std::mt19937_64& random) {
  const uint64_t now = now_ns();
  std::vector<uint8_t> bytes(kLargestFrame);
  for (unsigned from = 0; from < 2; ++from) {
    Direction& direction = directions_[from];
    while (taps_[from]) {
      const ssize_t size = ::read(taps_[from].get(), bytes.data(), bytes.size());
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) break;
      take(direction, {bytes.begin(), bytes.begin() + size}, now, random);
    }
    const Fd& to = taps_[1 - from];
    while (!direction.frames.empty() && direction.frames.begin()->first <= now) {
      const Frame frame = std::move(direction.frames.begin()->second);
      direction.frames.erase(direction.frames.begin());
      ++counts_.carried;
      counts_.overtaken += frame.number < direction.latest;
      direction.latest = std::max(direction.latest, frame.number);
      // What the kernel does not take is lost, as on a wire.
      if (to) [[maybe_unused]]
        ssize_t sent = ::write(to.get(), frame.bytes.data(), frame.bytes.size());
    }
  }
}

// ---- Hosts

Fd enter_lan(unsigned port, const Weather& weather) {
  if (::unshare(CLONE_NEWNET) != 0) throw_errno("unshare", "making a network namespace (it needs root)");
  Fd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tap) throw_errno("open", "opening /dev/net/tun");
  ifreq request{};
  std::strcpy(request.ifr_name, kTap);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) throw_errno("TUNSETIFF", "making a tap");
  const Fd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto set = [&](unsigned long what, const char* name, const std::string& value) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, value.c_str(), &address.sin_addr);
    std::memcpy(&request.ifr_addr, &address, sizeof(address));
    if (::ioctl(control.get(), what, &request) != 0) throw_errno(name, "giving a tap its address");
  };
  set(SIOCSIFADDR, "SIOCSIFADDR", Lan::address(port));
  set(SIOCSIFNETMASK, "SIOCSIFNETMASK", "255.255.255.0");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(control.get(), SIOCSIFFLAGS, &request) != 0) throw_errno("SIOCSIFFLAGS", "setting a tap up");
  if (!weather.fine() && run(qdisc(kTap, weather)) != 0)
    throw Error("CAMPAIGN", "tc(8) does not do what it did when it was tried");
  return tap;
}

const std::string& no_lan() {
  static const std::string reason = apart([] {
    enter_lan(0, {});
    return std::string();
  });
  return reason;
}

bool kernel_has_netem() {
  static const bool has =
      apart([] {
        if (::unshare(CLONE_NEWNET) != 0) return std::string("no");
        const Weather all{0.01, 0.01, 0.25, std::chrono::milliseconds(1), std::chrono::milliseconds(1)};
        return std::string(run(qdisc("lo", all)) == 0 ? "yes" : "no");
      }) == "yes";
  return has;
}

void send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof(room);
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(head), &fd, sizeof(fd));
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) throw_errno("sendmsg", "giving a tap to the observer");
}

Fd receive_descriptor(int socket) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof(room);
  ssize_t size;
  do size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  const cmsghdr* head = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (!head || head->cmsg_type != SCM_RIGHTS) throw Error("CAMPAIGN", "a node without its network");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(head), sizeof(fd));
  return Fd(fd);
}

}  // namespace hypertwin::campaign
