// For tests of taps: an interface that is up, and a frame that the kernel sends on it.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstring>
#include <span>

#include "backends/tap.h"

namespace hypertwin::backends {

// Gives the tap's interface the address 198.51.100.1/24 and takes it up.
inline void take_up(const Tap& tap, int control) {
  ifreq request{};
  std::strncpy(request.ifr_name, tap.name().c_str(), IFNAMSIZ - 1);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(0xc6336401);
  std::memcpy(&request.ifr_addr, &address, sizeof address);
  ASSERT_EQ(ioctl(control, SIOCSIFADDR, &request), 0) << strerror(errno);
  address.sin_addr.s_addr = htonl(0xffffff00);
  std::memcpy(&request.ifr_netmask, &address, sizeof address);
  ASSERT_EQ(ioctl(control, SIOCSIFNETMASK, &request), 0) << strerror(errno);
  request.ifr_flags = IFF_UP;
  ASSERT_EQ(ioctl(control, SIOCSIFFLAGS, &request), 0) << strerror(errno);
}

// The kernel asks who has 198.51.100.2.
inline void make_it_ask(int control) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(0xc6336402);
  address.sin_port = htons(9);
  ASSERT_EQ(sendto(control, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), sizeof address), 1);
}

// Whether a frame is that question.
inline bool asks(std::span<const uint8_t> f) {
  return f.size() >= 42 && f[12] == 8 && f[13] == 6 && f[41] == 2;
}

}  // namespace hypertwin::backends
