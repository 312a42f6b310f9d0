#include "base/bus_guard.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>

#include "base/error.h"
#include "base/event.h"

namespace hypertwin {

// Never freed, so that the handler may walk them at any time; used again.
struct BusRange {
  std::atomic<uintptr_t> begin{0};  // 0: free
  std::atomic<uintptr_t> end{0};
  std::atomic<int> event{-1};
  std::atomic<bool> hit{false};
  BusRange* next = nullptr;
};

namespace {

constexpr uintptr_t kPage = 4096;
std::atomic<BusRange*> first_range{nullptr};
std::mutex mutex;  // guards making and freeing of ranges
struct sigaction before;

// Async-signal-safe: atomics and system calls alone.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (BusRange* range = first_range.load(std::memory_order_acquire); range; range = range->next) {
    const uintptr_t begin = range->begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= range->end.load(std::memory_order_relaxed)) continue;
    const int saved = errno;
    void* page = reinterpret_cast<void*>(address & ~(kPage - 1));
    if (::mmap(page, kPage, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != page)
      break;
    range->hit.store(true, std::memory_order_release);
    ring(range->event.load(std::memory_order_relaxed));
    errno = saved;
    return;
  }
  // Not ours.
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    // The access happens again, and ends the process as it would have.
    ::sigaction(signal, &before, nullptr);
  }
}

}  // namespace

BusGuard::BusGuard(uint8_t* data, size_t size) : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!event_) throw_errno("eventfd", "for a guarded mapping");
  std::lock_guard lock(mutex);
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    ::sigemptyset(&action.sa_mask);
    if (::sigaction(SIGBUS, &action, &before) != 0) throw_errno("sigaction", "for a guarded mapping");
    return true;
  }();
  static_cast<void>(installed);
  BusRange* first = first_range.load(std::memory_order_relaxed);
  range_ = first;
  while (range_ && range_->begin.load(std::memory_order_relaxed)) range_ = range_->next;
  const bool fresh = !range_;
  if (fresh) {
    range_ = new BusRange;
    range_->next = first;
  }
  range_->hit.store(false, std::memory_order_relaxed);
  range_->event.store(event_.get(), std::memory_order_relaxed);
  range_->end.store(reinterpret_cast<uintptr_t>(data) + size, std::memory_order_relaxed);
  range_->begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_release);
  if (fresh) first_range.store(range_, std::memory_order_release);
}

BusGuard::~BusGuard() {
  std::lock_guard lock(mutex);
  range_->begin.store(0, std::memory_order_release);
  range_->event.store(-1, std::memory_order_relaxed);
}

bool BusGuard::hit() const { return range_->hit.load(std::memory_order_acquire); }

}  // namespace hypertwin
