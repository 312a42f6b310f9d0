// What stands behind the handles of hypertwin/migrate: a migration from here, a listener, and one that comes
// in, each with a thread of its own for what blocks. No JavaScript here.
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

#include "arbiter.h"
#include "base/executor.h"
#include "base/fd.h"
#include "listening.h"
#include "machine_state.h"
#include "migrate/migration.h"
#include "wire/stream.h"

namespace hypertwin::addon {

// What a migration tells, bounded, until JavaScript takes it; one wake-up for all that waits. `signal` is
// told 0.
class MigrationMailbox {
 public:
  static constexpr size_t kWaiting = 1024;
  using News = std::variant<migrate::Progress, migrate::Step>;

  explicit MigrationMailbox(Signal signal) : signal_(std::move(signal)) {}
  void progress(const migrate::Progress& progress);
  void step(migrate::Step step);
  std::vector<News> take();

 private:
  void push(News news);

  const Signal signal_;
  std::mutex mutex_;  // guards the two below
  std::deque<News> news_;
  bool announced_ = false;
};

// Asks the arbiter for one side until that side is given up: it then runs the machine no more, so the other
// one may have it.
class ClaimUntilGivenUp {
 public:
  // Before anything else; nullptr: without an arbiter.
  void use(std::shared_ptr<JsArbiter> arbiter) { arbiter_ = std::move(arbiter); }
  // Any thread: who waits for an answer has it now.
  void give_up();
  // Any thread: who waits hears kUnreachable, and may ask again.
  void interrupt() {
    if (arbiter_) arbiter_->interrupt();
  }
  // Empty without an arbiter.
  migrate::Arbiter function() const;

 private:
  std::shared_ptr<JsArbiter> arbiter_;
  std::shared_ptr<std::atomic<bool>> given_up_ = std::make_shared<std::atomic<bool>>(false);
};

// A migration from here, with its thread `ht-migrate`, on which it connects and runs.
class OutgoingState final : public Closable {
 public:
  explicit OutgoingState(std::shared_ptr<MigrationMailbox> mailbox);
  // Before run().
  void use(std::shared_ptr<JsArbiter> arbiter) { claims_.use(std::move(arbiter)); }
  ~OutgoingState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  const std::shared_ptr<MigrationMailbox>& mailbox() const { return mailbox_; }
  // On thread(), once. Throws as wire::connect and Migration::run.
  migrate::MigrateResult run(std::shared_ptr<machine::Machine> machine, const wire::Address& address,
                             const std::optional<wire::TlsOptions>& tls, std::chrono::milliseconds timeout,
                             migrate::MigrateOptions options);
  // Any thread.
  void cancel();
  void limit(uint64_t bytes_per_second);
  // What was not handed over by now stays here, with its machine, which is closed next.
  void shutdown() override;

 private:
  const std::shared_ptr<MigrationMailbox> mailbox_;
  ClaimUntilGivenUp claims_;
  Fd cancel_;                  // an eventfd: ends a connect
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  std::mutex mutex_;           // guards all below
  std::shared_ptr<migrate::Migration> migration_;
  wire::Channel* channel_ = nullptr;  // of migration_
  std::optional<uint64_t> limit_;
  bool cancelled_ = false;
  base::Executor thread_{"ht-migrate"};
};

// One connection that brings a machine, with its thread `ht-receive`.
class IncomingState final : public Closable {
 public:
  IncomingState(std::shared_ptr<kvm::System> system, std::unique_ptr<wire::Stream> stream);
  // Before receive().
  void use(std::shared_ptr<JsArbiter> arbiter) { claims_.use(std::move(arbiter)); }
  ~IncomingState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  const std::string& peer() const { return peer_; }
  // On thread(), once. Throws as migrate::receive; CLOSED.
  migrate::ReceiveResult receive(migrate::ReceiveOptions options);
  // As Reception::cancel(). Any thread; may wait for the source, and for the arbiter.
  void cancel();
  // What is not this side's by now stays at the source.
  void shutdown() override;

 private:
  const std::string peer_;
  const std::shared_ptr<kvm::System> system_;
  ClaimUntilGivenUp claims_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  std::mutex mutex_;           // guards all below
  std::unique_ptr<wire::Channel> channel_;
  std::shared_ptr<migrate::Reception> reception_;  // over channel_, while it runs
  std::condition_variable received_;               // it runs no more
  bool closed_ = false;
  base::Executor thread_{"ht-receive"};
};

// Where sources connect to, with its thread `ht-mig-listen`.
class MigrationListenerState final : public Listening {
 public:
  static constexpr size_t kRefused = 256;
  // `signal` is told 0 when a peer was turned away.
  explicit MigrationListenerState(Signal signal) : Listening("ht-mig-listen"), signal_(std::move(signal)) {}
  ~MigrationListenerState() override { shutdown(); }

  // On thread(), both. accept() gives nullptr once it is closed.
  void begin(const std::string& device, const wire::Address& address, std::optional<wire::TlsOptions> tls);
  std::shared_ptr<IncomingState> accept();
  // Why each was; the oldest are forgotten.
  std::vector<std::string> take_refused();

 private:
  const Signal signal_;
  std::shared_ptr<kvm::System> system_;  // on thread()
  std::mutex mutex_;                     // guards refused_
  std::deque<std::string> refused_;
};

}  // namespace hypertwin::addon
