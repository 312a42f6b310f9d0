#include "migrate_state.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"

namespace hypertwin::addon {

// ---- MigrationMailbox

void MigrationMailbox::push(News news) {
  std::lock_guard lock(mutex_);
  if (news_.size() >= kWaiting) news_.pop_front();
  news_.push_back(std::move(news));
  if (!std::exchange(announced_, true)) signal_(0);
}

void MigrationMailbox::progress(const migrate::Progress& progress) { push(progress); }

void MigrationMailbox::step(migrate::Step step) { push(step); }

std::vector<MigrationMailbox::News> MigrationMailbox::take() {
  std::lock_guard lock(mutex_);
  announced_ = false;
  std::vector<News> out(news_.begin(), news_.end());
  news_.clear();
  return out;
}

// ---- ClaimUntilGivenUp

void ClaimUntilGivenUp::give_up() {
  given_up_->store(true);
  if (arbiter_) arbiter_->give_up();
}

migrate::Arbiter ClaimUntilGivenUp::function() const {
  if (!arbiter_) return {};
  return [given_up = given_up_, ask = arbiter_->function()](const std::string& key, const std::string& who) {
    if (*given_up) return migrate::Claim::kLost;
    const migrate::Claim claim = ask(key, who);
    return claim == migrate::Claim::kUnreachable && *given_up ? migrate::Claim::kLost : claim;
  };
}

// ---- OutgoingState

OutgoingState::OutgoingState(std::shared_ptr<MigrationMailbox> mailbox)
    : mailbox_(std::move(mailbox)), cancel_(::eventfd(0, EFD_CLOEXEC)) {
  if (!cancel_) throw_errno("eventfd", "preparing to cancel a migration");
}

migrate::MigrateResult OutgoingState::run(std::shared_ptr<machine::Machine> machine,
                                          const wire::Address& address,
                                          const std::optional<wire::TlsOptions>& tls,
                                          std::chrono::milliseconds timeout,
                                          migrate::MigrateOptions options) {
  options.arbiter = claims_.function();
  options.on_progress = [mailbox = mailbox_](const migrate::Progress& now) { mailbox->progress(now); };
  options.on_step = [mailbox = mailbox_](migrate::Step step) { mailbox->step(step); };
  migrate::check_movable(*machine);
  auto channel = std::make_unique<wire::Channel>(wire::connect(address, tls, timeout, cancel_.get()));
  wire::Channel& its_channel = *channel;
  auto migration =
      std::make_shared<migrate::Migration>(std::move(machine), std::move(channel), std::move(options));
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) throw Error("CANCELLED", "the migration was cancelled");
    if (limit_) migration->limit(*limit_);
    migration_ = migration;
    channel_ = &its_channel;
  }
  struct Forget {
    OutgoingState& self;
    ~Forget() {
      std::lock_guard lock(self.mutex_);
      self.migration_ = nullptr;
      self.channel_ = nullptr;
    }
  } forget{*this};
  return migration->run();
}

void OutgoingState::cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  const uint64_t one = 1;
  // It cannot fail: the counter is far from its end. After shutdown() there is none, and nothing to cancel.
  if (cancel_) [[maybe_unused]]
    ssize_t written = ::write(cancel_.get(), &one, sizeof(one));
  if (migration_) migration_->cancel();
}

void OutgoingState::limit(uint64_t bytes_per_second) {
  std::lock_guard lock(mutex_);
  limit_ = bytes_per_second;
  if (migration_) migration_->limit(bytes_per_second);
}

void OutgoingState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  cancel();
  claims_.give_up();
  {
    std::lock_guard lock(mutex_);
    if (channel_) channel_->close();
  }
  thread_.stop();
  std::lock_guard lock(mutex_);
  cancel_ = Fd();
}

// ---- IncomingState

namespace {
constexpr std::chrono::seconds kAnswerPatience{3}, kSourcePatience{1};
}  // namespace

IncomingState::IncomingState(std::shared_ptr<kvm::System> system, std::unique_ptr<wire::Stream> stream)
    : peer_(stream->peer()),
      system_(std::move(system)),
      channel_(std::make_unique<wire::Channel>(std::move(stream))) {}

migrate::ReceiveResult IncomingState::receive(migrate::ReceiveOptions options) {
  options.arbiter = claims_.function();
  std::shared_ptr<migrate::Reception> reception;
  {
    std::lock_guard lock(mutex_);
    if (closed_ || !channel_) throw Error("CLOSED", "the connection is closed");
    reception_ = reception = std::make_shared<migrate::Reception>(system_, *channel_, std::move(options));
  }
  struct Forget {
    IncomingState& self;
    std::shared_ptr<migrate::Reception>& reception;
    ~Forget() {
      {
        std::lock_guard lock(self.mutex_);
        self.reception_ = nullptr;
      }
      self.received_.notify_all();
      reception = nullptr;
      std::lock_guard lock(self.mutex_);
      self.channel_->close();
      self.channel_ = nullptr;
    }
  } forget{*this, reception};
  return reception->run();
}

void IncomingState::cancel() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    // It closes the channel when it has told the source.
    if (reception_)
      reception_->cancel();
    else if (channel_)
      channel_->close();
  }
  // An arbiter that is asked just now may have given the machine to this side already: its answer counts, if
  // it comes before the source takes this side for lost.
  std::unique_lock lock(mutex_);
  if (!received_.wait_for(lock, kAnswerPatience, [this] { return reception_ == nullptr; }))
    claims_.interrupt();
}

void IncomingState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  cancel();
  {
    // The source's answer.
    std::unique_lock lock(mutex_);
    received_.wait_for(lock, kSourcePatience, [this] { return reception_ == nullptr; });
    if (channel_) channel_->close();
  }
  claims_.give_up();
  thread_.stop();
  std::lock_guard lock(mutex_);
  channel_ = nullptr;
}

// ---- MigrationListenerState

void MigrationListenerState::begin(const std::string& device, const wire::Address& address,
                                   std::optional<wire::TlsOptions> tls) {
  system_ = kvm::System::open(device);
  listen(address, std::move(tls));
}

std::shared_ptr<IncomingState> MigrationListenerState::accept() {
  auto stream = accept_stream([this](const std::string& why) {
    std::lock_guard lock(mutex_);
    if (refused_.size() >= kRefused) refused_.pop_front();
    refused_.push_back(why);
    signal_(0);
  });
  return stream ? std::make_shared<IncomingState>(system_, std::move(stream)) : nullptr;
}

std::vector<std::string> MigrationListenerState::take_refused() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out(refused_.begin(), refused_.end());
  refused_.clear();
  return out;
}

}  // namespace hypertwin::addon
