#include "eventlog_state.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "log/source.h"

namespace hypertwin::addon {

// ---- RecordingState

void RecordingState::adopt(std::shared_ptr<replay::Recording> recording) {
  std::lock_guard lock(mutex_);
  recording_ = std::move(recording);
}

std::shared_ptr<replay::Recording> RecordingState::open() const {
  std::lock_guard lock(mutex_);
  if (!recording_) throw Error("CLOSED", "the recording is closed");
  return recording_;
}

void RecordingState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  thread_.stop();
  std::shared_ptr<replay::Recording> last;
  {
    std::lock_guard lock(mutex_);
    last = std::move(recording_);
    recording_ = nullptr;
  }
}

// ---- Batch

namespace {

void put_digest(std::vector<uint8_t>& out, const Digest128& digest) {
  for (uint64_t half : {digest.hi, digest.lo})
    for (int shift = 56; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(half >> shift));
}

}  // namespace

void Batch::add(const log::Record& record) {
  uint64_t values[3] = {};
  size_t before = bytes.size();
  size_t second = 0;
  auto append = [this](const auto& from) {
    const auto* data = reinterpret_cast<const uint8_t*>(from.data());
    bytes.insert(bytes.end(), data, data + from.size() * sizeof(*from.data()));
  };
  std::visit(
      [&](const auto& body) {
        using T = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<T, log::Time>) {
          values[0] = body.ns;
        } else if constexpr (std::is_same_v<T, log::PacketRx> || std::is_same_v<T, log::ConsoleRx> ||
                             std::is_same_v<T, log::Entropy>) {
          values[0] = body.device;
          append(body.bytes);
        } else if constexpr (std::is_same_v<T, log::BlockCompletion>) {
          values[0] = body.device;
          values[1] = body.request;
          values[2] = body.status;
          append(body.data);
        } else if constexpr (std::is_same_v<T, log::Interrupt>) {
          values[0] = body.vector;
        } else if constexpr (std::is_same_v<T, log::Check>) {
          put_digest(bytes, body.rolling);
          append(body.prefixes);
          append(body.registers);
          second = body.registers.size();
        } else if constexpr (std::is_same_v<T, log::StateDigest>) {
          put_digest(bytes, body.memory);
          put_digest(bytes, body.devices);
          put_digest(bytes, body.vcpu);
        } else if constexpr (std::is_same_v<T, log::Marker>) {
          append(body.text);
          append(body.annotation);
          second = body.annotation.size();
        } else if constexpr (std::is_same_v<T, log::End>) {
          values[0] = body.reason;
        } else if constexpr (std::is_same_v<T, log::Lifecycle>) {
          values[0] = body.request;
        } else if constexpr (!std::is_same_v<T, log::Output>) {
          append(body.bytes);
        }
      },
      record.body);
  numbers.insert(numbers.end(), {record.kind(), record.after_gap, record.index, record.boundary, values[0],
                                 values[1], values[2], bytes.size() - before - second, second});
}

// ---- ReaderState

ReaderState::ReaderState(std::string directory, log::ReaderOptions options, uint64_t from) {
  thread_.post([this, directory = std::move(directory), options, from] {
    try {
      pump(directory, options, from);
    } catch (...) {
      std::lock_guard lock(mutex_);
      batch_.error = std::current_exception();
      tell();
    }
  });
}

void ReaderState::tell() {
  for (auto& news : std::exchange(news_, {})) news();
}

void ReaderState::pump(const std::string& directory, log::ReaderOptions options, uint64_t from) {
  auto reader = log::Reader::open(directory, options);
  {
    std::lock_guard lock(mutex_);
    if (closing_) reader->cancel();
    reading_ = reader.get();
  }
  struct Forget {
    ReaderState& self;
    ~Forget() {
      std::lock_guard lock(self.mutex_);
      self.reading_ = nullptr;
    }
  } forget{*this};
  if (from > 0) reader->seek(from);
  size_t damages = 0;
  for (;;) {
    auto record = reader->next();
    std::unique_lock lock(mutex_);
    for (; damages < reader->damages().size(); ++damages)
      batch_.damages.push_back({batch_.records(), reader->damages()[damages]});
    if (record)
      batch_.add(*record);
    else
      batch_.stop = closing_ ? log::Stop::kCancelled : reader->stop();
    tell();
    if (!record) return;
    room_.wait(lock, [this] {
      return closing_ || (batch_.bytes.size() < kAhead && batch_.records() < kRecordsAhead);
    });
    if (closing_) {
      batch_.stop = log::Stop::kCancelled;
      tell();
      return;
    }
  }
}

