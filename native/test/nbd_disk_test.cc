// The disk on an NBD server: with nbdkit, sound, slow, stopped, killed and started again, and with a server
// of this file's own that lies.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>

#include "backends/nbd_disk.h"
#include "backends/nbd_tls.h"
#include "base/error.h"
#include "code_of.h"

extern char** environ;

namespace hypertwin::backends {
namespace {

using devices::BlockOperation;
using devices::BlockRequest;
using devices::BlockStatus;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr size_t kSize = 1 << 20;

// Why no disk can be on a server here; empty when it can.
std::string why_not() {
  try {
    NbdLibrary::get();
  } catch (const Error& error) {
    return error.what();
  }
  for (const char* path : {"/usr/bin/nbdkit", "/usr/sbin/nbdkit"})
    if (access(path, X_OK) == 0) return "";
  return "no nbdkit (Debian: nbdkit)";
}

template <class P>
void until(P predicate) {
  while (!predicate()) std::this_thread::sleep_for(milliseconds(5));
}

auto took(const auto& body) {
  const auto since = std::chrono::steady_clock::now();
  body();
  return std::chrono::steady_clock::now() - since;
}

// One that serves `image`, with further arguments before the plugin.
class NbdKit {
 public:
  NbdKit(std::string socket, std::string image, std::vector<std::string> filters = {},
         std::vector<std::string> parameters = {})
      : socket_(std::move(socket)),
        image_(std::move(image)),
        filters_(std::move(filters)),
        parameters_(std::move(parameters)) {
    start();
  }
  ~NbdKit() { end(SIGKILL); }
  void start() {
    std::filesystem::remove(socket_);
    const std::string pid_file = socket_ + ".pid";
    std::filesystem::remove(pid_file);
    std::vector<std::string> words{"nbdkit", "-f", "--exit-with-parent", "-U", socket_, "-P", pid_file};
    words.insert(words.end(), filters_.begin(), filters_.end());
    words.insert(words.end(), {"file", image_});
    words.insert(words.end(), parameters_.begin(), parameters_.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawnp(&pid_, "nbdkit", nullptr, nullptr, argv.data(), environ), 0);
    until([&] { return std::filesystem::exists(pid_file) || waitpid(pid_, nullptr, WNOHANG) == pid_; });
  }
  void end(int how) {
    if (pid_ <= 0) return;
    kill(pid_, how);
    kill(pid_, SIGCONT);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  void stop() const {
    kill(pid_, SIGSTOP);
    waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() const { kill(pid_, SIGCONT); }

 private:
  std::string socket_, image_;
  std::vector<std::string> filters_, parameters_;
  pid_t pid_ = -1;
};

class NbdDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_not(); !why.empty()) GTEST_SKIP() << why;
    std::string pattern = testing::TempDir() + "hypertwin-nbd-XXXXXX";
    ASSERT_TRUE(mkdtemp(pattern.data()));
    folder = pattern;
    image = folder + "/image";
    socket = folder + "/socket";
    uri = "nbd+unix:///?socket=" + socket;
    std::ofstream(image) << std::string(kSize, 'a');
  }
  void TearDown() override {
    if (!folder.empty()) std::filesystem::remove_all(folder);
  }
  Disk::OnComplete keep() {
    return [this](Disk::Completion completion) {
      std::lock_guard lock(mutex);
      done[completion.ordinal] = std::move(completion);
      wake.notify_all();
    };
  }
  // Whether it comes.
  bool await(uint64_t ordinal, seconds limit = seconds(30)) {
    std::unique_lock lock(mutex);
    return wake.wait_for(lock, limit, [&] { return done.contains(ordinal); });
  }
  int outcome(uint64_t ordinal) {
    if (!await(ordinal)) return -1;
    std::lock_guard lock(mutex);
    return done[ordinal].err;
  }
  bool nothing_told() {
    std::lock_guard lock(mutex);
    return done.empty();
  }
  std::string contents() const {
    std::ifstream in(image);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static BlockRequest read(uint64_t ordinal, uint64_t offset, uint32_t size) {
    return {
        .ordinal = ordinal, .operation = BlockOperation::kRead, .offset = offset, .size = size, .data = {}};
  }
  static BlockRequest write(uint64_t ordinal, uint64_t offset, size_t size, char what, bool durable = false) {
    return {.ordinal = ordinal,
            .operation = BlockOperation::kWrite,
            .offset = offset,
            .size = 0,
            .data = std::vector<uint8_t>(size, static_cast<uint8_t>(what)),
            .durable = durable};
  }
  static BlockRequest range(uint64_t ordinal, BlockOperation operation, uint64_t offset, uint32_t size,
                            bool durable = false) {
    return {.ordinal = ordinal,
            .operation = operation,
            .offset = offset,
            .size = size,
            .data = {},
            .durable = durable};
  }
  std::string text(uint64_t ordinal) {
    std::lock_guard lock(mutex);
    return {done[ordinal].data.begin(), done[ordinal].data.end()};
  }

  std::string folder, image, socket, uri;
  std::mutex mutex;
  std::condition_variable wake;
  std::map<uint64_t, Disk::Completion> done;
};

TEST(NbdLibrary, SaysWhatToInstall) {
  try {
    NbdLibrary::open("libnbd-is-not-here.so.0");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LIBNBD_MISSING");
    EXPECT_NE(std::string(error.what()).find("apt-get install libnbd0"), std::string::npos);
  }
}

TEST(NbdUri, IsToldFromAPath) {
  EXPECT_TRUE(is_nbd_uri("nbd://host/export"));
  EXPECT_TRUE(is_nbd_uri("nbds+unix:///?socket=x"));
  EXPECT_FALSE(is_nbd_uri("/nbd://x"));
  EXPECT_FALSE(is_nbd_uri("nbd"));
  EXPECT_FALSE(is_nbd_uri("nbd+ssh://x"));
}

TEST(NbdUri, IsShownWithoutSecrets) {
  EXPECT_EQ(without_secrets("nbds://me:pass@host:10809/a@b:c?tls-psk-file=/keys"),
            "nbds://me@host:10809/a@b:c");
  EXPECT_EQ(without_secrets("nbd://host:10809/export"), "nbd://host:10809/export");
  EXPECT_EQ(without_secrets("nbd+unix:///e:x@y?tls-certificates=/c&socket=/run/s"),
            "nbd+unix:///e:x@y?socket=/run/s");
  EXPECT_EQ(without_secrets("nbd://u:@h"), "nbd://u@h");
  EXPECT_EQ(without_secrets("nbd://u:p@q@h/e"), "nbd://u@h/e");
  EXPECT_EQ(without_secrets("nbd://u:p/q@h/e?x"), "nbd://u@h/e");
  EXPECT_EQ(without_secrets("nbd+unix://u:p?q@/e?socket=/s&x"), "nbd+unix://u@/e?socket=/s");
  EXPECT_EQ(without_secrets("nbd://h:10809/a@b"), "nbd://h:10809/a@b");
  EXPECT_EQ(without_secrets("nbd://[::1]:10809/a@b"), "nbd://[::1]:10809/a@b");
  EXPECT_EQ(without_secrets(""), "");
}

// What libnbd's versions read in different ways must not decide whether a server is verified.
TEST(NbdUri, OfTlsIsReadInOneWayOnly) {
  const std::string folder = testing::TempDir() + "hypertwin nbd " + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/ca-cert.pem") << "";
  const std::string name = testing::TempDir() + "hypertwin%20nbd%20" + std::to_string(getpid());
  EXPECT_EQ(tls_files("nbds://h/?x=1&tls-certificates=" + name + "&y#z").certificates, folder);
  EXPECT_EQ(tls_files("nbds://h/?tls-psk-file=/k%2").psk_file, "/k%2");
  EXPECT_EQ(tls_files("nbds+unix:///?socket=/s&tls-psk-file=/k").psk_file, "/k");
  EXPECT_EQ(tls_files("nbd://h/?tls-certificates=/nowhere;").certificates, "");
  const std::string good = "nbds://h/?tls-certificates=" + name;
  for (const std::string& bad :
       {std::string("nbds://h/?tls-certificates=/nowhere"), good + "&tls-certificates=/nowhere",
        good + "&tls-certificates=" + name, "nbds://h/?x=1;tls-certificates=" + name, good + "&x;y",
        good + "&tl%73-certificates=/nowhere", good + "&%74ls-verify-peer=false",
        good + "&tls-verify-peer=false", good + "&TLS-Verify-Peer=0", good + "&tls-verify-peer",
        good + "%00x", std::string("nbds://h/?tls-psk-file="), std::string("nbds://h/?tls-psk-file"),
        std::string("nbds+unix:///?socket=/s&tls-psk-file=/k&tls-psk-file=/l")})
    EXPECT_EQ(code_of([&] { tls_files(bad); }), "BAD_CONFIG") << bad;
  std::filesystem::remove_all(folder);
}

TEST_F(NbdDiskTest, NoSecretIsInWhatLibnbdSays) {
  for (const std::string wrong : {"nbd://me:pass word@host/", "nbd://me:pass/word@host/"}) {
    try {
      NbdDisk(wrong, {}, keep());
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("word"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("nbd://me@host/"), std::string::npos) << error.what();
    }
  }
}

// Whatever the server can and cannot do, the image is the same afterwards.
TEST_F(NbdDiskTest, AllOperationsWithAllKindsOfServers) {
  const std::vector<std::vector<std::string>> kinds[] = {
      {{}, {}},
      {{"--filter=fua"}, {"fuamode=native"}},
      {{"--filter=nozero"}, {}},
      {{"--filter=nozero"}, {"zeromode=plugin"}},
      {{"--filter=blocksize-policy"},
       {"blocksize-preferred=4096", "blocksize-maximum=65536", "blocksize-error-policy=error"}},
      {{"--filter=delay"}, {"delay-write=3ms", "delay-zero=1ms"}},
  };
  for (const auto& kind : kinds) {
    done.clear();
    std::ofstream(image) << std::string(kSize, 'a');
    NbdKit server(socket, image, kind[0], kind[1]);
    {
      NbdDisk disk(uri, {}, keep());
      ASSERT_EQ(disk.size(), kSize);
      disk.submit(write(0, 512, 512, 'b', true));
      disk.submit(read(1, 0, 1536));
      disk.submit(range(2, BlockOperation::kFlush, 0, 0));
      disk.submit(range(3, BlockOperation::kWriteZeroes, 128 << 10, 200 << 10, true));
      disk.submit(write(4, 512 << 10, 256 << 10, 'c'));
      disk.submit(read(5, 512 << 10, 256 << 10));
      disk.submit(range(6, BlockOperation::kDiscard, 64 << 10, 4096, true));
      disk.submit(read(7, kSize - 511, 512));
      disk.submit(write(8, UINT64_MAX, 512, 'x'));
      disk.submit(range(9, BlockOperation::kWriteZeroes, kSize - 512, 1024));
      disk.submit(read(10, 4096, 0));
      for (uint64_t i : {0, 1, 2, 3, 4, 5, 6, 10}) EXPECT_EQ(outcome(i), 0) << i;
      for (uint64_t i : {7, 8, 9}) EXPECT_EQ(outcome(i), EINVAL) << i;
      EXPECT_EQ(text(1), std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
      EXPECT_EQ(text(5), std::string(256 << 10, 'c'));
      disk.drain();
      std::vector<uint64_t> written(1);
      disk.take_written(written);
      // Blocks 0, 1, 2 to 5, 8 to 11.
      EXPECT_EQ(written[0], 0xf3fu);
      std::vector<uint8_t> bytes(1000);
      disk.read_at(100, bytes);
      EXPECT_EQ(bytes[411], 'a');
      EXPECT_EQ(bytes[412], 'b');
      EXPECT_EQ(code_of([&] { disk.read_at(kSize - 1, bytes); }), "ERANGE");
      disk.sync();
    }
    const std::string now = contents();
    ASSERT_EQ(now.size(), kSize);
    EXPECT_EQ(now.substr(0, 1536), text(1));
    EXPECT_EQ(now.substr(128 << 10, 200 << 10), std::string(200 << 10, 0));
    EXPECT_EQ(now.substr(328 << 10, 512), std::string(512, 'a'));
    EXPECT_EQ(now.substr(512 << 10, 256 << 10), std::string(256 << 10, 'c'));
  }
}

TEST_F(NbdDiskTest, MovesDataIntoAndOutOfItsOwnersMemory) {
  NbdKit server(socket, image);
  std::atomic<unsigned> pauses{0};
  NbdDisk disk(uri, {.threads = 4, .batch = 8, .on_pause = [&] { ++pauses; }}, keep());
  std::string from(1024, 'b'), into(2048, 'x');
  BlockRequest out{
      .ordinal = 0, .operation = BlockOperation::kWrite, .offset = 512, .size = 1024, .data = {}};
  out.parts = {{from.data(), 300}, {from.data() + 300, 724}};
  disk.submit(std::move(out));
  BlockRequest in = read(1, 0, 1024);
  in.parts = {{into.data() + 1000, 600}, {into.data(), 424}};
  disk.submit(std::move(in));
  ASSERT_EQ(outcome(0), 0);
  ASSERT_EQ(outcome(1), 0);
  EXPECT_EQ(into.substr(1000, 601), std::string(512, 'a') + std::string(88, 'b') + "x");
  EXPECT_EQ(into.substr(0, 425), std::string(424, 'b') + "x");
  until([&] { return pauses > 0; });
}

// The server answers in any order; what overlaps is as if it were done in order.
TEST_F(NbdDiskTest, OverlappingRequestsKeepTheirOrder) {
  NbdKit server(socket, image, {"--filter=delay"}, {"delay-write=1ms"});
  NbdDisk disk(uri, {}, keep());
  for (uint64_t i = 0; i < 300; ++i) {
    disk.submit(write(2 * i, 4096, 512 * (1 + i % 7), static_cast<char>(i)));
    disk.submit(read(2 * i + 1, 4096, 512));
  }
  for (uint64_t i = 0; i < 300; ++i) {
    ASSERT_EQ(outcome(2 * i + 1), 0);
    ASSERT_EQ(text(2 * i + 1), std::string(512, static_cast<char>(i))) << i;
  }
}

TEST_F(NbdDiskTest, ReadOnlyAndOpenErrors) {
  auto open = [&](const std::string& where, Disk::Options options = {}) {
    return code_of([&] { NbdDisk(where, std::move(options), keep()); });
  };
  EXPECT_EQ(open(uri), "ENOENT");
  EXPECT_EQ(open("nbd+unix:///"), "EINVAL");
  {
    std::ofstream nobody(socket);
    EXPECT_EQ(open(uri), "ECONNREFUSED");
  }
  {
    NbdKit server(socket, image, {"--filter=blocksize-policy"},
                  {"blocksize-minimum=4096", "blocksize-preferred=4096"});
    EXPECT_EQ(open(uri), "BAD_CONFIG");
  }
  NbdKit server(socket, image, {"-r"});
  EXPECT_EQ(open(uri), "EROFS");
  NbdDisk disk(uri, {.read_only = true}, keep());
  disk.submit(write(0, 0, 512, 'b'));
  disk.submit(range(1, BlockOperation::kDiscard, 0, 512));
  disk.submit(range(2, BlockOperation::kFlush, 0, 0));
  disk.submit(read(3, 0, 512));
  EXPECT_EQ(outcome(0), EROFS);
  EXPECT_EQ(outcome(1), EROFS);
  EXPECT_EQ(outcome(2), 0);
  EXPECT_EQ(outcome(3), 0);
  disk.sync();
}

TEST_F(NbdDiskTest, AServersErrorIsTheRequests) {
  NbdKit server(socket, image, {"--filter=error"},
                {"error-pread=ENOSPC", "error-pread-rate=100%", "error-pread-file=" + folder + "/fail"});
  NbdDisk disk(uri, {}, keep());
  std::ofstream(folder + "/fail") << "";
  disk.submit(read(0, 0, 512));
  EXPECT_EQ(outcome(0), ENOSPC);
  EXPECT_EQ(done[0].status, BlockStatus::kIoError);
  EXPECT_TRUE(done[0].data.empty());
  std::vector<uint8_t> bytes(512);
  EXPECT_EQ(code_of([&] { disk.read_at(0, bytes); }), "ENOSPC");
  std::filesystem::remove(folder + "/fail");
  disk.submit(read(1, 0, 512));
  EXPECT_EQ(outcome(1), 0);
}

// Killed again and again under a load, and started again: nothing fails, nothing is lost.
TEST_F(NbdDiskTest, GoesOnWhenTheServerIsBack) {
  NbdKit server(socket, image, {"--filter=delay"}, {"delay-write=1ms"});
  NbdDisk disk(uri, {}, keep());
  constexpr uint64_t kRequests = 1500;
  std::thread guest([&] {
    for (uint64_t i = 0; i < kRequests; ++i) {
      disk.submit(write(i, i * 512, 512, static_cast<char>('b' + i % 20), i % 5 == 0));
      if (i >= 40) await(i - 40);
    }
  });
  for (uint64_t at : {100u, 500u, 900u}) {
    await(at);
    server.end(at == 500 ? SIGTERM : SIGKILL);
    server.start();
  }
  guest.join();
  for (uint64_t i = 0; i < kRequests; ++i) ASSERT_EQ(outcome(i), 0) << i;
  disk.sync();
  const std::string now = contents();
  for (uint64_t i = 0; i < kRequests; ++i)
    ASSERT_EQ(now[i * 512 + 511], static_cast<char>('b' + i % 20)) << i;
}

TEST_F(NbdDiskTest, RequestsFailWhenTheServerStaysAway) {
  NbdKit server(socket, image);
  NbdDisk disk(uri, {.reconnect = seconds(2)}, keep());
  server.end(SIGKILL);
  disk.submit(read(0, 0, 512));
  disk.submit(write(1, 0, 512, 'b'));
  EXPECT_EQ(outcome(0), EIO);
  EXPECT_EQ(outcome(1), EIO);
  disk.submit(read(2, 0, 512));
  EXPECT_EQ(outcome(2), EIO) << "at once";
  disk.hold();
  disk.release();
  disk.submit(read(100, 0, 512));
  EXPECT_LT(took([&] { EXPECT_EQ(outcome(100), EIO); }), seconds(1)) << "no new patience";
  EXPECT_EQ(code_of([&] { disk.sync(); }), "EIO");
  server.start();
  int err = EIO;
  for (uint64_t i = 3; err == EIO; ++i) {
    disk.submit(read(i, 0, 512));
    err = outcome(i);
  }
  EXPECT_EQ(err, 0);
}

// While the machine stands still its requests wait, however long the server is away.
TEST_F(NbdDiskTest, NothingFailsWhileItIsHeld) {
  NbdKit server(socket, image);
  NbdDisk disk(uri, {.reconnect = seconds(1)}, keep());
  disk.hold();
  disk.submit(write(0, 0, 512, 'b'));
  server.end(SIGKILL);
  std::this_thread::sleep_for(milliseconds(1500));
  EXPECT_TRUE(nothing_told());
  server.start();
  disk.release();
  EXPECT_EQ(outcome(0), 0);
}

TEST_F(NbdDiskTest, NothingIsPerformedWhileItIsHeldNorAfterItWasCancelled) {
  NbdKit server(socket, image, {"--filter=delay"}, {"delay-read=300ms"});
  std::string into(512, 'x');
  NbdDisk disk(uri, {}, keep());
  BlockRequest slow = read(0, 0, 512);
  slow.parts = {{into.data(), 512}};
  disk.submit(slow);
  std::this_thread::sleep_for(milliseconds(50));
  disk.hold();
  disk.submit(write(1, 0, 512, 'b'));
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_EQ(into, std::string(512, 'x')) << "its owner's memory is not touched";
  EXPECT_TRUE(nothing_told());
  EXPECT_EQ(contents()[0], 'a');
  disk.release();
  EXPECT_EQ(outcome(0), 0);
  EXPECT_EQ(into, std::string(512, 'a'));
  EXPECT_EQ(outcome(1), 0);
  into.assign(512, 'x');
  slow.ordinal = 2;
  disk.submit(slow);
  disk.submit(write(3, 0, 512, 'c'));
  disk.cancel();
  disk.drain();
  disk.submit(read(4, 0, 512));
  EXPECT_EQ(outcome(4), 0);
  EXPECT_EQ(text(4), std::string(512, 'b'));
  EXPECT_EQ(into, std::string(512, 'x'));
  std::lock_guard lock(mutex);
  EXPECT_FALSE(done.contains(2));
  EXPECT_FALSE(done.contains(3));
}

// A server that never answers stops nobody: not the owner that closes, holds, cancels or copies.
TEST_F(NbdDiskTest, ASilentServerHoldsUpNobody) {
  NbdKit server(socket, image);
  auto disk = std::make_unique<NbdDisk>(uri, Disk::Options{.reconnect = seconds(1)}, keep());
  server.stop();
  for (uint64_t i = 0; i < 2000; ++i) disk->submit(read(i, 0, 512));
  EXPECT_EQ(outcome(1999), EAGAIN) << "beyond what is queued";
  EXPECT_LT(took([&] { disk->hold(); }), seconds(2));
  disk->release();
  std::vector<uint8_t> bytes(512);
  EXPECT_EQ(code_of([&] { disk->read_at(0, bytes); }), "ETIMEDOUT");
  EXPECT_LT(took([&] { disk->drain(); }), seconds(2)) << "reads change nothing";
  disk->cancel();
  disk->submit(write(5000, 0, 512, 'b'));
  EXPECT_LT(took([&] { disk->drain(); }), NbdDisk::kPatience + seconds(2));
  EXPECT_EQ(outcome(5000), ETIMEDOUT);
  for (uint64_t i = 0; i < 100; ++i) disk->submit(read(6000 + i, 0, 512));
  EXPECT_LT(took([&] { disk.reset(); }), seconds(2));
}

// Whoever listens or not, and though this side answers something meanwhile.
TEST_F(NbdDiskTest, ASilentServerIsToldOfOnceAndCostsNoTime) {
  NbdKit server(socket, image, {"-r"});
  std::mutex told_mutex;
  std::vector<DiskNotice::Link> told;
  NbdDisk deaf(uri, {.read_only = true}, [](Disk::Completion) {});
  NbdDisk disk(uri,
               {.read_only = true,
                .on_notice =
                    [&](const DiskNotice& notice) {
                      std::lock_guard lock(told_mutex);
                      told.push_back(notice.link);
                    }},
               keep());
  auto count = [&] {
    std::lock_guard lock(told_mutex);
    return told.size();
  };
  server.stop();
  deaf.submit(read(0, 0, 512));
  disk.submit(read(0, 0, 512));
  uint64_t next = 1;
  auto answer_here = [&] {
    disk.submit(range(next, BlockOperation::kDiscard, 4096, 512));
    ASSERT_EQ(outcome(next++), EROFS);
    std::this_thread::sleep_for(milliseconds(50));
  };
  const auto limit = std::chrono::steady_clock::now() + seconds(20);
  while (count() == 0 && std::chrono::steady_clock::now() < limit) answer_here();
  std::this_thread::sleep_for(milliseconds(500));
  const clock_t before = std::clock();
  std::this_thread::sleep_for(seconds(1));
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 10) << "they sleep";
  answer_here();
  EXPECT_EQ(count(), 1u) << "what is answered here is no answer of the server's";
  server.go_on();
  EXPECT_EQ(outcome(0), 0);
  EXPECT_EQ(told, (std::vector{DiskNotice::Link::kSilent, DiskNotice::Link::kBack}));
}

TEST_F(NbdDiskTest, AWriteIsWaitedForButNotForEver) {
  NbdKit server(socket, image);
  auto disk = std::make_unique<NbdDisk>(uri, Disk::Options{}, keep());
  server.stop();
  disk->submit(write(7000, 0, 512, 'c'));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_LT(took([&] { disk->hold(); }), NbdDisk::kPatience + seconds(2));
  EXPECT_LT(took([&] { disk.reset(); }), NbdDisk::kPatience + seconds(2));
}

// ---- A server that lies

class Liar {
 public:
  enum class Kind {
    kTooMuch,
    kShort,
    kOtherCookie,
    kNoise,
    kHugeChunk,
    kSilentGreeting,
    kNoiseGreeting,
    kOtherSize
  };

