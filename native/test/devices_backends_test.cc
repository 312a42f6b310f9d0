// The file disk's thread, and the tap where the host allows one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>

#include "backends/file_disk.h"
#include "backends/tap.h"
#include "base/error.h"
#include "base/fd.h"
#include "tap_util.h"

namespace hypertwin::backends {
namespace {

using devices::BlockOperation;
using devices::BlockStatus;

TEST(DiskPath, LiesInAFolderOnlyWhenAllLinksSaySo) {
  namespace fs = std::filesystem;
  const fs::path top = fs::path(testing::TempDir()) / ("hypertwin-folders-" + std::to_string(getpid()));
  fs::create_directories(top / "images" / "web");
  fs::create_directories(top / "imagesx");
  fs::create_directories(top / "mine");
  fs::create_directory_symlink(top / "mine", top / "images" / "out");
  fs::create_directory_symlink(top / "images", top / "in");
  std::ofstream(top / "mine" / "file") << "x";
  fs::create_symlink(top / "mine" / "file", top / "images" / "file");
  const std::vector<std::string> folders{(top / "nowhere").string(), (top / "images").string() + "/"};
  auto allowed = [&](const std::string& path) { return lies_in(path, folders); };
  const std::string at = top.string();
  for (const char* path :
       {"/images/a.img", "/images/web/a.img", "/images/new/../a.img", "/in/a.img", "/images//./a.img"})
    EXPECT_TRUE(allowed(at + path)) << path;
  for (const char* path :
       {"/mine/a.img", "/imagesx/a.img", "/images", "/images/../mine/a.img", "/images/out/a.img",
        "/images/new/../../mine/a.img", "/images/file", "/images/out/../a.img"})
    EXPECT_FALSE(allowed(at + path)) << path;
  for (const char* path : {"", "a.img", "/etc/passwd", "nbd://host/images"})
    EXPECT_FALSE(allowed(path)) << path;
  EXPECT_FALSE(lies_in(at + "/images/a.img", {}));
  EXPECT_TRUE(lies_in("/etc/passwd", std::vector<std::string>{"/"}));
  fs::remove_all(top);
}

class FileDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    path = testing::TempDir() + "hypertwin-disk-" + std::to_string(getpid());
    std::ofstream(path) << std::string(8192, 'a');
  }
  void TearDown() override { std::filesystem::remove(path); }
  FileDisk::OnComplete keep() {
    return [this](FileDisk::Completion completion) {
      std::lock_guard lock(mutex);
      order.push_back(completion.ordinal);
      done[completion.ordinal] = std::move(completion);
    };
  }
  std::string path;
  std::mutex mutex;
  std::vector<uint64_t> order;
  std::map<uint64_t, FileDisk::Completion> done;
};

TEST_F(FileDiskTest, ReadsWritesAndFlushesInOrder) {
  FileDisk disk(path, false, keep());
  EXPECT_EQ(disk.size(), 8192u);
  disk.submit({.ordinal = 0,
               .operation = BlockOperation::kWrite,
               .offset = 512,
               .size = 0,
               .data = std::vector<uint8_t>(512, 'b')});
  disk.submit({.ordinal = 1, .operation = BlockOperation::kRead, .offset = 0, .size = 1024, .data = {}});
  disk.submit({.ordinal = 2, .operation = BlockOperation::kFlush, .offset = 0, .size = 0, .data = {}});
  disk.submit(
      {.ordinal = 3, .operation = BlockOperation::kRead, .offset = 8192 - 511, .size = 512, .data = {}});
  disk.submit(
      {.ordinal = 4, .operation = BlockOperation::kRead, .offset = UINT64_MAX, .size = 512, .data = {}});
  disk.drain();
  std::lock_guard lock(mutex);
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 1, 2, 3, 4}));
  std::string read(done[1].data.begin(), done[1].data.end());
  EXPECT_EQ(read, std::string(512, 'a') + std::string(512, 'b'));
  EXPECT_EQ(done[2].status, BlockStatus::kOk);
  for (uint64_t i : {3, 4}) {
    EXPECT_EQ(done[i].status, BlockStatus::kIoError);
    EXPECT_EQ(done[i].err, EINVAL);
  }
}

