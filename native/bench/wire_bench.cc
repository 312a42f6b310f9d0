// What frames cost: throughput and round trip of a channel over UNIX sockets, TCP and TLS, each beside a loop
// of send() and recv() on such a socket in the same run. Prints one JSON object a line. With --quick fewer
// turns.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "../test/wire_certificates.h"
#include "bench.h"
#include "wire/channel.h"
#include "wire/socket.h"

namespace {

using namespace hypertwin;
using namespace hypertwin::wire;

constexpr size_t kBulkBytes = 64u << 10;
constexpr size_t kAckBytes = 60;

enum class Transport { kUnix, kTcp, kTls };
using Streams = std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>>;

Streams connected(Transport transport) {
  if (transport == Transport::kUnix) {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
      throw_errno("socketpair", "measuring");
    return {adopt(Fd(fds[0]), "a"), adopt(Fd(fds[1]), "b")};
  }
  std::optional<TlsOptions> tls;
  if (transport == Transport::kTls) tls = Certificates::get()->options(Certificates::get()->host_a);
  Listener listener(Address::parse("tcp://127.0.0.1:0"), tls);
  auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
  auto near = connect(listener.address(), tls, std::chrono::seconds(30));
  return {std::move(near), accepted.get()};
}

// The baseline's: no frame, no checksum, no TLS; blocks of the same size.
void send_all(int fd, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) throw_errno("send", "measuring");
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
}

void receive_all(int fd, std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), 0);
    if (got <= 0) throw_errno("recv", "measuring");
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

// Seconds for `count` pieces of kBulkBytes from one thread to another.
double bulk(Channel& near, Channel& far, int count, const std::vector<uint8_t>& payload) {
  const double start = bench::now();
  std::thread sender([&] {
    for (int i = 0; i < count; i++) near.send(FrameType::kPages, payload);
  });
  for (int i = 0; i < count; i++)
    if (far.receive()->payload.size() != payload.size()) std::abort();
  sender.join();
  return bench::now() - start;
}

double raw_bulk(int near, int far, int count, const std::vector<uint8_t>& payload) {
  std::vector<uint8_t> into(payload.size() + kHeaderBytes);
  const std::vector<uint8_t> block(into.size(), 1);
  const double start = bench::now();
  std::thread sender([&] {
    for (int i = 0; i < count; i++) send_all(near, block);
  });
  for (int i = 0; i < count; i++) receive_all(far, into);
  sender.join();
  return bench::now() - start;
}

// Median seconds of a small frame there and one back.
double round_trip(Channel& near, Channel& far, int count) {
  const std::vector<uint8_t> ack(kAckBytes, 1);
  std::thread echo([&] {
    for (int i = 0; i < count; i++) {
      const auto frame = far.receive();
      far.send(FrameType::kAck, frame->payload);
    }
  });
  std::vector<double> times;
  for (int i = 0; i < count; i++) {
    const double start = bench::now();
    near.send(FrameType::kLog, ack);
    near.receive();
    times.push_back(bench::now() - start);
  }
  echo.join();
  return bench::median(std::move(times));
}

double raw_round_trip(int near, int far, int count) {
  std::thread echo([&] {
    std::vector<uint8_t> bytes(kAckBytes + kHeaderBytes);
    for (int i = 0; i < count; i++) {
      receive_all(far, bytes);
      send_all(far, bytes);
    }
  });
  std::vector<uint8_t> bytes(kAckBytes + kHeaderBytes);
  std::vector<double> times;
  for (int i = 0; i < count; i++) {
    const double start = bench::now();
    send_all(near, bytes);
    receive_all(near, bytes);
    times.push_back(bench::now() - start);
  }
  echo.join();
  return bench::median(std::move(times));
}

void measure(const std::string& name, Transport transport, int turns, int count) {
  auto [a, b] = connected(transport);
  Channel near(std::move(a)), far(std::move(b));
  // TLS is compared with what it runs over.
  const auto [raw_a, raw_b] = connected(transport == Transport::kTls ? Transport::kTcp : transport);
  const int raw_near = dynamic_cast<SocketStream&>(*raw_a).fd();
  const int raw_far = dynamic_cast<SocketStream&>(*raw_b).fd();
  const std::vector<uint8_t> payload(kBulkBytes, 1);
  bench::Pairs throughput, latency;
  for (int i = 0; i < turns; i++) {
    const double bytes = static_cast<double>(count) * kBulkBytes;
    throughput.add(bytes / bulk(near, far, count, payload),
                   bytes / raw_bulk(raw_near, raw_far, count, payload));
    latency.add(round_trip(near, far, count), raw_round_trip(raw_near, raw_far, count));
  }
  throughput.print("wire/" + name + "-throughput-vs-raw", "MB/s", 1e-6);
  latency.print("wire/" + name + "-round-trip-vs-raw", "us", 1e6);
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const int turns = quick ? 5 : 15, count = quick ? 500 : 2000;
  measure("unix", Transport::kUnix, turns, count);
  measure("tcp", Transport::kTcp, turns, count);
  if (Certificates::get() != nullptr)
    measure("tls", Transport::kTls, turns, count);
  else
    std::fprintf(stderr, "wire_bench: no TLS: %s\n", kNoOpenssl);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "wire_bench: %s\n", error.what());
  return 1;
}
