#include "machine/pager.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "base/event.h"
#include "devices/guest_ram.h"
#include "dirty/bitmap.h"

namespace hypertwin::machine {

namespace {

constexpr uint64_t kPage = devices::kPageSize;
// Zero pages between two pieces that are watched as one, at least: each piece is a mapping of the process, of
// which it may have some 65,000.
constexpr ptrdiff_t kNear = 2 << 20;
constexpr size_t kMostPieces = 4096;
// A longer wait is a stall, as of a read of an image.
constexpr uint64_t kStallNs = 100'000'000;
// Between two looks whether the source has what is wanted by now, while all that could ask for it wait.
constexpr auto kLook = std::chrono::milliseconds(2);

bool has(const std::unique_ptr<std::atomic<uint64_t>[]>& bitmap, uint64_t page) {
  return bitmap[page / 64].load(std::memory_order_acquire) >> (page % 64) & 1;
}

bool set(std::unique_ptr<std::atomic<uint64_t>[]>& bitmap, uint64_t page) {
  const uint64_t bit = uint64_t{1} << (page % 64);
  return !(bitmap[page / 64].fetch_or(bit, std::memory_order_acq_rel) & bit);
}

Fd open_userfaultfd() {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  // Where the call is reserved to some, the device may be open to others.
  if (!fd) {
    Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (device) fd = Fd(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  }
  if (!fd)
    throw_errno("userfaultfd",
                "to bring memory while a machine runs (it needs CAP_SYS_PTRACE, or access to "
                "/dev/userfaultfd, or vm.unprivileged_userfaultfd = 1)");
  uffdio_api api{};
  api.api = UFFD_API;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) throw_errno("UFFDIO_API", "for the guest's memory");
  return fd;
}

}  // namespace

Pager::Pager(std::span<uint8_t> memory, std::span<const uint64_t> held, std::shared_ptr<PageSource> source,
             Options options, OnFailure on_failure)
    : memory_(memory),
      pages_(memory.size() / kPage),
      source_(std::move(source)),
      options_(std::move(options)),
      on_failure_(std::move(on_failure)),
      begun_ns_(now_ns()),
      held_(held.begin(), held.end()),
      held_pages_(dirty::popcount(held)),
      here_(std::make_unique<std::atomic<uint64_t>[]>(held.size())),
      discarded_(std::make_unique<std::atomic<uint64_t>[]>(held.size())),
      faults_(open_userfaultfd()),
      quit_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!quit_event_) throw_errno("eventfd", "for bringing memory");
  for (auto [first, count] : dirty::Ranges(held_))
    watched_.push_back(memory_.subspan(first * kPage, count * kPage));
  join_near(kNear);
  for (ptrdiff_t near = 2 * kNear; watched_.size() > kMostPieces; near *= 2) join_near(near);
  for (auto part : watched_) {
    uffdio_register range{};
    range.range = {reinterpret_cast<uintptr_t>(part.data()), part.size()};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(faults_.get(), UFFDIO_REGISTER, &range) != 0)
      throw_errno("UFFDIO_REGISTER", "for the guest's memory");
  }
  try {
    threads_.emplace_back([this] { take_faults(); });
    for (unsigned i = 0; i < std::max(1u, options_.threads); ++i) {
      threads_.emplace_back([this] { serve_faults(); });
      threads_.emplace_back([this] { serve_asked(); });
    }
    threads_.emplace_back([this] { serve_here(); });
  } catch (...) {
    give_up();
    throw;
  }
}

Pager::~Pager() { give_up(); }

void Pager::give_up() {
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
    if (!complete_ && !failed_.exchange(true))
      failure_ = Error("CLOSED", "the machine was closed before its memory had come");
  }
  wake_.notify_all();
  source_->cancel();
  ring(quit_event_.get());
  for (auto& thread : threads_)
    if (thread.joinable()) thread.join();
  unregister();
}

// Of the pieces that are watched, those between which there is less.
void Pager::join_near(ptrdiff_t near) {
  std::vector<std::span<uint8_t>> joined;
  for (auto piece : watched_)
    if (!joined.empty() && piece.data() - (joined.back().data() + joined.back().size()) < near)
      joined.back() = {joined.back().data(), piece.data() + piece.size()};
    else
      joined.push_back(piece);
  watched_ = std::move(joined);
}

// Who waits goes on.
void Pager::unregister() {
  for (auto part : watched_) {
    uffdio_range range{reinterpret_cast<uintptr_t>(part.data()), part.size()};
    ::ioctl(faults_.get(), UFFDIO_UNREGISTER, &range);
  }
}

void Pager::settle() {
  std::lock_guard lock(put_mutex_);
  if (::madvise(memory_.data(), memory_.size(), MADV_DONTNEED) != 0)
    throw_errno("madvise", "for the guest's memory");
  for (size_t i = 0; i < held_.size(); ++i) here_[i] = 0;
  come_ = 0;
  std::lock_guard more(mutex_);
  touched_.clear();
  waited_ns_ = longest_ns_ = stalls_ = 0;
}

