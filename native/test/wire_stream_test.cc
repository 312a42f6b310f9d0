// Addresses, connecting, listening: what works, and what each failure is called.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <thread>

#include "wire_util.h"

namespace hypertwin::wire {
namespace {

class Folder {
 public:
  Folder() {
    path_ = (std::filesystem::temp_directory_path() / "hypertwin-wire-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) throw_errno("mkdtemp", "testing");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Address socket(const std::string& name = "s") const { return Address::parse("unix:" + path_ + "/" + name); }

 private:
  std::string path_;
};

void say(Stream& stream, const std::string& text) {
  const std::span<const uint8_t> part(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  stream.write(std::span(&part, 1));
}

std::string hear(Stream& stream, size_t bytes) {
  std::string text(bytes, 0);
  size_t got = 0;
  while (got < bytes) {
    const size_t count = stream.read({reinterpret_cast<uint8_t*>(text.data()) + got, bytes - got});
    if (count == 0) break;
    got += count;
  }
  text.resize(got);
  return text;
}

// There and back through a listener at `address`.
void exchange(const Address& address) {
  Listener listener(address);
  auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
  auto near = connect(listener.address(), {}, 30s);
  auto far = accepted.get();
  ASSERT_TRUE(far);
  say(*near, "hello");
  EXPECT_EQ(hear(*far, 5), "hello");
  say(*far, "and back");
  EXPECT_EQ(hear(*near, 8), "and back");
  EXPECT_FALSE(far->ended());
  near->shutdown();
  EXPECT_EQ(hear(*far, 1), "");
  EXPECT_TRUE(far->ended());
}

// An error as text_of() gives it.
void expect_text(const std::string& text, const std::string& code, const std::string& part) {
  EXPECT_EQ(text.rfind(code + ": ", 0), 0u) << text;
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(WireAddress, IsParsedAndPrinted) {
  for (const char* text : {"tcp://127.0.0.1:80", "tcp://[::1]:65535", "tcp://host-a.example:0",
                           "unix:/run/a b", "unix:relative/s"})
    EXPECT_EQ(Address::parse(text).text(), text);
  EXPECT_EQ(Address::parse("unix:///run/s").text(), "unix:/run/s");
  EXPECT_EQ(Address::parse("unix:////a").text(), "unix:////a");
  EXPECT_EQ(Address::parse("tcp://[fe80::1]:9").host, "fe80::1");
  EXPECT_EQ(Address::parse("tcp://h:9").port, 9);
}

TEST(WireAddress, RefusesWhatIsNone) {
  for (const auto& text :
       {std::string(), std::string("host:1"), std::string("http://h:1"), std::string("tcp://h"),
        std::string("tcp://:1"), std::string("tcp://h:"), std::string("tcp://h:65536"),
        std::string("tcp://h:-1"), std::string("tcp://h:1x"), std::string("tcp://h: 1"),
        std::string("tcp://::1:1"), std::string("tcp://[::1:1"), std::string("tcp://h/x:1"),
        std::string("tcp://[]:1"), std::string("unix:"), std::string("unix://"),
        "unix:/" + std::string(200, 'x'), std::string("unix:/a\0b", 9), std::string("tcp://a\0b:1", 11)})
    EXPECT_EQ(code_of([&] { Address::parse(text); }), "BAD_ADDRESS") << text;
}

TEST(WireStream, ExchangesOverTcp) { exchange(Address::parse("tcp://127.0.0.1:0")); }

TEST(WireStream, ExchangesOverAHostName) { exchange(Address::parse("tcp://localhost:0")); }

TEST(WireStream, ExchangesOverIpv6) {
  const Fd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 name{};
  name.sin6_family = AF_INET6;
  name.sin6_addr = in6addr_loopback;
  if (!probe || ::bind(probe.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0)
    GTEST_SKIP() << "this host has no ::1 to bind to";
  exchange(Address::parse("tcp://[::1]:0"));
}

TEST(WireStream, ExchangesOverUnix) {
  Folder folder;
  exchange(folder.socket());
  // The listener took its file away.
  EXPECT_NE(::access(folder.socket().host.c_str(), F_OK), 0);
}

TEST(WireStream, SmallWritesAreNotHeldBack) {
  Listener listener(Address::parse("tcp://127.0.0.1:0"));
  auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
  const Fd raw(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(listener.address().port);
  ASSERT_EQ(::connect(raw.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  ASSERT_TRUE(accepted.get());
  auto adopted = adopt(Fd(::dup(raw.get())), "a test");
  int value = 0;
  socklen_t size = sizeof(value);
  ASSERT_EQ(::getsockopt(raw.get(), IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
  EXPECT_NE(value, 0);
}

TEST(WireStream, AUnixSocketIsTheOwnersAlone) {
  Folder folder;
  Listener listener(folder.socket());
  struct stat status {};
  ASSERT_EQ(::stat(folder.socket().host.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(WireStream, AUnixSocketNobodyListensOnIsReplaced) {
  Folder folder;
  const Address address = folder.socket();
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  address.host.copy(name.sun_path, sizeof(name.sun_path) - 1);
  {
    const Fd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  }
  exchange(address);
}

TEST(WireStream, ATakenAddressIsRefused) {
  Folder folder;
  for (const auto& address : {folder.socket(), Address::parse("tcp://127.0.0.1:0")}) {
    const Listener first(address);
    expect_text(text_of([&] { Listener second(first.address()); }), "EADDRINUSE", first.address().text());
  }
  // A file that is no socket stays.
  std::ofstream(folder.socket("file").host) << "precious";
  EXPECT_EQ(code_of([&] { Listener listener(folder.socket("file")); }), "EADDRINUSE");
  EXPECT_EQ(std::filesystem::file_size(folder.socket("file").host), 8u);
}

TEST(WireStream, AListenerLeavesAnothersFileAlone) {
  Folder folder;
  {
    Listener listener(folder.socket());
    ASSERT_EQ(::unlink(folder.socket().host.c_str()), 0);
    std::ofstream(folder.socket().host) << "another's";
  }
  EXPECT_EQ(::access(folder.socket().host.c_str(), F_OK), 0);
}

TEST(WireStream, SaysWhyAPeerIsOutOfReach) {
  Folder folder;
  Address gone;
  {
    Listener listener(Address::parse("tcp://127.0.0.1:0"));
    gone = listener.address();
  }
  expect_text(text_of([&] { connect(gone, {}, 30s); }), "PEER_UNREACHABLE", "ECONNREFUSED");
  expect_text(text_of([&] { connect(folder.socket(), {}, 30s); }), "PEER_UNREACHABLE", "ENOENT");
  expect_text(text_of([&] { connect(Address::parse("tcp://no-such-host.invalid:1"), {}, 30s); }),
              "PEER_UNREACHABLE", "no-such-host.invalid");
}

// A UNIX listener that never accepts, its queue full.
TEST(WireStream, AConnectionThatDoesNotComeAboutTakesNoLongerThanAllowed) {
  Folder folder;
  const Fd full(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  folder.socket().host.copy(name.sun_path, sizeof(name.sun_path) - 1);
  ASSERT_EQ(::bind(full.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  ASSERT_EQ(::listen(full.get(), 0), 0);
  std::vector<std::unique_ptr<Stream>> queued;
  const std::string text = text_of([&] {
    for (;;) queued.push_back(connect(folder.socket(), {}, 50ms));
  });
  expect_text(text, "TIMEOUT", "connecting to");

  const Fd cancel(::eventfd(0, EFD_CLOEXEC));
  auto waits = std::async(std::launch::async,
                          [&] { return text_of([&] { connect(folder.socket(), {}, 1h, cancel.get()); }); });
  const uint64_t one = 1;
  ASSERT_EQ(::write(cancel.get(), &one, sizeof(one)), ssize_t(sizeof(one)));
  expect_text(waits.get(), "CANCELLED", "connecting to");
}

TEST(WireStream, CloseEndsAccept) {
  for (int round = 0; round < 50; round++) {
    Listener listener(Address::parse("tcp://127.0.0.1:0"));
    auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
    if (round % 2 == 0) std::this_thread::yield();
    listener.close();
    EXPECT_FALSE(accepted.get());
    EXPECT_FALSE(listener.accept());
  }
}

TEST(WireStream, NamesThePeer) {
  Folder folder;
  for (const auto& address : {folder.socket(), Address::parse("tcp://127.0.0.1:0")}) {
    Listener listener(address);
    auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
    const auto near = connect(listener.address(), {}, 30s);
    EXPECT_EQ(near->peer(), listener.address().text());
    const std::string far = accepted.get()->peer();
    EXPECT_EQ(far.rfind(address.kind == Address::Kind::kUnix ? address.text() : "tcp://127.0.0.1:", 0), 0u)
        << far;
  }
}

}  // namespace
}  // namespace hypertwin::wire