TEST_F(FileDiskTest, DiscardsAndWritesZeroes) {
  const std::string big(1 << 20, 'a');
  std::ofstream(path) << big;
  {
    FileDisk disk(path, false, keep());
    disk.submit(
        {.ordinal = 0, .operation = BlockOperation::kDiscard, .offset = 0, .size = 64 << 10, .data = {}});
    disk.submit({.ordinal = 1,
                 .operation = BlockOperation::kWriteZeroes,
                 .offset = (128 << 10) + 512,
                 .size = 100 << 10,
                 .data = {},
                 .durable = true});
    disk.submit({.ordinal = 2,
                 .operation = BlockOperation::kWriteZeroes,
                 .offset = 512 << 10,
                 .size = 64 << 10,
                 .data = {},
                 .durable = false,
                 .unmap = true});
    disk.submit({.ordinal = 3,
                 .operation = BlockOperation::kWriteZeroes,
                 .offset = big.size() - 512,
                 .size = 1024,
                 .data = {}});
    disk.drain();
    std::vector<uint64_t> written(1);
    disk.take_written(written);
    EXPECT_EQ(written[0], 1u | 1u << 2 | 1u << 3 | 1u << 8);
  }
  for (uint64_t i : {0, 1, 2}) EXPECT_EQ(done[i].status, BlockStatus::kOk) << done[i].err;
  EXPECT_EQ(done[3].err, EINVAL);
  std::ifstream in(path);
  const std::string now(std::istreambuf_iterator<char>(in), {});
  ASSERT_EQ(now.size(), big.size());
  auto part = [&](size_t at, size_t size) { return now.substr(at, size); };
  EXPECT_EQ(part(64 << 10, (64 << 10) + 512), std::string((64 << 10) + 512, 'a'));
  EXPECT_EQ(part((128 << 10) + 512, 100 << 10), std::string(100 << 10, 0));
  EXPECT_EQ(part((228 << 10) + 512, 512), std::string(512, 'a'));
  EXPECT_EQ(part(512 << 10, 64 << 10), std::string(64 << 10, 0));
  EXPECT_EQ(part(576 << 10, 512), std::string(512, 'a'));
  FileDisk disk(path, true, keep());
  disk.submit({.ordinal = 4, .operation = BlockOperation::kDiscard, .offset = 0, .size = 512, .data = {}});
  disk.submit(
      {.ordinal = 5, .operation = BlockOperation::kWriteZeroes, .offset = 0, .size = 512, .data = {}});
  disk.drain();
  EXPECT_EQ(done[4].err, EROFS);
  EXPECT_EQ(done[5].err, EROFS);
}

// A loop device on a file, gone with this; without a path where the host has none to give.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) {
    const Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const Fd backing(open(file.c_str(), O_RDWR | O_CLOEXEC));
    // Another process may take the free one first.
    for (int tries = 0; tries < 10 && control && backing; ++tries) {
      const std::string name = "/dev/loop" + std::to_string(ioctl(control.get(), LOOP_CTL_GET_FREE));
      fd_ = Fd(open(name.c_str(), O_RDWR | O_CLOEXEC));
      if (!fd_) return;
      if (ioctl(fd_.get(), LOOP_SET_FD, backing.get()) == 0) {
        path = name;
        return;
      }
    }
  }
  ~LoopDevice() {
    if (!path.empty()) ioctl(fd_.get(), LOOP_CLR_FD);
  }
  std::string path;

 private:
  Fd fd_;
};

