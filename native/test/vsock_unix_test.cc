// The UNIX sockets behind virtio-vsock: both directions, ends, faults and bounds, and a whole device before
// them.
#include "backends/vsock_unix.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace hypertwin::backends {
namespace {

using devices::kVsockByGuest;
using devices::kVsockNoReceive;
using devices::kVsockNoSend;
using devices::kVsockWindow;
using devices::VsockEvent;
using devices::VsockOperation;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

// A program on the host; its socket waits.
struct Program {
  Fd fd{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  void write(std::string_view text) {
    ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  std::string read(size_t size) {
    std::string text(size, 0);
    ssize_t n = recv(fd.get(), text.data(), size, MSG_WAITALL);
    text.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return text;
  }
  // Nothing more comes.
  bool ended() {
    char byte;
    return recv(fd.get(), &byte, 1, 0) <= 0;
  }
};

class VsockUnixTest : public testing::Test {
 protected:
  void SetUp() override {
    folder = testing::TempDir() + "hypertwin-vsock-" + std::to_string(getpid());
    std::filesystem::create_directories(folder);
    path = folder + "/v.sock";
    backend = std::make_unique<VsockUnix>(path, [this](VsockEvent event) {
      std::lock_guard lock(mutex);
      events.push_back(std::move(event));
      changed.notify_all();
    });
  }
  void TearDown() override {
    backend.reset();
    std::filesystem::remove_all(folder);
  }
  VsockEvent event() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !events.empty(); });
    VsockEvent first = std::move(events.front());
    events.pop_front();
    return first;
  }
  void submit(VsockOperation operation, uint64_t number, uint32_t value = 0, std::string_view data = "") {
    backend->submit({.operation = operation,
                     .connection = number,
                     .host_port = 52,
                     .guest_port = 1000,
                     .value = value,
                     .data = {data.begin(), data.end()}});
  }
  Program connect() {
    Program program;
    const sockaddr_un address = address_of(path);
    EXPECT_EQ(::connect(program.fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return program;
  }
  // An open connection that the host began.
  std::pair<Program, uint64_t> open() {
    Program program = connect();
    program.write("CONNECT 1000\n");
    VsockEvent asked = event();
    EXPECT_EQ(asked.operation, VsockOperation::kConnect);
    EXPECT_EQ(asked.guest_port, 1000u);
    EXPECT_FALSE(asked.connection & kVsockByGuest);
    submit(VsockOperation::kAccept, asked.connection);
    const std::string answer = "OK " + std::to_string(asked.host_port) + "\n";
    EXPECT_EQ(program.read(answer.size()), answer);
    return {std::move(program), asked.connection};
  }
  Fd listen() {
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(path + "_52");
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), 8), 0);
    return fd;
  }
  // All bytes of data until something else comes.
  std::string data(uint64_t number, size_t size) {
    std::string all;
    while (all.size() < size) {
      VsockEvent next = event();
      EXPECT_EQ(next.operation, VsockOperation::kData);
      EXPECT_EQ(next.connection, number);
      if (next.operation != VsockOperation::kData) break;
      all.append(next.data.begin(), next.data.end());
    }
    return all;
  }

  std::string folder, path;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<VsockEvent> events;
  std::unique_ptr<VsockUnix> backend;
};

TEST_F(VsockUnixTest, TheHostConnects) {
  auto [program, number] = open();
  program.write("to the guest");
  EXPECT_EQ(data(number, 12), "to the guest");
  submit(VsockOperation::kRoom, number, 12);
  submit(VsockOperation::kData, number, 0, "to the host");
  EXPECT_EQ(program.read(11), "to the host");
  VsockEvent room = event();
  EXPECT_EQ(room.operation, VsockOperation::kRoom);
  EXPECT_EQ(room.value, 11u);
  submit(VsockOperation::kReset, number);
  EXPECT_TRUE(program.ended());
}

TEST_F(VsockUnixTest, WhatComesWithTheLineIsData) {
  Program program = connect();
  program.write("CONNECT 7\nat once");
  VsockEvent asked = event();
  EXPECT_EQ(asked.guest_port, 7u);
  submit(VsockOperation::kAccept, asked.connection);
  EXPECT_EQ(data(asked.connection, 7), "at once");
}

TEST_F(VsockUnixTest, LinesInPiecesAndLinesThatAreNone) {
  for (const char* bad :
       {"CONNECT\n", "CONNECT x\n", "CONNECT 1 \n", "CONNECT -1\n", "CONNECT 4294967296\n", "connect 1\n",
        "GET / HTTP/1.1\n", "CONNECT 000000000000000000000000000000000001\n"}) {
    Program program = connect();
    program.write(bad);
    EXPECT_TRUE(program.ended()) << bad;
  }
  Program silent = connect();
  silent.fd.reset();
  Program program = connect();
  for (char byte : std::string("CONNECT 4294967295")) program.write({&byte, 1});
  program.write("\n");
  EXPECT_EQ(event().guest_port, UINT32_MAX);
}

