// TLS: who is let in and who is not, and that a refusal names its reason on both sides.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "wire/tls.h"
#include "wire_util.h"

namespace hypertwin::wire {
namespace {

// What became of one attempt: empty where it went well, else the error's text; on the accepting side what
// on_refused was told.
struct Outcome {
  std::string connecting, accepting;
};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class WireTls : public testing::Test {
 protected:
  void SetUp() override {
    certificates = Certificates::get();
    if (certificates == nullptr) GTEST_SKIP() << kNoOpenssl;
    host_a = certificates->options(certificates->host_a);
  }

  // One connection from `near` to a listener with `far`; the refused end closes the listener.
  static Outcome attempt(const std::optional<TlsOptions>& near, const std::optional<TlsOptions>& far) {
    Outcome outcome;
    Listener listener(Address::parse("tcp://127.0.0.1:0"), far);
    auto accepted = std::async(std::launch::async, [&] {
      return listener.accept([&](const std::string& why) {
        outcome.accepting = why;
        listener.close();
      });
    });
    std::unique_ptr<Stream> stream;
    outcome.connecting = text_of([&] { stream = connect(listener.address(), near, 30s); });
    const auto far_stream = accepted.get();
    if (stream && far_stream) {
      Channel left(std::move(stream));
      left.send(FrameType::kHello, {});
    }
    return outcome;
  }

  const Certificates* certificates = nullptr;
  TlsOptions host_a;
};

TEST_F(WireTls, LetsEachOtherIn) {
  const auto outcome = attempt(host_a, host_a);
  EXPECT_EQ(outcome.connecting, "");
  EXPECT_EQ(outcome.accepting, "");
}

TEST_F(WireTls, ChecksTheNameConnectedTo) {
  const auto host_b = certificates->options(certificates->host_b);
  auto outcome = attempt(host_a, host_b);
  EXPECT_TRUE(has(outcome.connecting, "TLS_FAILED")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.connecting, "does not name '127.0.0.1'")) << outcome.connecting;
  EXPECT_NE(outcome.accepting, "");
  // The name that it was told to expect, in place of the address.
  outcome = attempt(certificates->options(certificates->host_a, "host-b"), host_b);
  EXPECT_EQ(outcome.connecting, "");
  outcome = attempt(certificates->options(certificates->host_a, "host-a"), host_b);
  EXPECT_TRUE(has(outcome.connecting, "does not name 'host-a'")) << outcome.connecting;
}

TEST_F(WireTls, ChecksTheConnectingSidesNameWhenTold) {
  const auto outcome = attempt(host_a, certificates->options(certificates->host_a, "host-b"));
  EXPECT_TRUE(has(outcome.connecting, "TLS_FAILED")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.accepting, "does not name 'host-b'")) << outcome.accepting;
}

TEST_F(WireTls, RefusesAnotherCa) {
  // The accepting side's is a stranger's: the connecting one notices.
  auto outcome = attempt(host_a, certificates->options(certificates->stranger));
  EXPECT_TRUE(has(outcome.connecting, "TLS_FAILED")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.connecting, "its certificate was refused")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.accepting, "it refused this side")) << outcome.accepting;
  // And the other way round.
  outcome = attempt(certificates->options(certificates->stranger), host_a);
  EXPECT_TRUE(has(outcome.connecting, "TLS_FAILED")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.connecting, "it refused this side")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.accepting, "its certificate was refused")) << outcome.accepting;
}

TEST_F(WireTls, RefusesAnExpiredCertificate) {
  auto outcome = attempt(host_a, certificates->options(certificates->expired));
  EXPECT_TRUE(has(outcome.connecting, "certificate has expired")) << outcome.connecting;
  outcome = attempt(certificates->options(certificates->expired), host_a);
  EXPECT_TRUE(has(outcome.connecting, "TLS_FAILED")) << outcome.connecting;
  EXPECT_TRUE(has(outcome.accepting, "certificate has expired")) << outcome.accepting;
}

// No side of ours can do without a certificate, so this one is openssl's own.
TEST_F(WireTls, RefusesAPeerWithoutACertificate) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"), host_a);
  std::string refused;
  auto accepted = std::async(std::launch::async, [&] {
    return listener.accept([&](const std::string& why) {
      refused = why;
      listener.close();
    });
  });
  const std::string line = "openssl s_client -connect 127.0.0.1:" + std::to_string(listener.address().port) +
                           " </dev/null >/dev/null 2>&1";
  static_cast<void>(std::system(line.c_str()));
  EXPECT_FALSE(accepted.get());
  EXPECT_TRUE(has(refused, "peer did not return a certificate")) << refused;
}

TEST_F(WireTls, RefusesAnOlderTls) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"), host_a);
  std::string refused;
  auto accepted = std::async(std::launch::async, [&] {
    return listener.accept([&](const std::string& why) {
      refused = why;
      listener.close();
    });
  });
  const std::string line =
      "openssl s_client -tls1_2 -connect 127.0.0.1:" + std::to_string(listener.address().port) +
      " </dev/null >/dev/null 2>&1";
  static_cast<void>(std::system(line.c_str()));
  EXPECT_FALSE(accepted.get());
  EXPECT_TRUE(has(refused, "unsupported protocol")) << refused;
}

