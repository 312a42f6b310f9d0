// What answers port I/O and MMIO exits natively: a table of address ranges, each with one simple behaviour.
// It knows no device; machines have their own loop upon Vcpu.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace hypertwin::kvm {

class ExitHandler {
 public:
  enum class Space { kPort, kMmio };
  enum class Action {
    kSink,      // takes every write, reads as all ones
    kConstant,  // takes every write, reads as `value`, little endian, repeated every 8 bytes
    kCounter,   // reads as the number of accesses so far
    kRam,       // bytes that keep what was written
  };
  struct Options {
    Space space = Space::kPort;
    uint64_t address = 0;
    uint64_t length = 1;
    Action action = Action::kSink;
    uint64_t value = 0;
  };
  // Throws Error("ERANGE") on an empty or wrapping range, a port above 0xffff or more than 1 MiB of kRam.
  explicit ExitHandler(const Options& options);

  const Options& options() const { return options_; }
  uint64_t last() const { return options_.address + (options_.length - 1); }
  // How many accesses it answered; any thread.
  uint64_t hits() const { return hits_.load(std::memory_order_relaxed); }
  // kRam's bytes, copied; throw Error("ERANGE").
  void read_ram(uint64_t offset, std::span<uint8_t> into) const;
  void write_ram(uint64_t offset, std::span<const uint8_t> from);

  // One access of 1 to 8 bytes that lies within the range.
  void access(uint64_t address, bool write, uint8_t* data, uint32_t size);

 private:
  Options options_;
  std::atomic<uint64_t> hits_{0};
  mutable std::mutex mutex_;  // guards ram_
  std::vector<uint8_t> ram_;
};

// Changed only while no vCPU runs with it.
class ExitHandlers {
 public:
  // Throws Error("EOVERLAP").
  std::shared_ptr<ExitHandler> add(const ExitHandler::Options& options);
  void remove(const std::shared_ptr<ExitHandler>& handler);
  // The handler whose range holds all `size` bytes from `address`; nullptr when none does.
  ExitHandler* find(ExitHandler::Space space, uint64_t address, uint32_t size) const;

 private:
  // Sorted by address; [0] ports, [1] MMIO.
  std::vector<std::shared_ptr<ExitHandler>> spaces_[2];
};

}  // namespace hypertwin::kvm
