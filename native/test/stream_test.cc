// An image's local copy while it comes, with a process that brings its chunks played by this file: right,
// silent, gone, without room for them, and lying.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "base/mapping.h"
#include "code_of.h"
#include "machine/pager.h"
#include "machine_util.h"
#include "stream/cached_image.h"
#include "stream/snapshot_pages.h"

namespace hypertwin::stream {
namespace {

using machine::TempDir;
constexpr uint32_t kChunk = 4096;
constexpr size_t kHead = 4096;

// The files of a copy, of which nothing is here.
class Copy {
 public:
  explicit Copy(const std::vector<uint8_t>& image) : image_(image) {
    write("image", std::vector<uint8_t>(image.size()));
    std::vector<uint8_t> map(kHead + (image.size() + kChunk - 1) / kChunk);
    std::memcpy(map.data(), "htchunks", 8);
    put<uint32_t>(map, 8, 1);
    put<uint32_t>(map, 12, kChunk);
    put<uint64_t>(map, 16, image.size());
    put<uint32_t>(map, 28, 1);  // it was closed
    put<uint32_t>(map, 24, static_cast<uint32_t>(map.size() - kHead));
    write("chunks", map);
  }
  std::string folder() const { return dir_.file(""); }
  std::string file(const char* name) const { return dir_.file(name); }
  void write(const char* name, const std::vector<uint8_t>& bytes) const {
    std::ofstream(dir_.file(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  // As the process that streams does it.
  void bring(uint32_t chunk) const {
    std::fstream image(dir_.file("image"), std::ios::binary | std::ios::in | std::ios::out);
    const size_t at = size_t{chunk} * kChunk;
    image.seekp(static_cast<std::streamoff>(at));
    image.write(reinterpret_cast<const char*>(image_.data() + at),
                static_cast<std::streamsize>(std::min<size_t>(kChunk, image_.size() - at)));
    image.close();
    std::fstream map(dir_.file("chunks"), std::ios::binary | std::ios::in | std::ios::out);
    map.seekp(static_cast<std::streamoff>(kHead + chunk));
    map.put(1);
  }
  template <class T>
  static void put(std::vector<uint8_t>& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }

 private:
  TempDir dir_;
  const std::vector<uint8_t> image_;
};

// Answers each request by what `answer` gives; nothing: it ends the connection.
class Bringer {
 public:
  using Answer = std::function<std::string(uint32_t first, uint32_t count)>;
  Bringer(const std::string& folder, Answer answer)
      : path_(folder + "manager.sock"), answer_(std::move(answer)) {
    socket_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(socket_.get(), 16) != 0)
      throw_errno("bind", "for a test");
    threads_.emplace_back([this] { accept(); });
  }
  ~Bringer() {
    quit_ = true;
    for (size_t i = 0; i < threads_.size(); ++i) threads_[i].join();
    ::unlink(path_.c_str());
  }
  static std::string here() { return std::string(8, '\0'); }
  static std::string of(uint32_t status, const std::string& data) {
    std::string bytes(8, '\0');
    const uint32_t size = static_cast<uint32_t>(data.size());
    std::memcpy(bytes.data(), &status, 4);
    std::memcpy(bytes.data() + 4, &size, 4);
    return bytes + data;
  }
  int requests() const { return requests_; }

 private:
  bool readable(int fd) const {
    pollfd look{fd, POLLIN, 0};
    while (!quit_)
      if (::poll(&look, 1, 10) > 0) return true;
    return false;
  }
  void accept() {
    std::vector<std::thread> clients;
    while (readable(socket_.get())) {
      Fd client(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      clients.emplace_back([this, client = std::move(client)] {
        uint32_t request[4];
        while (readable(client.get()) &&
               ::recv(client.get(), request, sizeof request, MSG_WAITALL) == sizeof request) {
          ++requests_;
          EXPECT_EQ(request[0], 0x72647468u);
          EXPECT_EQ(request[1], 1u);
          const std::string answer = answer_(request[2], request[3]);
          if (answer.empty()) return;
          if (::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return;
        }
      });
    }
    for (auto& thread : clients) thread.join();
  }
  const std::string path_;
  const Answer answer_;
  Fd socket_;
  std::atomic<bool> quit_{false};
  std::atomic<int> requests_{0};
  std::vector<std::thread> threads_;
};

std::vector<uint8_t> some_image(size_t size = 10 * kChunk - 100) {
  std::vector<uint8_t> image(size);
  for (size_t i = 0; i < size; ++i) image[i] = static_cast<uint8_t>(i * 7 + i / kChunk);
  return image;
}

bool sleeps(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms < 1 ? 1 : ms));
  return true;
}

TEST(Stream, WhatIsMissingIsAskedForOnce) {
  const auto image = some_image();
  Copy copy(image);
  Bringer bringer(copy.folder(), [&](uint32_t first, uint32_t count) {
    std::string answers;
    for (uint32_t i = 0; i < count; ++i) copy.bring(first + i), answers += Bringer::here();
    return answers;
  });
  CachedImage cached(copy.folder(), sleeps);
  EXPECT_EQ(cached.view().image_size(), image.size());
  EXPECT_EQ(cached.view().chunks(), 10u);
  std::vector<uint8_t> bytes(3 * kChunk);
  EXPECT_FALSE(cached.here(kChunk + 10, bytes.size()));
  EXPECT_FALSE(cached.read(bytes.data(), bytes.size(), kChunk + 10));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin() + kChunk + 10));
  EXPECT_TRUE(cached.read(bytes.data(), bytes.size(), kChunk + 10)) << "it is here now";
  EXPECT_EQ(bringer.requests(), 1);
  // The last chunk is short.
  EXPECT_FALSE(cached.read(bytes.data(), 10, image.size() - 10));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + 10, image.end() - 10));
}

