// What every listener's handle holds: a socket that listens, and the thread that waits at it. No JavaScript.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/executor.h"
#include "machine_state.h"
#include "wire/stream.h"

namespace hypertwin::addon {

// The last class's destructor calls shutdown(): what runs on thread() uses its members.
class Listening : public Closable {
 public:
  base::Executor& thread() { return thread_; }
  // Throws Error("CLOSED").
  std::string address() const;
  void shutdown() override;

 protected:
  explicit Listening(const std::string& thread) : thread_(thread) {}

  // On thread(), both. Throws Error("CLOSED").
  void listen(const wire::Address& address, std::optional<wire::TlsOptions> tls);
  // nullptr once it is closed. `refused` is told why somebody was turned away.
  std::unique_ptr<wire::Stream> accept_stream(const std::function<void(const std::string&)>& refused);

 private:
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards the two below
  std::shared_ptr<wire::Listener> listener_;
  bool closed_ = false;
  base::Executor thread_;
};

}  // namespace hypertwin::addon