std::optional<Error> Pager::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void Pager::start() {
  threads_.emplace_back([this] { bring_rest(); });
}

bool Pager::wants(uint64_t page) const {
  return (held_[page / 64] >> (page % 64) & 1) && !has(here_, page) && !has(discarded_, page);
}

void Pager::take_faults() {
  pthread_setname_np(pthread_self(), "ht-faults");
  pollfd fds[] = {{.fd = faults_.get(), .events = POLLIN, .revents = 0},
                  {.fd = quit_event_.get(), .events = POLLIN, .revents = 0}};
  uffd_msg messages[32];
  while (!quit_) {
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) {
      const int error = errno;
      return or_fail(
          [error] { throw Error::system(error, "poll", "for what is touched of the guest's memory"); });
    }
    const ssize_t n = ::read(faults_.get(), messages, sizeof(messages));
    if (n <= 0) continue;
    const uint64_t now = now_ns();
    for (size_t i = 0; i < static_cast<size_t>(n) / sizeof(uffd_msg); ++i) {
      if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
      const uint64_t page =
          (messages[i].arg.pagefault.address - reinterpret_cast<uintptr_t>(memory_.data())) / kPage;
      if (wants(page)) {
        std::lock_guard lock(mutex_);
        wanted_.push_back({page, now});
      } else {
        // Zero, or it has just come: it need not wait for those that must be brought.
        wake_with_zero(page);
      }
    }
    wake_.notify_all();
  }
}

void Pager::serve_faults() {
  pthread_setname_np(pthread_self(), "ht-pager");
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return quit_ || !wanted_.empty(); });
    if (quit_) return;
    const Fault fault = wanted_.front();
    wanted_.pop_front();
    serve(fault, lock);
  }
}

void Pager::serve_asked() {
  pthread_setname_np(pthread_self(), "ht-asked");
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return quit_ || !asked_.empty(); });
    if (quit_) return;
    serve_first(asked_, lock);
  }
}

void Pager::serve_here() {
  pthread_setname_np(pthread_self(), "ht-here");
  std::unique_lock lock(mutex_);
  while (!quit_) {
    const auto found = std::ranges::find_if(
        wanted_, [this](const Fault& fault) { return !wants(fault.page) || source_has(fault.page); });
    if (found != wanted_.end()) {
      const Fault fault = *found;
      wanted_.erase(found);
      serve(fault, lock);
    } else if (!asked_here_.empty()) {
      serve_first(asked_here_, lock);
    } else if (!wanted_.empty()) {
      wake_.wait_for(lock, kLook);
    } else {
      wake_.wait(lock, [this] { return quit_ || !wanted_.empty() || !asked_here_.empty(); });
    }
  }
}

void Pager::serve_first(std::deque<uint64_t>& asked, std::unique_lock<std::mutex>& lock) {
  const uint64_t page = asked.front();
  asked.pop_front();
  lock.unlock();
  bool late = false;
  or_fail([&] {
    try {
      bring(page, true);
    } catch (const Error& error) {
      // No guest waits for it: it is asked for again.
      late = error.code() == "ETIMEDOUT";
      if (!late) throw;
    }
  });
  lock.lock();
  if (late) asked.push_back(page);
}

void Pager::serve(const Fault& fault, std::unique_lock<std::mutex>& lock) {
  const bool first = wants(fault.page);
  const size_t index = touched_.size();
  if (first) touched_.push_back({fault.page, fault.since_ns - begun_ns_, 0});
  lock.unlock();
  or_fail([&] {
    if (first) bring(fault.page, true);
    // Zero, or it has come meanwhile and only its waiter is to be woken.
    put_zero(fault.page);
  });
  lock.lock();
  const uint64_t waited = now_ns() - fault.since_ns;
  waited_ns_ += waited;
  longest_ns_ = std::max(longest_ns_, waited);
  if (first && index < touched_.size()) {
    touched_[index].waited_ns = waited;
    if (waited > kStallNs) ++stalls_;
  }
}

void Pager::bring_rest() {
  pthread_setname_np(pthread_self(), "ht-prefetch");
  or_fail([&] {
    for (uint64_t page : options_.working_set) {
      if (quit_ || failed_) return;
      if (page < pages_) bring(page, false);
    }
    if (!options_.all) return;
    for (auto [first, count] : dirty::Ranges(held_))
      for (uint64_t page = first; page < first + count; ++page) {
        if (quit_ || failed_) return;
        if (wants(page)) bring(page, false);
      }
    // What is touched now for the first time is zero, which the kernel knows by itself.
    unregister();
    complete_ = true;
  });
}

uint64_t Pager::block_end(uint64_t page) const {
  return std::min(pages_, page + options_.block - (page + options_.phase) % options_.block);
}

template <class Run>
bool Pager::for_each_missing(uint64_t page, const Run& run) const {
  const uint64_t end = block_end(page);
  const uint64_t back = (page + options_.phase) % options_.block;
  for (uint64_t first = page - std::min(page, back); first < end;) {
    if (!wants(first)) {
      ++first;
      continue;
    }
    uint64_t last = first + 1;
    while (last < end && wants(last)) ++last;
    if (!run(first, last)) return false;
    first = last;
  }
  return true;
}