TEST(Stream, ChunksWithoutRoomComeAsTheyAre) {
  const auto image = some_image(8 * kChunk);
  Copy copy(image);
  copy.bring(3);
  Bringer bringer(copy.folder(), [&](uint32_t first, uint32_t count) {
    std::string answers;
    for (uint32_t i = first; i < first + count; ++i)
      answers += i == 3 ? Bringer::here()
                        : Bringer::of(1, {image.begin() + i * kChunk, image.begin() + (i + 1) * kChunk});
    return answers;
  });
  CachedImage cached(copy.folder(), sleeps);
  std::vector<uint8_t> bytes(4 * kChunk - 7);
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_FALSE(cached.read(bytes.data(), bytes.size(), kChunk + 5));
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin() + kChunk + 5));
  }
}

TEST(Stream, ManyReadAtOnce) {
  const auto image = some_image(64 * kChunk);
  Copy copy(image);
  std::mutex mutex;
  Bringer bringer(copy.folder(), [&](uint32_t first, uint32_t count) {
    std::lock_guard lock(mutex);
    std::string answers;
    for (uint32_t i = 0; i < count; ++i) copy.bring(first + i), answers += Bringer::here();
    return answers;
  });
  CachedImage cached(copy.folder(), sleeps);
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 6; ++seed)
    threads.emplace_back([&, state = uint64_t{seed}]() mutable {
      std::vector<uint8_t> bytes(3 * kChunk);
      for (int turn = 0; turn < 100; ++turn) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const size_t offset = (state >> 33) % (image.size() - bytes.size());
        cached.read(bytes.data(), bytes.size(), offset);
        ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin() + static_cast<ptrdiff_t>(offset)));
      }
    });
  for (auto& thread : threads) thread.join();
}

TEST(Stream, WhoBringsMayEndAndAnotherCome) {
  const auto image = some_image();
  Copy copy(image);
  auto bringer = std::make_unique<Bringer>(copy.folder(), [](uint32_t, uint32_t) { return std::string(); });
  CachedImage cached(copy.folder(), sleeps);
  std::vector<uint8_t> bytes(kChunk);
  auto read = std::async(std::launch::async, [&] { return cached.read(bytes.data(), bytes.size(), 0); });
  while (bringer->requests() < 3) sleeps(1);
  bringer.reset();
  sleeps(100);
  bringer = std::make_unique<Bringer>(copy.folder(), [&](uint32_t first, uint32_t) {
    copy.bring(first);
    return Bringer::here();
  });
  EXPECT_FALSE(read.get());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin()));
  // One that is brought by somebody else, while nobody can be asked.
  bringer.reset();
  auto other =
      std::async(std::launch::async, [&] { return cached.read(bytes.data(), bytes.size(), 5 * kChunk); });
  sleeps(100);
  copy.bring(5);
  EXPECT_FALSE(other.get());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin() + 5 * kChunk));
}

