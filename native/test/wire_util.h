// What the tests of native/core/wire share: connected pairs of every transport, and errors as values.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "code_of.h"
#include "wire/channel.h"
#include "wire_certificates.h"

namespace hypertwin::wire {

using namespace std::chrono_literals;

// "CODE: message", or empty.
std::string text_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "";
}

inline std::pair<Fd, Fd> socket_pair(int type = SOCK_STREAM) {
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
  return {Fd(fds[0]), Fd(fds[1])};
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

enum class Transport { kUnix, kTcp, kTls };

inline std::string transport_name(const testing::TestParamInfo<Transport>& info) {
  return info.param == Transport::kUnix ? "Unix" : info.param == Transport::kTcp ? "Tcp" : "Tls";
}

using Streams = std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>>;

// Connected to each other.
inline Streams streams(Transport transport) {
  if (transport == Transport::kUnix) {
    auto [left, right] = socket_pair();
    return {adopt(std::move(left), "left's peer"), adopt(std::move(right), "right's peer")};
  }
  std::optional<TlsOptions> tls;
  if (transport == Transport::kTls) tls = Certificates::get()->options(Certificates::get()->host_a);
  Listener listener(Address::parse("tcp://127.0.0.1:0"), tls);
  std::string refused;
  auto accepted = std::async(std::launch::async,
                             [&] { return listener.accept([&](const std::string& why) { refused = why; }); });
  auto left = connect(listener.address(), tls, 30s);
  return {std::move(left), accepted.get()};
}

}  // namespace hypertwin::wire