void Pager::bring(uint64_t page, bool urgent) {
  std::vector<uint8_t> bytes;
  for_each_missing(page, [&](uint64_t first, uint64_t last) {
    bytes.resize((last - first) * kPage);
    source_->read(first, bytes, urgent);
    put(first, bytes);
    return true;
  });
}

bool Pager::source_has(uint64_t page) const {
  return for_each_missing(
      page, [this](uint64_t first, uint64_t last) { return source_->here(first, last - first); });
}

// Pages that have come meanwhile, or were discarded, stay as they are.
void Pager::put(uint64_t first, std::span<const uint8_t> bytes) {
  const uint64_t end = first + bytes.size() / kPage;
  std::lock_guard lock(put_mutex_);
  const auto came = [this](uint64_t page) {
    if (set(here_, page)) come_.fetch_add(1, std::memory_order_relaxed);
  };
  for (uint64_t page = first; page < end;) {
    if (!wants(page)) {
      ++page;
      continue;
    }
    uint64_t last = page + 1;
    while (last < end && wants(last)) ++last;
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<uintptr_t>(memory_.data() + page * kPage);
    copy.src = reinterpret_cast<uintptr_t>(bytes.data() + (page - first) * kPage);
    copy.len = (last - page) * kPage;
    const bool all = ::ioctl(faults_.get(), UFFDIO_COPY, &copy) == 0;
    const int error = errno;
    for (auto done = static_cast<int64_t>(copy.copy); done > 0; done -= static_cast<int64_t>(kPage))
      came(page++);
    if (all || error == EAGAIN) continue;
    if (error != EEXIST) throw Error::system(error, "UFFDIO_COPY", "bringing a page of the guest's memory");
    came(page++);
  }
}

void Pager::put_zero(uint64_t page) {
  const uint64_t address = reinterpret_cast<uintptr_t>(memory_.data() + page * kPage);
  std::lock_guard lock(put_mutex_);
  if (wants(page)) return;  // it could not be had
  uffdio_zeropage zero{};
  zero.range = {address, kPage};
  while (::ioctl(faults_.get(), UFFDIO_ZEROPAGE, &zero) != 0) {
    if (errno == EAGAIN) continue;
    if (errno == ENOENT) return;  // no longer watched
    if (errno != EEXIST) throw_errno("UFFDIO_ZEROPAGE", "bringing a page of the guest's memory");
    uffdio_range range{address, kPage};
    ::ioctl(faults_.get(), UFFDIO_WAKE, &range);
    return;
  }
}

void Pager::wake_with_zero(uint64_t page) {
  or_fail([&] { put_zero(page); });
}

void Pager::or_fail(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error("NO_MEMORY", error.what()));
  }
}

void Pager::fail(const Error& error) {
  {
    std::lock_guard lock(mutex_);
    if (quit_ || failed_.exchange(true)) return;
    failure_ = error;
  }
  on_failure_(error, false);
  unregister();
  on_failure_(error, true);
}

Pager::Stats Pager::stats() const {
  Stats stats;
  stats.pages = held_pages_;
  stats.here = come_.load(std::memory_order_relaxed);
  stats.complete = complete_;
  std::lock_guard lock(mutex_);
  stats.touched = touched_.size();
  stats.waited_ns = waited_ns_;
  stats.longest_ns = longest_ns_;
  stats.stalls = stalls_;
  return stats;
}

bool Pager::here(uint64_t offset, uint64_t size) const {
  for (uint64_t page = offset / kPage; page < (offset + size + kPage - 1) / kPage; ++page)
    if (wants(page)) return false;
  return true;
}

void Pager::want(uint64_t offset, uint64_t size) {
  std::vector<uint64_t> missing, ready;
  const uint64_t end = std::min(pages_, (offset + size + kPage - 1) / kPage);
  for (uint64_t page = offset / kPage; page < end;) {
    if (!wants(page)) {
      ++page;
      continue;
    }
    (source_has(page) ? ready : missing).push_back(page);
    page = block_end(page);
  }
  {
    std::lock_guard lock(mutex_);
    asked_.insert(asked_.end(), missing.begin(), missing.end());
    asked_here_.insert(asked_here_.end(), ready.begin(), ready.end());
  }
  wake_.notify_all();
}

void Pager::discard(uint64_t offset, uint64_t size) {
  std::lock_guard lock(put_mutex_);
  for (uint64_t page = offset / kPage; page < (offset + size) / kPage; ++page) set(discarded_, page);
  if (::madvise(memory_.data() + offset, size, MADV_DONTNEED) != 0)
    throw_errno("madvise", "giving back memory of the guest");
}

std::vector<Pager::Touch> Pager::touched() const {
  std::lock_guard lock(mutex_);
  return touched_;
}

}  // namespace hypertwin::machine