TEST(Stream, AnswersThatAreNone) {
  const auto image = some_image();
  Copy copy(image);
  std::atomic<bool> go_on{true};
  for (const std::string& answer :
       {Bringer::of(3, ""), Bringer::of(0, "surplus"), Bringer::of(1, "short"),
        Bringer::of(2, std::string(513, 'x')), Bringer::of(1, std::string(kChunk + 1, 'x')),
        std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8)}) {
    Bringer bringer(copy.folder(), [&](uint32_t, uint32_t) { return answer; });
    go_on = true;
    CachedImage cached(copy.folder(), [&](int ms) { return sleeps(ms) && go_on; });
    std::vector<uint8_t> bytes(10);
    auto read =
        std::async(std::launch::async, [&] { return code_of([&] { cached.read(bytes.data(), 10, 0); }); });
    while (bringer.requests() < 2) sleeps(1);
    go_on = false;
    EXPECT_EQ(read.get(), "ESHUTDOWN") << "it is asked again and again, and never believed";
  }
  Bringer bringer(copy.folder(), [](uint32_t, uint32_t) { return Bringer::of(2, "it is gone for good"); });
  CachedImage cached(copy.folder(), sleeps);
  std::vector<uint8_t> bytes(10);
  EXPECT_EQ(code_of([&] { cached.read(bytes.data(), 10, 0); }), "EIO");
}

// Whoever brings chunks may say that they are here of files that were made anew in the folder.
TEST(Stream, WhatIsSaidToBeHereAndIsNotIsNotRead) {
  const auto image = some_image();
  Copy copy(image);
  Bringer bringer(copy.folder(), [&](uint32_t first, uint32_t count) {
    // The second of them is loose, and of the others one has come.
    if (count == 1) return Bringer::here();
    copy.bring(first);
    const auto* bytes = reinterpret_cast<const char*>(image.data()) + (first + 1) * kChunk;
    return Bringer::here() + Bringer::of(1, std::string(bytes, kChunk)) + (count == 3 ? Bringer::here() : "");
  });
  CachedImage cached(copy.folder(), sleeps);
  std::vector<uint8_t> bytes(3 * kChunk);
  EXPECT_EQ(code_of([&] { cached.read(bytes.data(), 10, 0); }), "BAD_CACHE");
  EXPECT_EQ(code_of([&] { cached.read(bytes.data(), 3 * kChunk, kChunk); }), "BAD_CACHE");
  EXPECT_FALSE(cached.read(bytes.data(), 2 * kChunk, 5 * kChunk));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + 2 * kChunk, image.begin() + 5 * kChunk));
  SnapshotPages pages(copy.folder(), 0);
  bytes.resize(4096);
  EXPECT_EQ(code_of([&] { pages.read(8, bytes, true); }), "BAD_CACHE");
}

TEST(Stream, AFolderThatIsGoneIsNotWaitedFor) {
  const auto image = some_image();
  Copy copy(image);
  std::filesystem::create_directory(copy.folder() + "inner");
  for (const char* name : {"image", "chunks"})
    std::filesystem::copy_file(copy.file(name), copy.folder() + "inner/" + name);
  CachedImage cached(copy.folder() + "inner", sleeps);
  std::vector<uint8_t> bytes(10);
  auto read =
      std::async(std::launch::async, [&] { return code_of([&] { cached.read(bytes.data(), 10, 0); }); });
  sleeps(100);
  std::filesystem::remove_all(copy.folder() + "inner");
  EXPECT_EQ(read.get(), "BAD_CACHE");
}

TEST(Stream, ASilentOneIsLeftWhenNobodyWaitsAnyMore) {
  Copy copy(some_image());
  Bringer bringer(copy.folder(), [&](uint32_t, uint32_t) {
    sleeps(600);
    return std::string();
  });
  std::atomic<bool> go_on{true};
  CachedImage cached(copy.folder(), [&](int ms) { return sleeps(ms) && go_on; });
  std::vector<uint8_t> bytes(10);
  auto read =
      std::async(std::launch::async, [&] { return code_of([&] { cached.read(bytes.data(), 10, 0); }); });
  while (bringer.requests() < 1) sleeps(1);
  go_on = false;
  EXPECT_EQ(read.get(), "ESHUTDOWN");
}