// A discard of the device gives the file's space back: it reached the device.
TEST_F(FileDiskTest, ABlockDevice) {
  constexpr uint32_t kSize = 1 << 20, kPart = 256 << 10;
  std::ofstream(path) << std::string(kSize, 'a');
  auto blocks = [&] {
    const Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat status {};
    EXPECT_EQ(fsync(file.get()), 0);
    EXPECT_EQ(fstat(file.get(), &status), 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  };
  const LoopDevice device(path);
  if (device.path.empty()) GTEST_SKIP() << "no loop device can be had here";
  ASSERT_GE(blocks(), kSize);
  auto of = [](uint64_t ordinal, BlockOperation operation, uint64_t offset, uint32_t size) {
    return devices::BlockRequest{
        .ordinal = ordinal, .operation = operation, .offset = offset, .size = size, .data = {}};
  };
  {
    FileDisk disk(device.path, false, keep());
    EXPECT_EQ(disk.size(), kSize);
    disk.submit({.ordinal = 0,
                 .operation = BlockOperation::kWrite,
                 .offset = kPart + 512,
                 .size = 0,
                 .data = std::vector<uint8_t>(512, 'b')});
    disk.submit(of(1, BlockOperation::kFlush, 0, 0));
    disk.submit(of(2, BlockOperation::kRead, kPart, 2048));
    disk.submit(of(3, BlockOperation::kDiscard, 0, kPart));
    disk.submit(of(4, BlockOperation::kWriteZeroes, 2 * kPart, kPart));
    auto unmap = of(5, BlockOperation::kWriteZeroes, 3 * kPart + 512, 1024);
    unmap.unmap = unmap.durable = true;
    disk.submit(std::move(unmap));
    disk.submit(of(6, BlockOperation::kRead, 2 * kPart, 2 * kPart));
    disk.submit(of(7, BlockOperation::kRead, kSize - 512, 1024));
    disk.drain();
    std::vector<uint64_t> written(1);
    disk.take_written(written);
    EXPECT_EQ(written[0], 0x1f1fu) << "by blocks of 64 KiB";
  }
  for (uint64_t i = 0; i < 7; ++i) EXPECT_EQ(done[i].status, BlockStatus::kOk) << i << ": " << done[i].err;
  EXPECT_EQ(done[7].err, EINVAL);
  auto text = [](const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); };
  EXPECT_EQ(text(done[2].data), std::string(512, 'a') + std::string(512, 'b') + std::string(1024, 'a'));
  EXPECT_EQ(text(done[6].data), std::string(kPart, '\0') + std::string(512, 'a') + std::string(1024, '\0') +
                                    std::string(kPart - 1536, 'a'));
  EXPECT_LE(blocks(), kSize - kPart) << "the space of what was discarded";

  FileDisk disk(device.path, true, keep());
  disk.submit(of(8, BlockOperation::kDiscard, 0, 4096));
  disk.submit(of(9, BlockOperation::kWriteZeroes, kPart, 4096));
  disk.submit(of(10, BlockOperation::kRead, kPart, 512));
  disk.drain();
  EXPECT_EQ(done[8].err, EROFS);
  EXPECT_EQ(done[9].err, EROFS);
  EXPECT_EQ(text(done[10].data), std::string(512, 'a'));
}

TEST_F(FileDiskTest, TheDestructorPerformsWhatIsQueued) {
  {
    FileDisk disk(path, false, keep());
    for (uint64_t i = 0; i < 3000; ++i)
      disk.submit({.ordinal = i,
                   .operation = BlockOperation::kWrite,
                   .offset = i % 16 * 512,
                   .size = 0,
                   .data = std::vector<uint8_t>(512, static_cast<uint8_t>(i))});
  }
  EXPECT_EQ(done.size(), 3000u);
}

TEST_F(FileDiskTest, MovesDataStraightIntoAndOutOfItsOwnersMemory) {
  for (unsigned threads : {1u, 4u}) {
    std::ofstream(path) << std::string(8192, 'a');
    FileDisk disk(path, FileDisk::Options{.threads = threads}, keep());
    std::string from = "bcdefghi", into(300, 'x');
    disk.submit({.ordinal = 0,
                 .operation = BlockOperation::kWrite,
                 .offset = 100,
                 .size = 8,
                 .data = {},
                 .parts = {{from.data(), 3}, {from.data() + 3, 5}}});
    disk.drain();
    disk.submit({.ordinal = 1,
                 .operation = BlockOperation::kRead,
                 .offset = 99,
                 .size = 10,
                 .data = {},
                 .parts = {{into.data() + 200, 4}, {into.data(), 6}}});
    disk.drain();
    std::filesystem::resize_file(path, 4096);
    disk.submit({.ordinal = 2,
                 .operation = BlockOperation::kRead,
                 .offset = 4094,
                 .size = 8,
                 .data = {},
                 .parts = {{into.data() + 100, 8}}});
    disk.submit({.ordinal = 3,
                 .operation = BlockOperation::kRead,
                 .offset = 8192 - 4,
                 .size = 8,
                 .data = {},
                 .parts = {{into.data() + 150, 8}}});
    disk.drain();
    std::lock_guard lock(mutex);
    EXPECT_EQ(into.substr(200, 5), "abcdx");
    EXPECT_EQ(into.substr(0, 7), "efghiax");
    EXPECT_EQ(into.substr(100, 9), std::string("aa\0\0\0\0\0\0x", 9))
        << "zeros behind the end of a file that was cut";
    EXPECT_EQ(done[3].err, EINVAL);
    EXPECT_EQ(into[150], 'x');
    std::vector<uint64_t> written(1);
    disk.take_written(written);
    EXPECT_EQ(written[0], 1u);
  }
}

