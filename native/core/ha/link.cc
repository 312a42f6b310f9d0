// Silence is counted in ticks of the watching thread, each with a limit: when it is this host that stood
// still, the other side is not taken for dead at once.
#include "ha/link.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "ha/clock.h"

namespace hypertwin::ha {

namespace {
constexpr int kTicks = 4;  // of the watching thread in a time-out
constexpr int kNice = -10;
}  // namespace

void enter_thread(const char* name) {
  ::pthread_setname_np(::pthread_self(), name);
  prefer_this_thread();
}

void prefer_this_thread() {
  // Refused without the right to it: it works all the same, on a host with time to spare.
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kNice);
}

void run_session(const Link& link, const std::string& peer, const std::function<void()>& steps,
                 const std::function<void(const std::string&, const std::string&)>& lose) {
  try {
    steps();
    lose("PEER_LOST", peer + " closed the connection");
  } catch (const Error& error) {
    if (link.silent())
      lose("HEARTBEAT", "nothing was heard from " + peer + " for " +
                            std::to_string(link.timeout_ns() / 1'000'000) + " ms");
    else
      lose(error.code(), error.what());
  } catch (const std::exception& error) {
    lose("FAILED", error.what());
  }
}

Link::Link(wire::Channel& channel, const Heartbeats& options, Hooks hooks)
    : channel_(channel), options_(options), hooks_(std::move(hooks)), detector_(options) {}

Link::~Link() { stop(); }

void Link::start() {
  last_heard_.store(now_ns());
  beat_ = std::thread([this] { beats(); });
  watch_ = std::thread([this] { watches(); });
}

void Link::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (beat_.joinable()) beat_.join();
  if (watch_.joinable()) watch_.join();
}

void Link::heard() {
  const uint64_t now = now_ns();
  last_heard_.store(now, std::memory_order_relaxed);
  detector_.heard(now);
}

bool Link::sleep(std::chrono::nanoseconds time) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, time, [this] { return stop_; });
}

void Link::beats() {
  enter_thread("ht-ha-beat");
  do {
    try {
      hooks_.beat();
    } catch (const Error&) {
      // Who receives learns of it.
      return;
    }
    if (hooks_.tick) hooks_.tick();
  } while (sleep(options_.interval));
}

void Link::watches() {
  enter_thread("ht-ha-watch");
  uint64_t heard = last_heard_ns(), silence = 0, before = now_ns();
  for (;;) {
    const uint64_t timeout = timeout_ns(), tick = timeout / kTicks;
    if (!sleep(std::chrono::nanoseconds(
            std::clamp(timeout - std::min(silence, timeout - 1), uint64_t{100'000}, tick))))
      return;
    const uint64_t now = now_ns();
    const uint64_t latest = last_heard_ns();
    if (latest != heard) {
      heard = latest;
      silence = now > latest ? std::min(now - latest, 2 * tick) : 0;
    } else {
      silence += std::min(now - before, 2 * tick);
    }
    before = now;
    if (silence < timeout_ns() || (hooks_.may_suspect && !hooks_.may_suspect())) continue;
    silent_.store(true, std::memory_order_release);
    channel_.close();
    return;
  }
}

}  // namespace hypertwin::ha
