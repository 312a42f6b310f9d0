// Brings a machine's memory while it runs: what the guest touches at once, the rest in the order in which an
// earlier start touched it. By userfaultfd: who touches a page that has not come waits for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace hypertwin::machine {

// Where the pages come from. Any thread, several at once.
class PageSource {
 public:
  virtual ~PageSource() = default;
  // Whole pages from page `first` on. May take as long as it takes. `urgent`: somebody waits for them. Throws
  // what makes them impossible to have.
  virtual void read(uint64_t first, std::span<uint8_t> into, bool urgent) = 0;
  // Whether reading so many pages from `first` on would wait for nobody, from now on. Waits for nobody.
  virtual bool here(uint64_t first, uint64_t pages) const = 0;
  // Reads give up from now on: they throw Error("CLOSED").
  virtual void cancel() = 0;
};

class Pager {
 public:
  struct Options {
    // Pages in the order in which their blocks are brought; what is none of the memory's is left out.
    std::vector<uint64_t> working_set{};
    bool all = true;       // then the rest, in order; else only what is touched
    unsigned threads = 4;  // that bring what is touched and wait for it, and as many for what is asked for
    // Pages that come together: those of `block` pages each, of which the first one begins `phase` before
    // page 0.
    uint64_t block = 16;
    uint64_t phase = 0;
  };
  // A page that somebody waited for.
  struct Touch {
    uint64_t page = 0;
    uint64_t at_ns = 0;      // from the pager's start
    uint64_t waited_ns = 0;  // 0 while it has not come
  };
  struct Stats {
    uint64_t pages = 0;       // of memory that hold something
    uint64_t here = 0;        // of them, that have come
    uint64_t touched = 0;     // that somebody waited for
    uint64_t waited_ns = 0;   // all together, from the fault on
    uint64_t longest_ns = 0;  // the longest wait
    uint64_t stalls = 0;      // of the touched, those that came after more than 100 ms
    bool complete = false;    // all have come, or are not wanted any more
  };

  using OnFailure = std::function<void(const Error&, bool settled)>;
  // `memory` is anonymous, private and untouched. `held`: one bit a page, those that the source has; the
  // others are zero and cost nothing. `on_failure` is called on a thread of this when pages cannot be had:
  // first with `settled` false, while who touches one still waits for it (so it must wait for nobody), then
  // with true, when they read as zero. Throws Error: the failed call.
  Pager(std::span<uint8_t> memory, std::span<const uint64_t> held, std::shared_ptr<PageSource> source,
        Options options, OnFailure on_failure);
  // Pages that have not come are zero afterwards.
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  // Before start(): as if nobody had touched anything.
  void settle();
  // Ends; pages that have not come are zero. Again: nothing.
  void give_up();
  // Begins to bring what nobody has touched.
  void start();
  // Some pages could not be had: those that have not come may read as zeros.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Why.
  std::optional<Error> failure() const;
  Stats stats() const;
  // Whether nobody has to wait in [offset, offset + size).
  bool here(uint64_t offset, uint64_t size) const;
  // Pages that are zero from now on, whether or not they have come. Any thread.
  void discard(uint64_t offset, uint64_t size);
  // Asks for what has not come of [offset, offset + size); waits for nothing.
  void want(uint64_t offset, uint64_t size);
  // What was touched before it had come, in order: a working set for the next time.
  std::vector<Touch> touched() const;

 private:
  struct Fault {
    uint64_t page;
    uint64_t since_ns;
  };
  void take_faults();
  // Three kinds of threads bring what somebody wants: those for faults, those for what is asked for, and one
  // that waits for nobody, so that what the source has comes however many of the others wait.
  void serve_faults();
  void serve_asked();
  void serve_here();
  // The lock is let go meanwhile.
  void serve(const Fault& fault, std::unique_lock<std::mutex>& lock);
  void serve_first(std::deque<uint64_t>& asked, std::unique_lock<std::mutex>& lock);
  void bring_rest();
  // The block of pages around one, as far as it has not come.
  void bring(uint64_t page, bool urgent);
  // Whether bring() would wait for nobody.
  bool source_has(uint64_t page) const;
  // Calls with [first, last) of each run of pages that have not come of the block around one, until it
  // returns false: then this does.
  template <class Run>
  bool for_each_missing(uint64_t page, const Run& run) const;
  uint64_t block_end(uint64_t page) const;
  void wake_with_zero(uint64_t page);
  void put(uint64_t first, std::span<const uint8_t> bytes);
  void put_zero(uint64_t page);
  // What the work throws is the failure.
  void or_fail(const std::function<void()>& work);
  void fail(const Error& error);
  void join_near(ptrdiff_t near);
  void unregister();
  bool wants(uint64_t page) const;

  const std::span<uint8_t> memory_;
  const uint64_t pages_;
  const std::shared_ptr<PageSource> source_;
  const Options options_;
  const OnFailure on_failure_;
  const uint64_t begun_ns_;
  std::vector<uint64_t> held_;
  uint64_t held_pages_ = 0;
  std::unique_ptr<std::atomic<uint64_t>[]> here_, discarded_;  // one bit a page
  std::atomic<uint64_t> come_{0};
  std::atomic<bool> quit_{false}, complete_{false}, failed_{false};
  Fd faults_, quit_event_;
  std::vector<std::span<uint8_t>> watched_;  // pieces of the memory

  std::mutex put_mutex_;      // guards placing pages against discarding them
  mutable std::mutex mutex_;  // guards the following
  std::condition_variable wake_;
  std::deque<Fault> wanted_;
  // A page of each block; of those that the source had when they were asked for.
  std::deque<uint64_t> asked_, asked_here_;
  std::vector<Touch> touched_;
  uint64_t waited_ns_ = 0, longest_ns_ = 0, stalls_ = 0;
  std::optional<Error> failure_;

  std::vector<std::thread> threads_;
};

}  // namespace hypertwin::machine