TEST_F(VsockUnixTest, TheGuestConnects) {
  submit(VsockOperation::kConnect, kVsockByGuest | 1);
  EXPECT_EQ(event().operation, VsockOperation::kReset);  // nobody listens
  Fd listener = listen();
  const uint64_t number = kVsockByGuest | 2;
  submit(VsockOperation::kConnect, number);
  EXPECT_EQ(event().operation, VsockOperation::kAccept);
  Program program{Fd(accept(listener.get(), nullptr, nullptr))};
  submit(VsockOperation::kData, number, 0, "hello");
  EXPECT_EQ(program.read(5), "hello");
  EXPECT_EQ(event().operation, VsockOperation::kRoom);
  // The program is done sending, but not reading.
  program.write("bye");
  shutdown(program.fd.get(), SHUT_WR);
  EXPECT_EQ(data(number, 3), "bye");
  VsockEvent end = event();
  EXPECT_EQ(end.operation, VsockOperation::kShutdown);
  EXPECT_EQ(end.value, kVsockNoSend);
  submit(VsockOperation::kData, number, 0, "still");
  EXPECT_EQ(program.read(5), "still");
  EXPECT_EQ(event().operation, VsockOperation::kRoom);
  submit(VsockOperation::kShutdown, number, kVsockNoSend | kVsockNoReceive);
  EXPECT_EQ(event().operation, VsockOperation::kReset);
  EXPECT_TRUE(program.ended());
}

TEST_F(VsockUnixTest, AGuestThatClosesLosesNothing) {
  auto [program, number] = open();
  const std::string much(kVsockWindow, 'x');
  submit(VsockOperation::kData, number, 0, much);
  submit(VsockOperation::kShutdown, number, kVsockNoSend | kVsockNoReceive);
  submit(VsockOperation::kReset, number);
  EXPECT_EQ(program.read(much.size()), much);
  EXPECT_TRUE(program.ended());
}

TEST_F(VsockUnixTest, AProgramThatClosesLosesNothing) {
  auto [program, number] = open();
  const std::string much(1000, 'x');
  program.write(much);
  program.fd.reset();
  EXPECT_EQ(data(number, much.size()), much);
  VsockEvent end = event();
  EXPECT_EQ(end.operation, VsockOperation::kShutdown);
  EXPECT_EQ(end.value, kVsockNoSend | kVsockNoReceive);
  submit(VsockOperation::kData, number, 0, "to nobody");  // means nothing any more
  open();
}

// What the device still holds of the host's would go with the connection.
TEST_F(VsockUnixTest, AnEndOnBothSidesWaitsForTheGuestToTakeAll) {
  const std::string much(1000, 'x');
  for (bool guest_first : {false, true}) {
    auto [program, number] = open();
    if (guest_first) {
      submit(VsockOperation::kShutdown, number, kVsockNoSend);
      EXPECT_TRUE(program.ended());
    }
    program.write(much);
    shutdown(program.fd.get(), SHUT_WR);
    EXPECT_EQ(data(number, much.size()), much);
    VsockEvent end = event();
    EXPECT_EQ(end.operation, VsockOperation::kShutdown);
    // Where it is found closed on both sides the guest ends the connection.
    if (guest_first && end.value == (kVsockNoSend | kVsockNoReceive)) continue;
    EXPECT_EQ(end.value, kVsockNoSend);
    if (!guest_first) {
      submit(VsockOperation::kShutdown, number, kVsockNoSend);
      EXPECT_TRUE(program.ended());
    }
    submit(VsockOperation::kRoom, number, 999);
    // The first event of another connection shows that there was none of this one.
    auto [other, other_number] = open();
    submit(VsockOperation::kReset, other_number);
    submit(VsockOperation::kRoom, number, 1);
    end = event();
    EXPECT_EQ(end.operation, VsockOperation::kReset);
    EXPECT_EQ(end.connection, number);
  }
}

// The guest ends such a connection when it has taken all.
TEST_F(VsockUnixTest, AProgramThatGoesWithoutReadingLosesNothing) {
  for (bool in_two_steps : {false, true}) {
    auto [program, number] = open();
    submit(VsockOperation::kData, number, 0, "not read");
    EXPECT_EQ(event().operation, VsockOperation::kRoom);
    program.write("bye");
    if (in_two_steps) shutdown(program.fd.get(), SHUT_WR);
    if (!in_two_steps) program.fd.reset();
    EXPECT_EQ(data(number, 3), "bye");
    if (in_two_steps) {
      EXPECT_EQ(event().value, kVsockNoSend);
      program.fd.reset();
      submit(VsockOperation::kData, number, 0, "to nobody");
    }
    VsockEvent end = event();
    EXPECT_EQ(end.operation, VsockOperation::kShutdown);
    EXPECT_EQ(end.value, kVsockNoSend | kVsockNoReceive);
    EXPECT_EQ(end.connection, number);
  }
}

