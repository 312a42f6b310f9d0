#include "listening.h"

#include <utility>

#include "base/error.h"

namespace hypertwin::addon {

namespace {
[[noreturn]] void closed() { throw Error("CLOSED", "the listener is closed"); }
}  // namespace

void Listening::listen(const wire::Address& address, std::optional<wire::TlsOptions> tls) {
  auto listener = std::make_shared<wire::Listener>(address, std::move(tls));
  std::lock_guard lock(mutex_);
  if (closed_) closed();
  listener_ = std::move(listener);
}

std::unique_ptr<wire::Stream> Listening::accept_stream(
    const std::function<void(const std::string&)>& refused) {
  std::shared_ptr<wire::Listener> listener;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return nullptr;
    listener = listener_;
  }
  return listener ? listener->accept(refused) : nullptr;
}

std::string Listening::address() const {
  std::lock_guard lock(mutex_);
  if (!listener_ || closed_) closed();
  return listener_->address().text();
}

void Listening::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    if (listener_) listener_->close();
  }
  thread_.stop();
  std::lock_guard lock(mutex_);
  listener_ = nullptr;
}

}  // namespace hypertwin::addon
