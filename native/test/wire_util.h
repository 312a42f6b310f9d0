// What the tests of native/core/wire share: connected pairs, and errors as values.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "wire/channel.h"

namespace hypertwin::wire {

// The code of the error that `call` throws, or "none".
std::string code_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

std::string text_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::pair<Fd, Fd> socket_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
  return {Fd(fds[0]), Fd(fds[1])};
}

inline std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> channels() {
  auto [left, right] = socket_pair();
  return {std::make_unique<Channel>(adopt(std::move(left), "left's peer")),
          std::make_unique<Channel>(adopt(std::move(right), "right's peer"))};
}

inline std::vector<uint8_t> pattern(size_t size, uint8_t seed) {
  std::vector<uint8_t> bytes(size);
  uint32_t state = seed + 1u;
  for (auto& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return bytes;
}

}  // namespace hypertwin::wire
