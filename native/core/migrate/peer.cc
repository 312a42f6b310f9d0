#include "migrate/peer.h"

#include <pthread.h>

#include <algorithm>

#include "base/clock.h"
#include "migrate/payloads.h"

namespace hypertwin::migrate {

Peer::~Peer() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

void Peer::arm(Clock::time_point& deadline, std::chrono::milliseconds after) {
  std::lock_guard lock(mutex_);
  deadline = Clock::now() + after;
  if (!watcher_.joinable()) watcher_ = std::thread([this] { watch(); });
  changed_.notify_all();
}

void Peer::disarm(Clock::time_point& deadline) {
  std::lock_guard lock(mutex_);
  deadline = kNever;
}

void Peer::limit_sends(std::chrono::milliseconds patience) {
  std::lock_guard lock(mutex_);
  patience_ = patience;
  if (!watcher_.joinable()) watcher_ = std::thread([this] { watch(); });
  changed_.notify_all();
}

void Peer::condemn(std::chrono::milliseconds grace) { arm(condemned_, grace); }
void Peer::forgive() { disarm(condemned_); }

void Peer::watch() {
  pthread_setname_np(pthread_self(), "ht-mig-watch");
  std::unique_lock lock(mutex_);
  while (!ended_) {
    const auto deadline = std::min(silence_, condemned_);
    if (patience_.count() > 0) {
      const uint64_t since = channel_.writing_since_ns();
      if (since != 0 &&
          now_ns() - since > static_cast<uint64_t>(std::chrono::nanoseconds(patience_).count())) {
        deaf_ = true;
        channel_.close();
        return;
      }
      const auto look = Clock::now() + patience_ / 4;
      if (look < deadline) {
        changed_.wait_until(lock, look);
        continue;
      }
    }
    if (deadline == kNever) {
      changed_.wait(lock);
    } else if (Clock::now() < deadline) {
      changed_.wait_until(lock, deadline);
    } else {
      if (silence_ == deadline) silent_ = true;
      silence_ = condemned_ = kNever;
      channel_.close();
    }
  }
}

void Peer::refused_by(const wire::Frame& frame, const char* code) {
  Refusal refusal = decode_refusal(frame.payload);
  throw Error(code, "the " + std::string(name_) + " says: " + refusal.code + ": " + refusal.message);
}

wire::Frame Peer::receive(std::initializer_list<wire::FrameType> expected, std::chrono::milliseconds patience,
                          const char* refused) {
  std::optional<wire::Frame> frame;
  if (patience.count() > 0) arm(silence_, patience);
  try {
    frame = channel_.receive();
  } catch (const Error& error) {
    disarm(silence_);
    std::lock_guard lock(mutex_);
    if (error.code() == "PEER_LOST" && silent_)
      throw Error("PEER_LOST", "the " + std::string(name_) + " (" + channel_.peer() + ") kept silent for " +
                                   std::to_string(patience.count()) + " ms");
    throw;
  }
  disarm(silence_);
  if (!frame) throw Error("PEER_LOST", "the " + std::string(name_) + " closed the connection");
  if (frame->type == wire::FrameType::kRefuse || frame->type == wire::FrameType::kAbort) {
    try {
      refused_by(*frame, refused);
    } catch (const Error& error) {
      if (error.code() != "CORRUPT") throw;
      throw Error("PROTOCOL", error.what());
    }
  }
  if (std::find(expected.begin(), expected.end(), frame->type) == expected.end())
    throw Error("PROTOCOL", "the " + std::string(name_) + " sent " + wire::frame_name(frame->type) +
                                " where it has no place");
  return *frame;
}

void Peer::send(wire::FrameType type, std::span<const uint8_t> payload, const char* refused) {
  try {
    channel_.send(type, payload);
  } catch (const Error& error) {
    if (error.code() != "PEER_LOST") throw;
    {
      std::lock_guard lock(mutex_);
      if (deaf_)
        throw Error("PEER_LOST", "the " + std::string(name_) + " (" + channel_.peer() +
                                     ") has taken nothing in for " + std::to_string(patience_.count()) +
                                     " ms");
    }
    try {
      while (auto frame = channel_.receive())
        if (frame->type == wire::FrameType::kRefuse || frame->type == wire::FrameType::kAbort)
          refused_by(*frame, refused);
    } catch (const Error& words) {
      if (words.code() == refused) throw;
    }
    throw error;
  }
}

bool Peer::tell(wire::FrameType type, const Error& error) noexcept {
  try {
    channel_.send(type, encode_refusal(error.code(), error.what()));
    return true;
  } catch (const std::exception&) {
    // It hears of it by the connection's end.
    return false;
  }
}

}  // namespace hypertwin::migrate