TEST_F(FileDiskTest, NothingIsPerformedWhileItIsHeldNorAfterItWasCancelled) {
  auto write = [](uint64_t ordinal, char what) {
    return devices::BlockRequest{.ordinal = ordinal,
                                 .operation = BlockOperation::kWrite,
                                 .offset = 0,
                                 .size = 0,
                                 .data = std::vector<uint8_t>(512, static_cast<uint8_t>(what))};
  };
  auto first = [&] {
    char byte = 0;
    std::ifstream(path).get(byte);
    return byte;
  };
  for (unsigned threads : {1u, 4u}) {
    done.clear();
    std::ofstream(path) << std::string(8192, 'a');
    FileDisk disk(path, FileDisk::Options{.threads = threads, .batch = 8}, keep());
    disk.hold();
    disk.submit(write(0, 'b'));
    disk.hold();
    EXPECT_EQ(first(), 'a');
    disk.release();
    disk.drain();
    EXPECT_EQ(first(), 'b');
    disk.hold();
    for (uint64_t i = 1; i < 100; ++i) disk.submit(write(i, 'c'));
    disk.cancel();
    disk.release();
    disk.drain();
    disk.submit(write(100, 'd'));
    disk.drain();
    std::lock_guard lock(mutex);
    EXPECT_EQ(done.size(), 2u);
    EXPECT_EQ(first(), 'd');
  }
}

// What is told between two pauses is bounded, nothing is left untold, and holding it loses nothing.
TEST_F(FileDiskTest, ManyThreadsAndBatches) {
  std::ofstream(path) << std::string(1 << 20, 'a');
  unsigned since = 0, most = 0;
  {
    FileDisk disk(path,
                  FileDisk::Options{.threads = 4,
                                    .batch = 8,
                                    .on_pause =
                                        [&] {
                                          std::lock_guard lock(mutex);
                                          most = std::max(most, std::exchange(since, 0u));
                                        }},
                  [&](FileDisk::Completion completion) {
                    std::lock_guard lock(mutex);
                    ++since;
                    done[completion.ordinal] = std::move(completion);
                  });
    std::vector<std::vector<uint8_t>> memory(2000, std::vector<uint8_t>(512));
    for (uint64_t i = 0; i < memory.size(); ++i) {
      memory[i].assign(512, static_cast<uint8_t>(i));
      disk.submit(
          {.ordinal = i,
           .operation = i % 100 == 99 ? BlockOperation::kFlush : BlockOperation::kWrite,
           .offset = i % 100 == 99 ? 0 : i * 512,
           .size = i % 100 == 99 ? 0u : 512u,
           .data = {},
           .parts = i % 100 == 99 ? std::vector<iovec>{} : std::vector<iovec>{{memory[i].data(), 512}}});
      if (i % 50 == 0) {
        disk.hold();
        disk.release();
      }
    }
    disk.drain();
    for (uint64_t i = 0; i < memory.size(); ++i) memory[i].assign(512, 0);
    for (uint64_t i = 0; i < memory.size(); ++i)
      disk.submit({.ordinal = 2000 + i,
                   .operation = BlockOperation::kRead,
                   .offset = i * 512,
                   .size = 512,
                   .data = {},
                   .parts = {{memory[i].data(), 512}}});
    disk.drain();
    for (uint64_t i = 0; i < memory.size(); ++i)
      EXPECT_EQ(memory[i], std::vector<uint8_t>(512, i % 100 == 99 ? 'a' : static_cast<uint8_t>(i))) << i;
  }
  EXPECT_EQ(done.size(), 4000u);
  EXPECT_EQ(since, 0u) << "each is followed by a pause";
  EXPECT_LE(most, 4 * 8u);
  for (const auto& [ordinal, completion] : done) EXPECT_EQ(completion.status, BlockStatus::kOk) << ordinal;
}

