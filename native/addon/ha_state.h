// What stands behind the handles of hypertwin/ha: a protection from the primary's side, a listener for
// primaries, one connection of it, and a backup. Each has a thread of its own for what blocks. No JavaScript.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/executor.h"
#include "base/fd.h"
#include "ha/ha.h"
#include "listening.h"
#include "machine_state.h"
#include "wire/stream.h"

namespace hypertwin::addon {

// What a side tells, bounded, until JavaScript takes it; one wake-up for all that waits. `signal` is told 0
// for events, 1 for progress.
class HaMailbox {
 public:
  static constexpr size_t kEvents = 4096, kSteps = 4096;
  using News = std::variant<ha::Event, std::string>;  // the text is a step's name

  explicit HaMailbox(Signal signal) : signal_(std::move(signal)) {}
  void event(const ha::Event& event) { push(event); }
  void step(const char* name) { push(std::string(name)); }
  void progress();
  std::vector<News> take();

 private:
  void push(News news);

  const Signal signal_;
  std::mutex mutex_;  // guards all below
  std::deque<News> news_;
  size_t steps_ = 0;  // of them
  bool announced_ = false;
  bool progressed_ = false;
};

// Asks the arbiter for one side, and stops asking when that side is given up: it then runs the machine no
// more, so the other one may have it.
class GivenUp {
 public:
  bool value() const { return value_.load(); }
  void set() { value_.store(true); }
  migrate::Arbiter wrap(migrate::Arbiter arbiter);

 private:
  std::atomic<bool> value_{false};
};

// Looks the same before, during and after.
struct HaView {
  ha::State state = ha::State::kSyncing;
  ha::Stats stats;
  migrate::Progress progress;
  std::optional<ha::Timeline> timeline;
  std::string session;
};

// A protection with its thread `ht-protect`, on which it connects and hands over.
class ProtectionState final : public Closable {
 public:
  ProtectionState(std::shared_ptr<HaMailbox> mailbox, std::function<void()> release_arbiter);
  ~ProtectionState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  // On thread(): connects and begins. Throws as wire::connect and Primary::protect; CLOSED.
  void begin(std::shared_ptr<machine::Machine> machine, const wire::Address& address,
             const std::optional<wire::TlsOptions>& tls, std::chrono::milliseconds timeout,
             ha::ProtectOptions options);
  // On thread().
  void hand_over();
  HaView view() const;
  HaMailbox& mailbox() { return *mailbox_; }
  // Any thread: as if the process were killed. The machine is halted when this returns; the backup may have
  // it.
  void abandon();
  // In peace: the backup is let go.
  void shutdown() override;

 private:
  std::shared_ptr<ha::Primary> primary() const;
  // Both under mutex_.
  bool settled() const;
  void cancel_connect();

  const std::shared_ptr<HaMailbox> mailbox_;
  const std::function<void()> release_arbiter_;
  GivenUp given_up_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards all below
  Fd cancel_;                  // an eventfd: ends a connect
  std::condition_variable changed_;
  std::shared_ptr<ha::Primary> primary_;
  std::shared_ptr<wire::Stream> stream_;
  HaView last_;
  bool closed_ = false;
  base::Executor thread_{"ht-protect"};
};

// A backup of one primary; the machine once it is live.
class BackupState final : public Closable {
 public:
  BackupState(std::shared_ptr<HaMailbox> mailbox, std::function<void()> release_arbiter)
      : mailbox_(std::move(mailbox)), release_arbiter_(std::move(release_arbiter)) {}
  ~BackupState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  // On thread(). Throws as Backup::follow; CLOSED.
  void begin(const std::string& device, std::unique_ptr<wire::Channel> channel, ha::BackupOptions options);
  HaView view() const;
  HaMailbox& mailbox() { return *mailbox_; }
  // Throws Error("BAD_STATE") before it is live, CLOSED.
  std::shared_ptr<machine::Machine> machine();
  void abandon();
  // A machine that is live, or goes live meanwhile, is kept until machine() has given it out.
  void shutdown() override;

 private:
  const std::shared_ptr<HaMailbox> mailbox_;
  const std::function<void()> release_arbiter_;
  GivenUp given_up_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards all below
  std::shared_ptr<ha::Backup> backup_;
  HaView last_;
  bool given_out_ = false;  // the machine
  bool shut_ = false;       // the backup is closed
  bool closed_ = false;
  base::Executor thread_{"ht-backup"};
};

// One accepted connection that is not yet anybody's, with its thread `ht-caller`.
class CallerState final : public Closable {
 public:
  explicit CallerState(std::shared_ptr<wire::Stream> stream)
      : peer_(stream->peer()), stream_(std::move(stream)) {}
  ~CallerState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  const std::string& peer() const { return peer_; }
  // Throws Error("CLOSED").
  std::unique_ptr<wire::Channel> take();
  // On thread(): hears what the caller wants, and says no.
  void refuse(const std::string& code, const std::string& sentence);
  void shutdown() override;

 private:
  const std::string peer_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  std::mutex mutex_;           // guards the two below
  std::shared_ptr<wire::Stream> stream_;
  bool closed_ = false;
  base::Executor thread_{"ht-caller"};
};

// A listener for primaries, with its thread `ht-listen`.
class ListenerState final : public Listening {
 public:
  explicit ListenerState(std::shared_ptr<HaMailbox> mailbox)
      : Listening("ht-listen"), mailbox_(std::move(mailbox)) {}
  ~ListenerState() override { shutdown(); }

  // On thread().
  using Listening::listen;
  std::unique_ptr<wire::Stream> accept();
  HaMailbox& mailbox() { return *mailbox_; }

 private:
  const std::shared_ptr<HaMailbox> mailbox_;
};

// An environment's own: what to give up before anything is closed in peace, when the environment ends.
class HaEnv {
 public:
  template <class State>
  void add(const std::shared_ptr<State>& state) {
    std::erase_if(give_up_, [](const auto& entry) { return entry.first.expired(); });
    give_up_.emplace_back(state, [weak = std::weak_ptr<State>(state)] {
      if (auto found = weak.lock()) found->abandon();
    });
  }
  void teardown() {
    for (auto& [weak, abandon] : give_up_) abandon();
  }

 private:
  std::vector<std::pair<std::weak_ptr<void>, std::function<void()>>> give_up_;
};

}  // namespace hypertwin::addon
