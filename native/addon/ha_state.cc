#include "ha_state.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "migrate/payloads.h"

namespace hypertwin::addon {

namespace {

// Forwards, so that the connection can be cut while somebody else owns the stream.
class SharedStream final : public wire::Stream {
 public:
  explicit SharedStream(std::shared_ptr<wire::Stream> inner) : inner_(std::move(inner)) {}
  size_t read(std::span<uint8_t> into) override { return inner_->read(into); }
  void write(std::span<const std::span<const uint8_t>> parts) override { inner_->write(parts); }
  void shutdown() noexcept override { inner_->shutdown(); }
  std::string peer() const override { return inner_->peer(); }

 private:
  std::shared_ptr<wire::Stream> inner_;
};

[[noreturn]] void closed(const char* what) { throw Error("CLOSED", std::string(what) + " is closed"); }

template <class Side>
HaView view_of(const Side& side) {
  return {side.state(), side.stats(), side.sync_progress(), side.timeline(), side.session()};
}

}  // namespace

// ---- HaMailbox

void HaMailbox::push(News news) {
  std::lock_guard lock(mutex_);
  // Steps come with each block of the log; they never take an event's place.
  const bool step = std::holds_alternative<std::string>(news);
  if (step && steps_ == kSteps) return;
  if (!step && news_.size() - steps_ == kEvents)
    news_.erase(std::ranges::find_if(
        news_, [](const News& one) { return !std::holds_alternative<std::string>(one); }));
  steps_ += step;
  news_.push_back(std::move(news));
  if (!std::exchange(announced_, true)) signal_(0);
}

void HaMailbox::progress() {
  std::lock_guard lock(mutex_);
  if (!std::exchange(progressed_, true)) signal_(1);
}

std::vector<HaMailbox::News> HaMailbox::take() {
  std::lock_guard lock(mutex_);
  announced_ = false;
  progressed_ = false;
  std::vector<News> out(std::make_move_iterator(news_.begin()), std::make_move_iterator(news_.end()));
  news_.clear();
  steps_ = 0;
  return out;
}

// ---- GivenUp

migrate::Arbiter GivenUp::wrap(migrate::Arbiter arbiter) {
  return [this, arbiter = std::move(arbiter)](const std::string& key, const std::string& who) {
    // Not a claim, but its most careful outcome: this side does not run the machine.
    if (value()) return migrate::Claim::kLost;
    auto answer = arbiter(key, who);
    return value() ? migrate::Claim::kLost : answer;
  };
}

// ---- ProtectionState

ProtectionState::ProtectionState(std::shared_ptr<HaMailbox> mailbox, std::function<void()> release_arbiter)
    : mailbox_(std::move(mailbox)),
      release_arbiter_(std::move(release_arbiter)),
      cancel_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!cancel_) throw_errno("eventfd", "preparing a protection");
}

void ProtectionState::begin(std::shared_ptr<machine::Machine> machine, const wire::Address& address,
                            const std::optional<wire::TlsOptions>& tls, std::chrono::milliseconds timeout,
                            ha::ProtectOptions options) {
  std::shared_ptr<wire::Stream> stream = wire::connect(address, tls, timeout, cancel_.get());
  options.arbiter = given_up_.wrap(std::move(options.arbiter));
  options.on_event = [this](const ha::Event& event) {
    mailbox_->event(event);
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  };
  options.on_step = [mailbox = mailbox_](const char* step) { mailbox->step(step); };
  options.sync.on_progress = [mailbox = mailbox_](const migrate::Progress&) { mailbox->progress(); };
  {
    std::lock_guard lock(mutex_);
    if (closed_ || given_up_.value()) closed("the protection");
    stream_ = stream;
  }
  auto channel = std::make_unique<wire::Channel>(std::make_unique<SharedStream>(stream));
  std::shared_ptr<ha::Primary> primary =
      ha::Primary::protect(std::move(machine), std::move(channel), std::move(options));
  std::lock_guard lock(mutex_);
  primary_ = std::move(primary);
  changed_.notify_all();
}

std::shared_ptr<ha::Primary> ProtectionState::primary() const {
  std::lock_guard lock(mutex_);
  return primary_;
}

void ProtectionState::hand_over() {
  auto found = primary();
  if (!found) closed("the protection");
  found->hand_over();
}

HaView ProtectionState::view() const {
  auto found = primary();
  if (found) return view_of(*found);
  std::lock_guard lock(mutex_);
  return last_;
}

void ProtectionState::cancel_connect() {
  if (!cancel_) return;
  const uint64_t one = 1;
  // A full counter is as good.
  [[maybe_unused]] auto written = write(cancel_.get(), &one, sizeof(one));
}

