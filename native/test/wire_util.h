// What the tests of native/core/wire share: connected pairs of every transport, certificates made by the
// openssl command, and errors as values.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "wire/channel.h"

namespace hypertwin::wire {

using namespace std::chrono_literals;

// The code of the error that `call` throws, or "none".
std::string code_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

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

// Two CAs and what they signed, all of it PEM text.
class Certificates {
 public:
  struct Pair {
    std::string certificate, key;
  };
  std::string ca, other_ca;
  Pair host_a;    // names host-a, 127.0.0.1, ::1
  Pair host_b;    // names host-b
  Pair expired;   // as host_a, until yesterday
  Pair stranger;  // as host_a, by the other CA

  // Made once; null where there is no openssl command.
  static const Certificates* get() {
    static const std::unique_ptr<Certificates> made = make();
    return made.get();
  }

  TlsOptions options(const Pair& pair, std::string server_name = "") const {
    return {ca, pair.certificate, pair.key, std::move(server_name)};
  }

 private:
  static std::unique_ptr<Certificates> make() {
    if (std::system("openssl version >/dev/null 2>&1") != 0) return nullptr;
    std::string folder = (std::filesystem::temp_directory_path() / "hypertwin-wire-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw_errno("mkdtemp", "testing");
    auto made = std::make_unique<Certificates>();
    const auto text = [&](const std::string& name) {
      std::ifstream file(folder + "/" + name);
      return std::string(std::istreambuf_iterator<char>(file), {});
    };
    const auto run = [&](const std::string& arguments) {
      const std::string line = "cd " + folder + " && openssl " + arguments + " >log 2>&1";
      if (std::system(line.c_str()) != 0) throw Error("OPENSSL", line + ": " + text("log"));
    };
    const std::string key = " -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes ";
    const auto authority = [&](const std::string& name) {
      run("req -x509" + key + "-subj /CN=" + name + " -days 2 -keyout " + name + ".key -out " + name +
          ".pem");
      return text(name + ".pem");
    };
    const auto sign = [&](const std::string& by, const std::string& names, int days) {
      std::ofstream(folder + "/names") << "subjectAltName=" << names << "\n";
      run("req" + key + "-subj /CN=host-a -keyout k.key -out k.csr");
      run("x509 -req -in k.csr -CA " + by + ".pem -CAkey " + by +
          ".key -CAcreateserial -extfile names -days " + std::to_string(days) + " -out k.pem");
      return Pair{text("k.pem"), text("k.key")};
    };
    made->ca = authority("ca");
    made->other_ca = authority("other");
    const std::string names = "DNS:host-a,IP:127.0.0.1,IP:::1";
    made->host_a = sign("ca", names, 2);
    made->host_b = sign("ca", "DNS:host-b", 2);
    made->expired = sign("ca", names, -1);
    made->stranger = sign("other", names, 2);
    std::filesystem::remove_all(folder);
    return made;
  }
};

enum class Transport { kUnix, kTcp, kTls };

inline std::string transport_name(const testing::TestParamInfo<Transport>& info) {
  return info.param == Transport::kUnix ? "Unix" : info.param == Transport::kTcp ? "Tcp" : "Tls";
}

inline const char* kNoOpenssl = "no openssl command here to make certificates with (apt install openssl)";

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