  Liar(const std::string& path, Kind kind) : kind_(kind) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    unlink(path.c_str());
    listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_.get(), 8), 0);
    thread_ = std::thread([this] {
      for (;;) {
        Fd client(accept(listener_.get(), nullptr, nullptr));
        if (!client) return;
        ++connections;
        serve(client.get());
      }
    });
  }
  ~Liar() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::atomic<int> connections{0};

 private:
  static void put(std::string& out, uint64_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
  }
  static bool send_all(int fd, const std::string& bytes) {
    return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  static bool receive(int fd, std::string& bytes, size_t n) {
    bytes.resize(n);
    return n == 0 || recv(fd, bytes.data(), n, MSG_WAITALL) == static_cast<ssize_t>(n);
  }
  static uint64_t get(const std::string& bytes, size_t at, int n) {
    uint64_t value = 0;
    for (int i = 0; i < n; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
    return value;
  }
  void serve(int fd) {
    std::string out, in;
    if (kind_ == Kind::kSilentGreeting) {
      receive(fd, in, 1);  // until the other side has had enough
      return;
    }
    if (kind_ == Kind::kNoiseGreeting) {
      send_all(fd, std::string(64, 'n'));
      return;
    }
    out = "NBDMAGICIHAVEOPT";
    put(out, 3, 2);  // fixed newstyle, no zeroes
    if (!send_all(fd, out) || !receive(fd, in, 4)) return;
    for (bool going = false; !going;) {
      if (!receive(fd, in, 16)) return;
      const uint64_t option = get(in, 8, 4), length = get(in, 12, 4);
      if (!receive(fd, in, length)) return;
      auto reply = [&](uint32_t type, const std::string& payload) {
        out.clear();
        put(out, 0x3e889045565a9, 8);
        put(out, option, 4);
        put(out, type, 4);
        put(out, payload.size(), 4);
        return send_all(fd, out + payload);
      };
      if (option == 8 && kind_ == Kind::kHugeChunk) {  // structured replies
        reply(1, "");
      } else if (option == 7) {  // go
        std::string info;
        put(info, 0, 2);
        put(info, kind_ == Kind::kOtherSize && connections > 1 ? kSize / 2 : kSize, 8);
        put(info, 0x5, 2);  // flush
        reply(3, info);
        reply(1, "");
        going = true;
      } else {
        reply(0x80000001, "");
      }
    }
    for (;;) {
      if (!receive(fd, in, 28)) return;
      const std::string cookie = in.substr(8, 8);
      const uint64_t length = get(in, 24, 4);
      if (kind_ == Kind::kOtherSize) return;
      out.clear();
      if (kind_ == Kind::kHugeChunk) {
        put(out, 0x668e33ef, 4);
        put(out, 1, 2);
        put(out, 1, 2);  // data
        out += cookie;
        put(out, 0xfffffff0, 4);
        put(out, 0, 8);
        send_all(fd, out + std::string(4096, 'x'));
        continue;
      }
      put(out, 0x67446698, 4);
      put(out, 0, 4);
      out += kind_ == Kind::kOtherCookie ? std::string(8, 'c') : cookie;
      if (kind_ == Kind::kNoise) out.assign(16, 'n');
      out += std::string(kind_ == Kind::kShort     ? length / 2
                         : kind_ == Kind::kTooMuch ? length + 512
                                                   : length,
                         'x');
      send_all(fd, out);
      if (kind_ == Kind::kShort) return;
    }
  }

  Kind kind_;
  Fd listener_;
  std::thread thread_;
};

TEST_F(NbdDiskTest, AServerThatLiesIsFoundOut) {
  for (auto kind : {Liar::Kind::kShort, Liar::Kind::kOtherCookie, Liar::Kind::kNoise, Liar::Kind::kHugeChunk,
                    Liar::Kind::kOtherSize}) {
    done.clear();
    Liar server(socket, kind);
    NbdDisk disk(uri, {.read_only = true, .reconnect = seconds(2)}, keep());
    disk.submit(read(0, 0, 4096));
    EXPECT_EQ(outcome(0), EIO) << static_cast<int>(kind);
    EXPECT_GT(server.connections, 1) << static_cast<int>(kind);
  }
  {
    // What is too much belongs to no request, and so ends the connection; the request was answered.
    Liar server(socket, Liar::Kind::kTooMuch);
    done.clear();
    NbdDisk disk(uri, {.read_only = true}, keep());
    for (uint64_t i = 0; i < 3; ++i) {
      disk.submit(read(i, 0, 4096));
      EXPECT_EQ(outcome(i), 0);
      EXPECT_EQ(text(i).size(), 4096u);
    }
    EXPECT_GT(server.connections, 1);
  }
  Liar server(socket, Liar::Kind::kNoiseGreeting);
  EXPECT_NE(code_of([&] { NbdDisk(uri, {}, keep()); }), "");
}

TEST_F(NbdDiskTest, AServerThatDoesNotGreetIsGivenUp) {
  Liar server(socket, Liar::Kind::kSilentGreeting);
  EXPECT_EQ(code_of([&] { NbdDisk(uri, {}, keep()); }), "ETIMEDOUT");
}

}  // namespace
}  // namespace hypertwin::backends