TEST_F(FileDiskTest, ReadOnlyAndOpenErrors) {
  {
    FileDisk disk(path, true, keep());
    disk.submit({.ordinal = 0,
                 .operation = BlockOperation::kWrite,
                 .offset = 0,
                 .size = 0,
                 .data = std::vector<uint8_t>(512)});
  }
  EXPECT_EQ(done[0].status, BlockStatus::kIoError);
  EXPECT_EQ(done[0].err, EROFS);
  try {
    FileDisk disk(path + "-missing", false, keep());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "ENOENT");
  }
  EXPECT_THROW(FileDisk("/dev/null", false, keep()), Error);
}

// A frame sent by the kernel on the interface reaches the callback, and one written is counted by the kernel.
TEST(Tap, CarriesFramesBothWays) {
  std::mutex mutex;
  std::condition_variable changed;
  bool asked = false;
  std::unique_ptr<ReadTap> read;
  try {
    read = std::make_unique<ReadTap>("", [&](std::span<const uint8_t> frame) {
      std::lock_guard lock(mutex);
      asked |= asks(frame);
      changed.notify_all();
    });
  } catch (const Error& error) {
    GTEST_SKIP() << "no tap here: " << error.what();
  }
  Tap& tap = read->tap();
  std::vector<uint8_t> frame(60, 0xff);
  EXPECT_FALSE(tap.write(frame));  // the interface is down
  EXPECT_EQ(tap.dropped(), 1u);
  Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_NO_FATAL_FAILURE(take_up(tap, control.get()));
  EXPECT_TRUE(tap.write(frame));
  ASSERT_NO_FATAL_FAILURE(make_it_ask(control.get()));
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return asked; });
}

TEST(Tap, CarriesVirtiosHeadersAndRefusesBadOnes) {
  std::unique_ptr<Tap> tap;
  try {
    tap = std::make_unique<Tap>("", Tap::Frames::kHeaded);
  } catch (const Error& error) {
    GTEST_SKIP() << "no tap here: " << error.what();
  }
  bool asked = false;
  const auto on_packet = [&](std::span<const uint8_t> packet) {
    asked |= packet.size() > 12 && asks(packet.subspan(12));
  };
  EXPECT_EQ(tap->read(on_packet), Tap::Read::kNothing);
  Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_NO_FATAL_FAILURE(take_up(*tap, control.get()));
  EXPECT_TRUE(tap->set_receiver_finishes({.checksum = true, .tcp4 = true, .tcp6 = true, .congestion = true}));
  EXPECT_TRUE(tap->set_receiver_finishes({.tcp4 = true})) << "segments without checksums are left out";
  uint8_t header[12] = {};
  std::vector<uint8_t> frame(200, 0xff);
  const iovec parts[] = {{header, sizeof header}, {frame.data(), 100}, {frame.data() + 100, 100}};
  EXPECT_TRUE(tap->write(parts));
  header[0] = 1;  // a checksum is needed, far behind the end
  header[7] = 0xff;
  EXPECT_FALSE(tap->write(parts));
  EXPECT_EQ(tap->dropped(), 1u);
  ASSERT_NO_FATAL_FAILURE(make_it_ask(control.get()));
  while (!asked) {
    pollfd fd{tap->fd(), POLLIN, 0};
    ASSERT_EQ(poll(&fd, 1, 10'000), 1);
    EXPECT_EQ(tap->read(on_packet), Tap::Read::kPackets);
  }
}

// The interface goes while somebody holds it.
TEST(Tap, TellsThatItsInterfaceIsGone) {
  std::unique_ptr<Tap> tap;
  try {
    tap = std::make_unique<Tap>("");
  } catch (const Error& error) {
    GTEST_SKIP() << "no tap here: " << error.what();
  }
  if (std::system(("ip link delete " + tap->name()).c_str()) != 0)
    GTEST_SKIP() << "no ip(8) that may delete it";
  pollfd fd{tap->fd(), POLLIN, 0};
  ASSERT_EQ(poll(&fd, 1, 10'000), 1);
  EXPECT_EQ(tap->read([](std::span<const uint8_t>) {}), Tap::Read::kGone);
  EXPECT_FALSE(tap->write(std::vector<uint8_t>(60, 0xff)));
}

TEST(Tap, SaysWhyItCannotBe) {
  try {
    Tap tap("a-name-of-more-than-15");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "EINVAL");
  }
}

}  // namespace
}  // namespace hypertwin::backends
