// What stands behind the event-log handles: a recording, a log, a reader of it, a replay, each with a thread
// of its own. No JavaScript here.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/executor.h"
#include "log/reader.h"
#include "machine_state.h"
#include "replay/recorder.h"
#include "replay/replayer.h"

namespace hypertwin::addon {

// A recording with its thread `ht-record`, on which the calls that block are made.
class RecordingState final : public Closable {
 public:
  ~RecordingState() override { shutdown(); }
  base::Executor& thread() { return thread_; }
  // On thread().
  void adopt(std::shared_ptr<replay::Recording> recording);
  // Throws Error("CLOSED").
  std::shared_ptr<replay::Recording> open() const;
  // Set by the log's writer.
  const std::shared_ptr<std::atomic<uint64_t>>& durable() const { return durable_; }
  void shutdown() override;

 private:
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards recording_
  std::shared_ptr<replay::Recording> recording_;
  std::shared_ptr<std::atomic<uint64_t>> durable_ = std::make_shared<std::atomic<uint64_t>>(0);
  base::Executor thread_{"ht-record"};
};

// Records as numbers and bytes, to cross to JavaScript in one piece; lib/eventlog/records.ts reads them.
struct Batch {
  struct Damaged {
    size_t before = 0;  // the record of the batch that it comes before
    log::Damage damage;
  };
  std::vector<uint64_t> numbers;
  std::vector<uint8_t> bytes;
  std::vector<Damaged> damages;
  log::Stop stop = log::Stop::kNone;
  std::exception_ptr error;

  static constexpr size_t kNumbers = 9;
  size_t records() const { return numbers.size() / kNumbers; }
  bool empty() const { return numbers.empty() && damages.empty() && stop == log::Stop::kNone && !error; }
  void add(const log::Record& record);
};

// Reads ahead on a thread of its own, `ht-read`, a bounded number of bytes.
class ReaderState final : public Closable {
 public:
  static constexpr size_t kAhead = 1u << 20;
  static constexpr size_t kRecordsAhead = 8192;

  // `news` is called on the thread when somebody waits and there is something to take.
  ReaderState(std::string directory, log::ReaderOptions options, uint64_t from);
  ~ReaderState() override { shutdown(); }
  Batch take();
  // True when there is something to take; else `news` is called, once, when there is.
  bool ready(std::function<void()> news);
  void shutdown() override;

 private:
  void pump(const std::string& directory, log::ReaderOptions options, uint64_t from);
  void tell();

  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  std::mutex mutex_;           // guards all below
  std::condition_variable room_;
  Batch batch_;
  std::vector<std::function<void()>> news_;
  log::Reader* reading_ = nullptr;
  bool closing_ = false;
  base::Executor thread_{"ht-read"};
};

// A log that is looked at, with its thread `ht-log-look`.
class LogState final : public Closable {
 public:
  explicit LogState(std::string directory) : directory_(std::move(directory)) {}
  ~LogState() override { shutdown(); }
  base::Executor& thread() { return thread_; }
  const std::string& directory() const { return directory_; }
  // On thread().
  void read_header();
  const log::LogHeader& header() const { return header_; }
  // Throws Error("CLOSED").
  void check_open() const;
  void attach(const std::shared_ptr<Closable>& reader);
  log::VerifyReport verify();
  void shutdown() override;

 private:
  const std::string directory_;
  log::LogHeader header_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards all below
  std::vector<std::weak_ptr<Closable>> readers_;
  bool closed_ = false;
  base::Executor thread_{"ht-log-look"};
};

// What a replayed guest wrote to its console: the end of it.
class ConsoleTail final : public machine::Listener {
 public:
  static constexpr size_t kBytes = 1u << 20;
  void on_state(machine::State, machine::Reason, const std::string&) override {}
  void on_console(uint32_t device, std::span<const uint8_t> bytes) override;
  std::vector<uint8_t> take() const;
  void clear();

 private:
  mutable std::mutex mutex_;  // guards bytes_
  std::vector<uint8_t> bytes_;
};

// A replay with its thread `ht-replay`, on which it runs.
class ReplayState final : public Closable {
 public:
  ~ReplayState() override { shutdown(); }
  base::Executor& thread() { return thread_; }
  const std::shared_ptr<ConsoleTail>& console() const { return console_; }
  // On thread(), as run().
  void adopt(std::shared_ptr<replay::Replay> replay, std::optional<uint64_t> last);
  replay::ReplayResult run(std::optional<uint64_t> to, bool back);
  // Throws Error("CLOSED").
  std::shared_ptr<replay::Replay> open() const;
  std::optional<uint64_t> last_boundary() const { return last_; }
  // Any thread: ends the run that goes on, or the next one.
  void cancel();
  void shutdown() override;

 private:
  const std::shared_ptr<ConsoleTail> console_ = std::make_shared<ConsoleTail>();
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards replay_, running_
  std::condition_variable idle_;
  std::shared_ptr<replay::Replay> replay_;
  bool running_ = false;
  bool closing_ = false;
  std::optional<uint64_t> last_;
  base::Executor thread_{"ht-replay"};
};

}  // namespace hypertwin::addon
