// What the streams of this folder share: connected sockets, deadlines, and waiting that can be cancelled.
// Internal to native/core/wire.
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "wire/stream.h"

namespace hypertwin::wire {

using Deadline = std::chrono::steady_clock::time_point;

// Waits until `fd` is ready for `events`. Throws Error: TIMEOUT after `deadline`, CANCELLED when `cancel`
// (or -1) is readable; both say what `attempted` was.
void wait_ready(int fd, short events, Deadline deadline, int cancel, const std::string& attempted);

// Error("PEER_LOST") from errno.
[[noreturn]] void throw_lost(const char* call, const std::string& peer);

// A connected stream socket, blocking.
class SocketStream : public Stream {
 public:
  SocketStream(Fd socket, std::string peer) : socket_(std::move(socket)), peer_(std::move(peer)) {}
  size_t read(std::span<uint8_t> into) override;
  void write(std::span<const std::span<const uint8_t>> parts) override;
  void shutdown() noexcept override;
  bool ended() const noexcept override;
  std::string peer() const override { return peer_; }
  int fd() const { return socket_.get(); }

 private:
  Fd socket_;
  std::string peer_;
};

}  // namespace hypertwin::wire