TEST(Stream, FilesThatAreNoCopy) {
  const auto image = some_image();
  EXPECT_EQ(code_of([] { CacheView view("/nowhere/at/all"); }), "ENOENT");
  const auto damaged = [&](size_t at, uint64_t value, size_t size) {
    Copy copy(image);
    std::fstream map(copy.file("chunks"), std::ios::binary | std::ios::in | std::ios::out);
    map.seekp(static_cast<std::streamoff>(at));
    map.write(reinterpret_cast<const char*>(&value), static_cast<std::streamsize>(size));
    map.close();
    return code_of([&] { CacheView view(copy.folder()); });
  };
  EXPECT_EQ(damaged(0, 0, 1), "BAD_CACHE");
  EXPECT_EQ(damaged(8, 2, 4), "BAD_CACHE");
  for (uint64_t chunk : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{12288}, uint64_t{1} << 21})
    EXPECT_EQ(damaged(12, chunk, 4), "BAD_CACHE") << chunk;
  for (uint64_t size : {uint64_t{0}, uint64_t{1}, image.size() + kChunk, ~uint64_t{0}})
    EXPECT_EQ(damaged(16, size, 8), "BAD_CACHE") << size;
  EXPECT_EQ(damaged(28, 0, 4), "BAD_CACHE") << "power may have failed since it was written";
  EXPECT_EQ(damaged(24, 11, 4), "BAD_CACHE");
  EXPECT_EQ(damaged(24, ~uint64_t{0}, 4), "BAD_CACHE");
  Copy copy(image);
  CacheView view(copy.folder());
  for (uint32_t chunk = 0; chunk < 10; ++chunk) copy.bring(chunk);
  ASSERT_EQ(::truncate(copy.file("image").c_str(), kChunk), 0);
  std::vector<uint8_t> bytes(kChunk);
  view.read(bytes.data(), kChunk, 0);
  EXPECT_EQ(code_of([&] { view.read(bytes.data(), kChunk, kChunk); }), "BAD_CACHE") << "it was cut meanwhile";
}

TEST(Stream, PagesOfASnapshotThatIsNone) {
  Copy copy(some_image());
  for (uint32_t chunk = 0; chunk < 10; ++chunk) copy.bring(chunk);
  SnapshotPages pages(copy.folder(), 0);
  EXPECT_EQ(code_of([&] { pages.open(); }), "CORRUPT");
}

TEST(Stream, PagesAreWaitedForAsLongAsWasSaid) {
  Copy copy(some_image());
  SnapshotPages patient(copy.folder(), 1);
  std::vector<uint8_t> bytes(4096);
  EXPECT_EQ(code_of([&] { patient.read(2, bytes, true); }), "ETIMEDOUT");
  SnapshotPages pages(copy.folder(), 0);
  for (bool urgent : {true, false}) {
    auto read =
        std::async(std::launch::async, [&] { return code_of([&] { pages.read(2, bytes, urgent); }); });
    sleeps(50);
    pages.cancel();
    EXPECT_EQ(read.get(), "CLOSED");
  }
  EXPECT_EQ(pages.options().block, 1u);
  EXPECT_EQ(pages.pages_of(std::vector<uint32_t>{0, 1, 5}), (std::vector<uint64_t>{0, 0, 4}));
}

