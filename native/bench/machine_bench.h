// What the benchmarks of machines share: a listener, guests, a folder that goes away. Knows no test
// framework.
#pragma once

#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "machine/machine.h"

namespace hypertwin::bench {

inline machine::Machine::Image guest_image(const std::string& name) {
  std::ifstream in(std::string(HYPERTWIN_GUEST_DIR) + "/" + name + ".elf", std::ios::binary);
  if (!in) throw Error("BENCH", "the guest " + name + " is not built");
  return {{std::istreambuf_iterator<char>(in), {}}, {}};
}

class TempDir {
 public:
  explicit TempDir(const std::filesystem::path& where = std::filesystem::temp_directory_path()) {
    std::string pattern = (where / "hypertwin-bench-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw_errno("mkdtemp", "making a folder for the benchmark");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Keeps the console and the state.
class Watch : public machine::Listener {
 public:
  void on_state(machine::State state, machine::Reason, const std::string& message) override {
    std::lock_guard lock(mutex_);
    state_ = state;
    message_ = message;
    wake_.notify_all();
  }
  void on_console(uint32_t, std::span<const uint8_t> bytes) override {
    std::lock_guard lock(mutex_);
    console_.append(bytes.begin(), bytes.end());
    wake_.notify_all();
  }
  void wait_console(const std::string& text) {
    wait([&] { return console_.find(text) != std::string::npos; });
  }
  void wait_stopped() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return state_ >= machine::State::kStopped; });
    if (state_ == machine::State::kFailed) throw Error("BENCH", "the machine failed: " + message_);
  }

 protected:
  // Until `done`; throws when the machine ends before.
  template <class P>
  void wait(P done) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return done() || state_ >= machine::State::kStopped; });
    if (!done()) throw Error("BENCH", "the machine ended: " + message_ + console_);
  }

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  machine::State state_ = machine::State::kCreated;
  std::string message_, console_;
};

}  // namespace hypertwin::bench