TEST_F(WireTls, OneSideWithoutTlsIsTold) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"), host_a);
  std::string refused;
  auto accepted = std::async(std::launch::async, [&] {
    return listener.accept([&](const std::string& why) {
      refused = why;
      listener.close();
    });
  });
  Channel plain(connect(listener.address(), {}, 30s));
  plain.send(FrameType::kHello, pattern(100, 1));
  EXPECT_FALSE(accepted.get());
  EXPECT_TRUE(has(refused, "TLS")) << refused;
  // The other way round.
  Listener open(Address::parse("tcp://127.0.0.1:0"));
  auto taken = std::async(std::launch::async, [&] {
    auto stream = open.accept();
    const auto bytes = pattern(100, 1);
    const std::span<const uint8_t> part(bytes);
    stream->write(std::span(&part, 1));
    return stream;
  });
  const std::string text = text_of([&] { connect(open.address(), host_a, 30s); });
  EXPECT_TRUE(has(text, "TLS_FAILED")) << text;
  taken.get();
}

// Neither a silent peer nor a hundred of them keep a good one out.
TEST_F(WireTls, ASilentPeerHoldsNobodyUp) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"), host_a);
  std::vector<std::unique_ptr<Stream>> silent;
  int refused = 0;
  auto accepted =
      std::async(std::launch::async, [&] { return listener.accept([&](const std::string&) { refused++; }); });
  for (int i = 0; i < 100; i++) silent.push_back(connect(listener.address(), {}, 30s));
  const auto good = connect(listener.address(), host_a, 30s);
  EXPECT_TRUE(accepted.get());
  EXPECT_GE(refused, 36);
  silent.clear();
}

TEST_F(WireTls, AHandshakeCanTimeOutAndBeCancelled) {
  Listener silent(Address::parse("tcp://127.0.0.1:0"));
  EXPECT_EQ(code_of([&] { connect(silent.address(), host_a, 50ms); }), "TIMEOUT");
  const Fd cancel(::eventfd(0, EFD_CLOEXEC));
  auto waits = std::async(std::launch::async, [&] {
    return code_of([&] { connect(silent.address(), host_a, 1h, cancel.get()); });
  });
  const uint64_t one = 1;
  ASSERT_EQ(::write(cancel.get(), &one, sizeof(one)), ssize_t(sizeof(one)));
  EXPECT_EQ(waits.get(), "CANCELLED");
}

TEST_F(WireTls, CloseEndsAcceptInTheMiddleOfAHandshake) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"), host_a);
  auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
  const auto silent = connect(listener.address(), {}, 30s);
  listener.close();
  EXPECT_FALSE(accepted.get());
}

TEST_F(WireTls, RefusesOptionsThatAreNoGood) {
  const auto problem = [&](auto&& change) {
    TlsOptions options = host_a;
    change(options);
    return text_of([&] { Listener listener(Address::parse("tcp://127.0.0.1:0"), options); });
  };
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_TRUE(has(text, "TLS_FAILED") && has(text, part)) << text;
  };
  expect(problem([](TlsOptions& o) { o.ca = ""; }), "the CA");
  expect(problem([](TlsOptions& o) { o.ca = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"; }),
         "the CA");
  expect(problem([](TlsOptions& o) { o.certificate = "nothing"; }), "the certificate");
  expect(problem([](TlsOptions& o) { o.key = ""; }), "the key");
  expect(problem([&](TlsOptions& o) { o.key = certificates->host_b.key; }), "no pair");
  expect(text_of([&] { connect(Address::parse("unix:/nowhere"), host_a, 1s); }), "server name");
}

// A connection that is cut without TLS's own end may have been cut by anyone.
TEST_F(WireTls, ACutIsNoOrderlyEnd) {
  for (const bool orderly : {true, false}) {
    auto [near, far] = streams(Transport::kTls);
    const std::string text = text_of([&, &near = near, &far = far] {
      if (orderly)
        near->shutdown();
      else
        ::shutdown(dynamic_cast<SocketStream&>(*near).fd(), SHUT_RDWR);
      std::array<uint8_t, 16> buffer;
      EXPECT_EQ(far->read(buffer), 0u);
    });
    EXPECT_EQ(text.empty(), orderly) << text;
    EXPECT_EQ(has(text, "PEER_LOST"), !orderly) << text;
  }
}

// Bits that flip on the way inside TLS.
TEST_F(WireTls, AChangedRecordIsALostPeer) {
  auto [near, far] = streams(Transport::kTls);
  const std::array<uint8_t, 37> record = {23, 3, 3, 0, 32};
  ASSERT_EQ(::send(dynamic_cast<SocketStream&>(*near).fd(), record.data(), record.size(), 0),
            ssize_t(record.size()));
  std::array<uint8_t, 16> buffer;
  const std::string text = text_of([&, &far = far] { far->read(buffer); });
  EXPECT_TRUE(has(text, "PEER_LOST")) << text;
}

// Whose OpenSSL it is: this program links none, so it was opened at run time.
}  // namespace
}  // namespace hypertwin::wire