// A chunk that stays damaged, or of an image that was replaced: the process that streams says why.
TEST(Stream, MemoryThatCannotBeHadEndsItsWaitWithTheReason) {
  const auto image = some_image(9 * kChunk);  // its memory has eight pages
  for (const std::string why : {"Chunk 3 came damaged 4 times", "another image is published now"}) {
    Copy copy(image);
    Bringer bringer(copy.folder(), [&](uint32_t first, uint32_t count) {
      std::string answers;
      for (uint32_t i = first; i < first + count; ++i) {
        if (i == 3) return answers + Bringer::of(2, why);
        copy.bring(i), answers += Bringer::here();
      }
      return answers;
    });
    const Mapping memory =
        Mapping::map(8 * kChunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "for a test");
    const std::vector<uint64_t> held{0xff};
    std::mutex mutex;
    std::vector<std::pair<std::string, bool>> told;
    std::promise<void> settled;
    auto source = std::make_shared<SnapshotPages>(copy.folder(), 0);
    machine::Pager::Options options;
    options.all = false;
    options.block = 1;
    machine::Pager pager({memory.data(), memory.size()}, held, source, options,
                         [&](const Error& error, bool over) {
                           std::lock_guard lock(mutex);
                           told.emplace_back(error.what(), over);
                           if (over) settled.set_value();
                         });
    pager.start();
    EXPECT_EQ(std::memcmp(memory.data(), image.data() + kChunk, kChunk), 0) << "what can be had comes";
    EXPECT_FALSE(pager.failed());
    auto touched = std::async(std::launch::async,
                              [&] { return *static_cast<volatile uint8_t*>(memory.data() + 2 * kChunk); });
    settled.get_future().wait();
    touched.get();
    EXPECT_TRUE(pager.failed());
    ASSERT_EQ(told.size(), 2u);
    EXPECT_FALSE(told[0].second) << "before anybody goes on with zeros";
    for (const auto& one : told) EXPECT_NE(one.first.find(why), std::string::npos) << one.first;
  }
}

// Pages that each begin with their number and one; which runs of them were read that nobody waited for.
class NotedPages final : public machine::PageSource {
 public:
  void read(uint64_t first, std::span<uint8_t> into, bool urgent) override {
    for (size_t i = 0; i < into.size() / kChunk; ++i) into[i * kChunk] = static_cast<uint8_t>(first + i + 1);
    const std::lock_guard lock(mutex_);
    if (!urgent) order_.push_back(first);
  }
  bool here(uint64_t /*first*/, uint64_t /*pages*/) const override { return true; }
  void cancel() override {}
  std::vector<uint64_t> order() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<uint64_t> order_;
};

TEST(Stream, AWorkingSetComesFirstInItsOrder) {
  const std::vector<uint64_t> held{0xfdff};  // of 16 pages all but page 9, which is zero
  struct Case {
    bool all;
    uint64_t block;
    uint64_t here;
    std::vector<uint64_t> order;
  };
  for (const Case& one :
       {Case{false, 1, 3, {5, 2, 7}}, Case{true, 1, 15, {5, 2, 7, 0, 1, 3, 4, 6, 8, 10, 11, 12, 13, 14, 15}},
        Case{true, 4, 15, {4, 0, 8, 10, 12}}, Case{false, 4, 11, {4, 0, 8, 10}}}) {
    const Mapping memory =
        Mapping::map(16 * kChunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "for a test");
    auto source = std::make_shared<NotedPages>();
    machine::Pager::Options options;
    // One that there is not, one that is zero (others of its block are not), one twice.
    options.working_set = {5, uint64_t{1} << 30, 2, 9, 5, 7};
    options.all = one.all;
    options.block = one.block;
    machine::Pager pager({memory.data(), memory.size()}, held, source, options,
                         [](const Error& error, bool) { ADD_FAILURE() << error.what(); });
    pager.start();
    while (pager.stats().here < one.here) sleeps(1);
    if (one.all) {
      while (!pager.stats().complete) sleeps(1);
      for (size_t page = 0; page < 16; ++page)
        EXPECT_EQ(memory.data()[page * kChunk], page == 9 ? 0 : page + 1);
      EXPECT_EQ(pager.stats().touched, 0u);
    }
    pager.give_up();
    EXPECT_EQ(source->order(), one.order);
  }
}

TEST(Stream, PagesThatNobodyWaitsForAreNotAskedFor) {
  const auto image = some_image();
  Copy copy(image);
  Bringer bringer(copy.folder(), [](uint32_t, uint32_t) { return std::string(); });
  SnapshotPages pages(copy.folder(), 0);
  std::vector<uint8_t> bytes(4096);
  auto read = std::async(std::launch::async, [&] { pages.read(2, bytes, false); });
  sleeps(50);
  EXPECT_EQ(bringer.requests(), 0);
  EXPECT_FALSE(pages.here(2, 1));
  copy.bring(3);
  read.get();
  EXPECT_TRUE(pages.here(2, 1));
  EXPECT_FALSE(pages.here(2, 2));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), image.begin() + 3 * kChunk));
}

}  // namespace
}  // namespace hypertwin::stream
