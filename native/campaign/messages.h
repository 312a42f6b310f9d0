// What a node and the observer say to each other: datagrams of one tag byte and a text or an Ethernet frame.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace hypertwin::campaign {

enum class Tag : uint8_t {
  kFrame = 'F',    // both ways: the machine's network
  kCommand = 'C',  // observer -> node
  kEvent = 'E',    // node -> observer
};

inline constexpr size_t kLargestMessage = 4096;

// False when the other side does not take it now, or is gone: lost, as on a wire.
inline bool send_message(int socket, Tag tag, std::span<const uint8_t> bytes, bool wait = false) {
  uint8_t head = static_cast<uint8_t>(tag);
  iovec parts[2] = {{&head, 1}, {const_cast<uint8_t*>(bytes.data()), bytes.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ssize_t sent;
  do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
  while (sent < 0 && errno == EINTR);
  return sent >= 0;
}

inline bool send_text(int socket, Tag tag, std::string_view text) {
  return send_message(socket, tag, {reinterpret_cast<const uint8_t*>(text.data()), text.size()}, true);
}

}  // namespace hypertwin::campaign
