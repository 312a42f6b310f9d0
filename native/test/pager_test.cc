// Memory that comes by userfaultfd, of a source whose link is down: what it has comes all the same.
#include "machine/pager.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <deque>
#include <future>
#include <set>
#include <thread>

#include "base/mapping.h"
#include "devices/guest_ram.h"

namespace hypertwin::machine {
namespace {

constexpr uint64_t kPage = devices::kPageSize;

// Pages that each begin with their number and one. Those that are not here are waited for.
class PartlyHere final : public PageSource {
 public:
  explicit PartlyHere(std::set<uint64_t> here) : here_(std::move(here)) {}
  void read(uint64_t first, std::span<uint8_t> into, bool /*urgent*/) override {
    std::unique_lock lock(mutex_);
    for (uint64_t i = 0; i < into.size() / kPage; ++i) {
      asked_.insert(first + i);
      changed_.notify_all();
      changed_.wait(lock, [&] { return open_ || here_.contains(first + i); });
      into[i * kPage] = static_cast<uint8_t>(first + i + 1);
    }
  }
  bool here(uint64_t first, uint64_t pages) const override {
    std::lock_guard lock(mutex_);
    for (uint64_t page = first; page < first + pages; ++page)
      if (!here_.contains(page)) return false;
    return true;
  }
  void cancel() override { open(); }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void come(uint64_t page) {
    std::lock_guard lock(mutex_);
    here_.insert(page);
    changed_.notify_all();
  }
  // Returns when so many pages have been asked for; false when they are not.
  bool wait_asked(size_t pages) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return asked_.size() >= pages; });
  }
  std::set<uint64_t> asked() const {
    std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<uint64_t> here_, asked_;
  bool open_ = false;
};