Batch ReaderState::take() {
  std::lock_guard lock(mutex_);
  room_.notify_one();
  return std::exchange(batch_, {});
}

bool ReaderState::ready(std::function<void()> news) {
  std::lock_guard lock(mutex_);
  if (!batch_.empty()) return true;
  news_.push_back(std::move(news));
  return false;
}

void ReaderState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    if (reading_) reading_->cancel();
  }
  room_.notify_one();
  thread_.stop();
  std::lock_guard lock(mutex_);
  if (batch_.stop == log::Stop::kNone) batch_.stop = log::Stop::kCancelled;
  tell();
}

// ---- LogState

void LogState::read_header() { header_ = log::Reader::open(directory_)->header(); }

void LogState::check_open() const {
  std::lock_guard lock(mutex_);
  if (closed_) throw Error("CLOSED", "the log is closed");
}

void LogState::attach(const std::shared_ptr<Closable>& reader) {
  std::lock_guard lock(mutex_);
  std::erase_if(readers_, [](const auto& weak) { return weak.expired(); });
  readers_.push_back(reader);
}

log::VerifyReport LogState::verify() { return log::verify(log::open_directory(directory_)); }

void LogState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  std::vector<std::weak_ptr<Closable>> readers;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    readers.swap(readers_);
  }
  for (auto& weak : readers)
    if (auto reader = weak.lock()) reader->shutdown();
  thread_.stop();
}

// ---- ConsoleTail

void ConsoleTail::on_console(uint32_t, std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  if (bytes_.size() > 2 * kBytes) bytes_.erase(bytes_.begin(), bytes_.end() - kBytes);
}

std::vector<uint8_t> ConsoleTail::take() const {
  std::lock_guard lock(mutex_);
  return {bytes_.size() > kBytes ? bytes_.end() - kBytes : bytes_.begin(), bytes_.end()};
}

void ConsoleTail::clear() {
  std::lock_guard lock(mutex_);
  bytes_.clear();
}

// ---- ReplayState

void ReplayState::adopt(std::shared_ptr<replay::Replay> replay, std::optional<uint64_t> last) {
  std::lock_guard lock(mutex_);
  replay_ = std::move(replay);
  last_ = last;
}

std::shared_ptr<replay::Replay> ReplayState::open() const {
  std::lock_guard lock(mutex_);
  if (!replay_) throw Error("CLOSED", "the replay is closed");
  return replay_;
}

replay::ReplayResult ReplayState::run(std::optional<uint64_t> to, bool back) {
  auto replay = open();
  {
    std::lock_guard lock(mutex_);
    if (closing_) throw Error("CLOSED", "the replay is closed");
    running_ = true;
  }
  struct Done {
    ReplayState& self;
    ~Done() {
      std::lock_guard lock(self.mutex_);
      self.running_ = false;
      self.idle_.notify_all();
    }
  } done{*this};
  if (!back || !to) return replay->run(to);
  // What the console shows again comes from the start again.
  if (*to >= replay->first_boundary() && *to < replay->boundary()) console_->clear();
  return replay->seek(*to);
}

void ReplayState::cancel() { open()->cancel(); }

void ReplayState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  std::shared_ptr<replay::Replay> replay;
  {
    std::unique_lock lock(mutex_);
    closing_ = true;
    replay = replay_;
    // A run that is about to resume its machine does not hear of one cancel().
    while (running_) {
      lock.unlock();
      replay->cancel();
      lock.lock();
      idle_.wait_for(lock, std::chrono::milliseconds(20), [this] { return !running_; });
    }
  }
  thread_.stop();
  std::lock_guard lock(mutex_);
  replay_ = nullptr;
}

}  // namespace hypertwin::addon