bool ProtectionState::settled() const {
  if (!primary_) return true;
  switch (primary_->state()) {
    case ha::State::kSyncing:
    case ha::State::kProtected:
    case ha::State::kSuspecting:
      return false;
    default:
      return true;
  }
}

void ProtectionState::abandon() {
  given_up_.set();
  if (release_arbiter_) release_arbiter_();
  std::unique_lock lock(mutex_);
  cancel_connect();
  // What it sends now reaches nobody; it learns that its backup is gone, loses the claim and halts itself,
  // with all outputs that wait. Closing it before would release them.
  if (stream_) stream_->shutdown();
  changed_.wait_for(lock, std::chrono::seconds(5), [this] { return settled(); });
}

void ProtectionState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    cancel_connect();
  }
  auto found = primary();
  if (found) found->close();
  if (release_arbiter_) release_arbiter_();
  thread_.stop();
  // begin() may just have made it.
  found = primary();
  std::optional<HaView> last;
  if (found) {
    found->close();
    last = view_of(*found);
  }
  std::lock_guard lock(mutex_);
  if (last) last_ = std::move(*last);
  primary_ = nullptr;
  stream_ = nullptr;
  cancel_.reset();
}

// ---- BackupState

void BackupState::begin(const std::string& device, std::unique_ptr<wire::Channel> channel,
                        ha::BackupOptions options) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || given_up_.value()) closed("the backup");
  }
  options.arbiter = given_up_.wrap(std::move(options.arbiter));
  options.on_event = [mailbox = mailbox_](const ha::Event& event) { mailbox->event(event); };
  options.on_step = [mailbox = mailbox_](const char* step) { mailbox->step(step); };
  std::shared_ptr<ha::Backup> backup =
      ha::Backup::follow(kvm::System::open(device), std::move(channel), std::move(options));
  std::lock_guard lock(mutex_);
  backup_ = std::move(backup);
}

HaView BackupState::view() const {
  std::shared_ptr<ha::Backup> found;
  {
    std::lock_guard lock(mutex_);
    if (!backup_) return last_;
    found = backup_;
  }
  return view_of(*found);
}

std::shared_ptr<machine::Machine> BackupState::machine() {
  // Destroyed behind the lock.
  std::shared_ptr<ha::Backup> found;
  std::lock_guard lock(mutex_);
  found = backup_;
  if (!found) closed("the backup");
  auto machine = found->machine();
  if (found->state() != ha::State::kLive || !machine)
    throw Error("BAD_STATE", "the backup is not live: its machine is a replica that must not be used");
  given_out_ = true;
  if (shut_) backup_ = nullptr;
  return machine;
}

void BackupState::abandon() {
  given_up_.set();
  if (release_arbiter_) release_arbiter_();
}

void BackupState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  thread_.stop();
  std::shared_ptr<ha::Backup> found;
  {
    std::lock_guard lock(mutex_);
    found = backup_;
  }
  // It may have the claim already, and waits for the answer.
  if (found) found->close();
  if (release_arbiter_) release_arbiter_();
  if (!found) return;
  auto last = view_of(*found);
  std::lock_guard lock(mutex_);
  shut_ = true;
  if (last.state != ha::State::kLive || given_out_) backup_ = nullptr;
  last_ = std::move(last);
}

// ---- CallerState

std::unique_ptr<wire::Channel> CallerState::take() {
  std::lock_guard lock(mutex_);
  if (closed_ || !stream_) closed("the connection");
  return std::make_unique<wire::Channel>(std::make_unique<SharedStream>(std::exchange(stream_, nullptr)));
}

void CallerState::refuse(const std::string& code, const std::string& sentence) {
  std::shared_ptr<wire::Stream> stream;
  {
    std::lock_guard lock(mutex_);
    if (closed_ || !stream_) closed("the connection");
    stream = stream_;
  }
  wire::Channel channel(std::make_unique<SharedStream>(stream));
  try {
    // An answer before the question could be lost with the reset that closing then causes.
    channel.receive();
    channel.send(wire::FrameType::kRefuse, migrate::encode_refusal(code, sentence));
    while (channel.receive()) continue;
  } catch (const Error&) {
    // It is gone already.
  }
}

void CallerState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    if (stream_) stream_->shutdown();
  }
  thread_.stop();
  std::lock_guard lock(mutex_);
  stream_ = nullptr;
}

// ---- ListenerState

std::unique_ptr<wire::Stream> ListenerState::accept() {
  return accept_stream([mailbox = mailbox_](const std::string& why) {
    ha::Event refused;
    refused.code = "TLS_REFUSED";
    refused.message = why;
    mailbox->event(refused);
  });
}

}  // namespace hypertwin::addon
