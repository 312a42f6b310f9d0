// A machine under test: its events kept, its waits by event.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>

#include "base/error.h"
#include "machine/machine.h"
#include "machine/machine_memory.h"

namespace hypertwin::machine {

inline std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline Machine::Image guest_image(const std::string& name) {
  return {read_file(std::string(HYPERTWIN_GUEST_DIR) + "/" + name + ".elf"), {}};
}

// nullptr where KVM cannot be used; the test then skips.
inline std::shared_ptr<kvm::System> open_kvm() {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) return nullptr;
  return kvm::System::open();
}

#define NEED_KVM()           \
  auto system_ = open_kvm(); \
  if (!system_) GTEST_SKIP() << "no usable /dev/kvm"

// Makes the first thing that the guest of a created machine does a write to a port, and the second a halt for
// ever.
inline void write_port_first(VirtualMachine& machine, uint16_t port, uint8_t value) {
  const uint8_t code[] = {
      0x66, 0xba,  static_cast<uint8_t>(port), static_cast<uint8_t>(port >> 8),  // mov dx, port
      0xb0, value,                                                               // mov al, value
      0xee,                                                                      // out dx, al
      0xfa, 0xf4};                                                               // cli; hlt
  machine.write_memory(machine.vcpu_state(0).regs.rip, code);
}

class TestListener : public Listener {
 public:
  void on_state(State state, Reason reason, const std::string& message) override {
    std::lock_guard lock(mutex_);
    last_state_ = state;
    last_reason_ = reason;
    last_message_ = message;
    wake_.notify_all();
  }
  void on_packet(uint32_t, std::span<const uint8_t> packet) override {
    std::lock_guard lock(mutex_);
    packets_.emplace_back(packet.begin(), packet.end());
    wake_.notify_all();
  }
  void on_console(uint32_t, std::span<const uint8_t> bytes) override {
    std::lock_guard lock(mutex_);
    console_.append(bytes.begin(), bytes.end());
    wake_.notify_all();
  }
  void on_marker(uint32_t value) override {
    std::lock_guard lock(mutex_);
    markers_.push_back(value);
    wake_.notify_all();
  }

  template <class P>
  bool wait(P predicate, std::chrono::seconds limit = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return wake_.wait_for(lock, limit, predicate);
  }
  bool wait_state(State state) {
    bool there = false;
    wait([&] {
      there = last_state_ == state;
      return there || last_state_ == State::kFailed;
    });
    return there;
  }
  bool wait_console(const std::string& text) {
    bool there = false;
    wait([&] {
      there = console_.find(text) != std::string::npos;
      return there || last_state_ >= State::kStopped;
    });
    return there;
  }
  std::string console() {
    std::lock_guard lock(mutex_);
    return console_;
  }

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  State last_state_ = State::kCreated;
  Reason last_reason_ = Reason::kNone;
  std::string last_message_;
  std::string console_;
  std::vector<std::vector<uint8_t>> packets_;
  std::vector<uint32_t> markers_;
};

// A folder that goes with the test.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hypertwin-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A file whose pages come when they are let; where a page is named, that one alone waits for it.
class GatedPages final : public PageSource {
 public:
  explicit GatedPages(const std::string& path, std::optional<uint64_t> gated = std::nullopt)
      : file_(std::make_shared<SnapshotFile>(path)), gated_(gated) {}
  void read(uint64_t first, std::span<uint8_t> into, bool /*urgent*/) override {
    if (gated_ && (*gated_ < first || *gated_ - first >= into.size() / devices::kPageSize))
      return file_.read(first, into, true);
    std::unique_lock lock(mutex_);
    ++asked_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || cancelled_ || broken_; });
    if (cancelled_) throw Error("CANCELLED", "nobody waits any more");
    if (broken_) throw Error("EIO", "the source has gone");
    lock.unlock();
    file_.read(first, into, true);
  }
  bool here(uint64_t /*first*/, uint64_t /*pages*/) const override { return false; }
  void cancel() override { set(cancelled_); }
  void open() { set(open_); }
  void break_off() { set(broken_); }
  bool wait_asked() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [this] { return asked_ > 0; });
  }

 private:
  void set(bool& what) {
    std::lock_guard lock(mutex_);
    what = true;
    changed_.notify_all();
  }
  FilePages file_;
  const std::optional<uint64_t> gated_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int asked_ = 0;
  bool open_ = false, cancelled_ = false, broken_ = false;
};

}  // namespace hypertwin::machine