TEST_F(VsockUnixTest, TheWindowBoundsWhatIsRead) {
  auto [program, number] = open();
  const std::string much(3 * kVsockWindow, 'x');
  std::thread writer([&, fd = program.fd.get()] {
    for (size_t done = 0; done < much.size();) {
      ssize_t n = send(fd, much.data() + done, much.size() - done, MSG_NOSIGNAL);
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
  });
  size_t got = data(number, kVsockWindow).size();
  EXPECT_EQ(got, kVsockWindow);
  // Another connection's events show that the thread has been round, and has read no more of this one.
  auto [other, other_number] = open();
  other.write("x");
  VsockEvent next = event();
  EXPECT_EQ(next.connection, other_number);
  while (got < much.size()) {
    submit(VsockOperation::kRoom, number, 4096);
    got += data(number, 4096).size();
  }
  EXPECT_EQ(got, much.size());
  writer.join();
}

TEST_F(VsockUnixTest, EventsThatBreakTheRulesEndTheConnection) {
  for (int which = 0; which < 4; ++which) {
    auto [program, number] = open();
    if (which == 0) submit(VsockOperation::kRoom, number, 1);
    if (which == 1) submit(VsockOperation::kAccept, number);
    if (which == 2) submit(VsockOperation::kData, number, 0, std::string(kVsockWindow + 1, 'x'));
    if (which == 3) submit(VsockOperation::kConnect, number);
    VsockEvent end = event();
    EXPECT_EQ(end.operation, VsockOperation::kReset) << which;
    EXPECT_EQ(end.connection, number);
    EXPECT_TRUE(program.ended());
  }
  submit(VsockOperation::kData, 12345, 0, "nobody's");
  submit(VsockOperation::kReset, 12345);
  open();
}

TEST_F(VsockUnixTest, AProgramThatGivesUpWaiting) {
  Program program = connect();
  program.write("CONNECT 1\n");
  const uint64_t number = event().connection;
  program.fd.reset();
  VsockEvent end = event();
  EXPECT_EQ(end.operation, VsockOperation::kReset);
  EXPECT_EQ(end.connection, number);
}

TEST_F(VsockUnixTest, TheEndClosesAllAndRemovesTheSocket) {
  auto [program, number] = open();
  Program waiting = connect();
  backend.reset();
  EXPECT_TRUE(program.ended());
  EXPECT_TRUE(waiting.ended());
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(VsockUnixTest, SaysWhyItCannotBe) {
  auto make = [](const std::string& at) { VsockUnix other(at, [](VsockEvent) {}); };
  for (auto [at, code] : {std::pair<std::string, std::string>{path, "EADDRINUSE"},
                          {folder + "/no/v.sock", "ENOENT"},
                          {"", "ENAMETOOLONG"},
                          {"/tmp/" + std::string(95, 'x'), "ENAMETOOLONG"}}) {
    try {
      make(at);
      FAIL() << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
    }
  }
  EXPECT_TRUE(std::filesystem::exists(path));
}

// A guest that asks faster than the host's side answers: nobody waits with the device locked.
TEST(VsockUnix, IsBusyWhileManyEventsAreNotDone) {
  const std::string path = testing::TempDir() + "hypertwin-vsock-busy-" + std::to_string(getpid());
  std::mutex device;
  std::condition_variable changed;
  bool idle = false;
  size_t resets = 0;
  VsockUnix backend(
      path,
      [&](VsockEvent event) {
        std::lock_guard lock(device);
        resets += event.operation == VsockOperation::kReset;
      },
      [&] {
        std::lock_guard lock(device);
        idle = true;
        changed.notify_all();
      });
  constexpr size_t kEvents = VsockUnix::kMaxQueued + 100;
  std::unique_lock lock(device);
  // The first ones may be under way already.
  for (size_t i = 0; i < 2 * kEvents; ++i)
    backend.submit({.operation = VsockOperation::kConnect,
                    .connection = kVsockByGuest | i,
                    .host_port = 52,
                    .guest_port = 1000,
                    .data = {}});
  EXPECT_TRUE(backend.busy());
  changed.wait(lock, [&] { return idle && resets == 2 * kEvents; });
  EXPECT_FALSE(backend.busy());
}

}  // namespace
}  // namespace hypertwin::backends