// 16 pages, all of which hold something.
struct Paged {
  explicit Paged(std::set<uint64_t> here, uint64_t block = 1)
      : source(std::make_shared<PartlyHere>(std::move(here))) {
    const std::vector<uint64_t> held{0xffff};
    Pager::Options options;
    options.all = false;
    options.block = block;
    pager = std::make_unique<Pager>(std::span(memory.data(), memory.size()), held, source, options,
                                    [](const Error& error, bool) { ADD_FAILURE() << error.what(); });
  }
  std::future<uint8_t>& touch(uint64_t page) {
    return touches.emplace_back(std::async(std::launch::async, [at = memory.data() + page * kPage] {
      return *static_cast<volatile uint8_t*>(at);
    }));
  }
  static bool came(const std::future<uint8_t>& touched) {
    return touched.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  static bool comes(const std::future<uint8_t>& touched) {
    return touched.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  }
  bool comes(uint64_t first, uint64_t pages) const {
    for (int ms = 0; ms < 60000; ++ms) {
      if (pager->here(first * kPage, pages * kPage)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  Mapping memory =
      Mapping::map(16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "for a test");
  std::deque<std::future<uint8_t>> touches;  // end when the pager goes
  std::shared_ptr<PartlyHere> source;
  std::unique_ptr<Pager> pager;
};

TEST(Pager, WhatIsHereIsServedHoweverManyWaitForTheRest) {
  Paged paged({8, 9, 11});
  for (uint64_t page = 0; page < 6; ++page) paged.touch(page);
  ASSERT_TRUE(paged.source->wait_asked(4));
  for (uint64_t page : {8, 9, 11}) {
    auto& touched = paged.touch(page);
    ASSERT_TRUE(paged.comes(touched)) << page;
    EXPECT_EQ(touched.get(), page + 1);
  }
  // One of those that nobody could ask for comes by itself.
  std::set<uint64_t> left{0, 1, 2, 3, 4, 5};
  for (uint64_t page : paged.source->asked()) left.erase(page);
  ASSERT_EQ(left.size(), 2u);
  paged.source->come(*left.begin());
  ASSERT_TRUE(paged.comes(paged.touches[*left.begin()]));
  for (uint64_t page = 0; page < 6; ++page)
    EXPECT_EQ(paged.came(paged.touches[page]), page == *left.begin()) << page;
  paged.source->open();
  for (uint64_t page = 0; page < 6; ++page) EXPECT_EQ(paged.touches[page].get(), page + 1);
  EXPECT_EQ(paged.pager->stats().touched, 9u);
}

TEST(Pager, WhoAsksForAllKeepsNobodyWaiting) {
  Paged paged({4, 5, 10});
  paged.pager->want(0, 16 * kPage);
  ASSERT_TRUE(paged.comes(10, 1)) << "what is here comes before what must be waited for";
  ASSERT_TRUE(paged.comes(4, 2));
  EXPECT_EQ(paged.pager->stats().here, 3u);
  ASSERT_TRUE(paged.source->wait_asked(7));
  // What the guest wants meanwhile is asked for.
  auto& missing = paged.touch(12);
  ASSERT_TRUE(paged.source->wait_asked(8));
  paged.source->come(12);
  ASSERT_TRUE(paged.comes(missing));
  // And what has come to the source since.
  paged.source->come(14);
  auto& here = paged.touch(14);
  ASSERT_TRUE(paged.comes(here));
  EXPECT_EQ(paged.source->asked(), (std::set<uint64_t>{0, 1, 2, 3, 4, 5, 10, 12, 14}))
      << "four wait at a time";
  paged.source->open();
  ASSERT_TRUE(paged.comes(0, 16));
}

TEST(Pager, ABlockOfWhichAPartIsMissingIsNotHere) {
  Paged paged({4, 5, 6, 8, 9, 10, 11}, 4);
  paged.pager->want(4 * kPage, 8 * kPage);
  ASSERT_TRUE(paged.comes(8, 4));
  EXPECT_FALSE(paged.pager->here(4 * kPage, kPage));
  paged.pager->discard(7 * kPage, kPage);
  paged.source->come(7);
  ASSERT_TRUE(paged.comes(4, 4));
  EXPECT_EQ(paged.memory.data()[7 * kPage], 0);
}

TEST(Pager, WhatIsAskedForAndLateIsAskedForAgain) {
  class Late final : public PageSource {
   public:
    void read(uint64_t, std::span<uint8_t>, bool) override {
      if (reads_++ < 3) throw Error("ETIMEDOUT", "nobody has brought it");
    }
    bool here(uint64_t, uint64_t) const override { return false; }
    void cancel() override {}
    std::atomic<int> reads_{0};
  };
  auto source = std::make_shared<Late>();
  auto memory = Mapping::map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "for a test");
  std::promise<std::string> failed;
  Pager pager(std::span(memory.data(), memory.size()), std::vector<uint64_t>{1}, source,
              {.all = false, .block = 1}, [&](const Error& error, bool settled) {
                if (settled) failed.set_value(error.code());
              });
  pager.want(0, kPage);
  for (int ms = 0; ms < 60000 && !pager.here(0, kPage); ++ms)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(pager.here(0, kPage));
  EXPECT_EQ(source->reads_, 4);
  EXPECT_FALSE(pager.failed()) << "no guest has waited for it";
  // Who waits, as the guest does, is not left to it.
  source->reads_ = 0;
  pager.settle();
  auto touched =
      std::async(std::launch::async, [&] { return *static_cast<volatile uint8_t*>(memory.data()); });
  EXPECT_EQ(failed.get_future().get(), "ETIMEDOUT");
  touched.get();
}

TEST(Pager, HoweverManyPiecesThereAreTheyCanBeWatched) {
  // More than a process may have mappings, each 4 MiB from the next.
  constexpr uint64_t kPieces = 40'000, kStep = 1024;
  auto memory = Mapping::map(kPieces * kStep * kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "for a test");
  std::vector<uint64_t> held(kPieces * kStep / 64);
  for (uint64_t piece = 0; piece < kPieces; ++piece) held[piece * kStep / 64] = 1;
  auto source = std::make_shared<PartlyHere>(std::set<uint64_t>{});
  source->open();
  Pager pager(std::span(memory.data(), memory.size()), held, source, {.all = false, .block = 1},
              [](const Error& error, bool) { ADD_FAILURE() << error.what(); });
  for (uint64_t piece : {uint64_t{0}, uint64_t{1}, kPieces / 2, kPieces - 1}) {
    const uint64_t page = piece * kStep;
    EXPECT_EQ(memory.data()[page * kPage], static_cast<uint8_t>(page + 1));
    EXPECT_EQ(memory.data()[(page + 1) * kPage], 0);
  }
}

TEST(Pager, WhatIsAskedForComesWhateverIsDiscardedMeanwhile) {
  Paged paged({}, 4);
  paged.pager->want(0, 12 * kPage);
  ASSERT_TRUE(paged.source->wait_asked(1));
  // The first page of a block that waits for its turn.
  paged.pager->discard(8 * kPage, kPage);
  paged.source->open();
  ASSERT_TRUE(paged.comes(8, 4));
  EXPECT_EQ(paged.memory.data()[8 * kPage], 0);
  EXPECT_EQ(paged.memory.data()[9 * kPage], 10);
}

}  // namespace
}  // namespace hypertwin::machine
