// What every machine of ours is, whatever its board: its states, its inputs, its memory.
//
//   created --start--> running <--pause/resume--> paused
//   any of these --stop or the guest's power-off--> stopped;  --error--> failed
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>

#include "backends/disk.h"
#include "base/digest.h"
#include "devices/device.h"
#include "devices/guest_ram.h"
#include "kvm/kvm.h"
#include "machine/config.h"
#include "machine/machine_memory.h"
#include "machine/snapshots.h"
#include "machine/vcpu_state.h"

namespace hypertwin::machine {

enum class State : uint8_t { kCreated, kRunning, kPaused, kStopped, kFailed };

enum class Reason : uint8_t {
  kNone,
  kRequested,      // pause(), stop()
  kPowerOff,       // the guest's wish
  kReset,          // the guest's wish; the machine stops
  kHalted,         // the guest halted with interrupts off: nothing can wake it
  kTripleFault,    // KVM_EXIT_SHUTDOWN
  kError,          // a failed call, an internal error of KVM
  kBoundary,       // the boundary asked for was reached
  kLogEnd,         // replay: nothing more in the log
  kDiverged,       // replay: the guest strayed from the log
  kCaptureFailed,  // recording: the log cannot be written
  kMigrated,       // it runs on another host now
  kInDoubt,        // it may run on another host: see MIGRATION_IN_DOUBT
  kHandedOver,     // its backup took over, as planned
  kFenced,         // its backup or primary took over: this side must not run it
  kUnprotected,    // its backup is lost, and the policy is to stop
  kBreakpoint,     // a vCPU came to one while the machine was debugged; the message names it
};

// How a machine ends.
struct End {
  State state;
  Reason reason;
  std::string message;
};
// By its guest's wish.
End end_of(devices::PowerEvent event);

// What a machine tells its owner. Called on a thread of the machine, which waits: be brief, never call back.
// Outputs that were held come on the thread that lets them out, never two of one device at once.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_state(State state, Reason reason, const std::string& message) = 0;
  virtual void on_packet(uint32_t /*device*/, std::span<const uint8_t> /*packet*/) {}
  virtual void on_console(uint32_t /*device*/, std::span<const uint8_t> /*bytes*/) {}
  virtual void on_marker(uint32_t /*value*/) {}
  // Of the host's side alone: no guest and no log learns of it. On a thread of the disk's.
  virtual void on_disk(uint32_t /*device*/, const backends::DiskNotice& /*notice*/) {}
};

// Tells it, whichever disk of a machine it is of.
inline backends::Disk::OnNotice disk_notices(std::shared_ptr<Listener> listener, size_t device) {
  if (!listener) return {};
  return [listener = std::move(listener), device](const backends::DiskNotice& notice) {
    listener->on_disk(static_cast<uint32_t>(device), notice);
  };
}

struct Counters {
  uint64_t boundaries = 0;  // of the deterministic board
  uint64_t interrupts = 0;  // that this process injected or signalled
  uint64_t port_exits = 0;
  uint64_t mmio_exits = 0;
  uint64_t halt_exits = 0;
  uint64_t packets_in = 0;
  uint64_t packets_out = 0;
  uint64_t disk_requests = 0;
  uint64_t kicks = 0;  // returns that no instruction of the guest caused
};
// One that a single thread counts, and others read.
inline void bump(std::atomic<uint64_t>& counter) {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

// When the file is checked that a machine is restored from.
enum class Verify : uint8_t {
  kBefore,  // first: the machine exists only if all is right
  kBehind,  // while the machine runs already; it fails when something is wrong
};

struct RestoreOptions {
  // May change backends, and addresses of network devices.
  std::function<void(MachineConfig&)> adjust{};
  Verify verify = Verify::kBefore;
  // Where a full snapshot's memory is brought from while the machine runs, in place of mapping its file.
  std::shared_ptr<PageSource> pages{};
  Pager::Options paging{};
};

// The configuration of a machine that is restored, which is next in `in`. Throws Error: what `adjust` throws,
// CORRUPT.
MachineConfig restored_config(ByteReader& in, const SnapshotFile& file, const RestoreOptions& options);
// The memory of a machine that is restored from `chain`.
std::unique_ptr<MachineMemory> restored_memory(SnapshotChain chain, const RestoreOptions& options);

// The digests of all that a machine is.
struct StateDigest {
  uint64_t boundary = 0;
  Digest128 vcpu;
  Digest128 devices;
  Digest128 memory;
  // Of the three.
  Digest128 combined() const;
  bool operator==(const StateDigest&) const = default;
};

class VirtualMachine {
 public:
  virtual ~VirtualMachine() = default;

  // Any thread but the machine's own. Throw Error("BAD_STATE") naming the state and what is possible in it.
  virtual void start() = 0;
  virtual void pause() = 0;
  virtual void resume() = 0;
  virtual void stop() = 0;
  virtual State state() const = 0;
  virtual Reason reason() const = 0;
  virtual std::string message() const = 0;

  // Inputs, any thread. False when there is no room: try again later.
  virtual bool send_packet(uint32_t device, std::span<const uint8_t> packet) = 0;
  virtual bool send_console(std::span<const uint8_t> bytes) = 0;

  // Written whole or not at all. The machine waits meanwhile. Throws as Snapshots::write(), and BAD_STATE
  // while it is debugged.
  virtual SnapshotInfo snapshot(const std::string& path, const SnapshotOptions& options = {}) = 0;
  // Of the machine as it would be in a snapshot, which waits meanwhile.
  virtual StateDigest state_digest() = 0;
  // Throws Error("ERANGE").
  virtual VcpuState vcpu_state(size_t index) = 0;
  // How many came; 0 on a board that has none.
  virtual uint64_t boundary() const { return 0; }
  // Copies; the machine need not be paused. Throw Error("ERANGE").
  void read_memory(uint64_t address, std::span<uint8_t> into) const;
  // write_memory() also throws Error("BAD_STATE"), where a log would not hold it, and where memory is frozen.
  void write_memory(uint64_t address, std::span<const uint8_t> from);
  // Until the lock is gone write_memory() throws Error("BAD_STATE"): what is copied stays as it is.
  [[nodiscard]] std::unique_lock<std::shared_mutex> freeze_memory() const {
    return std::unique_lock(frozen_);
  }
  // Whether what is RAM of [address, address + size) has come, where memory comes while the machine runs.
  bool memory_here(uint64_t address, uint64_t size) const;
  // Asks for it; waits for nothing.
  void want_memory(uint64_t address, uint64_t size) const;

  // ---- Debugging. All but set_debugging() throw Error("BAD_STATE") unless the machine stands still.
  // While it is on, an int3 of the guest pauses the machine, with kBreakpoint; the guest never sees it. One
  // debugger at a time: Error("BAD_STATE").
  virtual void set_debugging(bool on) = 0;
  // Executes instructions of that vCPU, at most `most`, until it is to execute one at an address of `until`;
  // the others and the time stand still. An instruction that waits for an interrupt is given up after a
  // moment, and ends this. How many it executed.
  virtual uint64_t step(size_t vcpu, uint64_t most, std::span<const uint64_t> until) = 0;
  virtual void set_registers(size_t vcpu, const kvm_regs& regs) = 0;
  // The guest physical address of a linear one as that vCPU sees it; none where it is not mapped.
  virtual std::optional<uint64_t> translate(size_t vcpu, uint64_t linear) = 0;

  virtual Counters counters() const = 0;
  // Whether the kernel moves this network's packets at this moment; counters() knows nothing of those.
  virtual bool kernel_serves(uint32_t /*net*/) const { return false; }
  virtual const MachineConfig& config() const = 0;
  virtual const std::shared_ptr<kvm::Vm>& vm() const = 0;
  virtual size_t vcpus() const = 0;
  // The kernel's id of a vCPU's thread, which lives as long as the machine. Any thread.
  virtual pid_t vcpu_thread(size_t i) const = 0;
  virtual const std::shared_ptr<kvm::Vcpu>& vcpu(size_t i) const = 0;
  virtual const std::shared_ptr<devices::GuestRam>& ram() const = 0;
  virtual const MachineMemory& memory() const = 0;
  virtual Snapshots& snapshots() = 0;

 protected:
  // What a snapshot keeps of the guest's wish, done or pending: a machine that the guest has ended ends again
  // when it is restored and resumed.
  std::optional<devices::PowerEvent> saved_power_event(std::optional<devices::PowerEvent> pending) const;

  // Throws Error("BAD_STATE") when write_memory() is not to be. Memory is not frozen meanwhile.
  virtual void check_writable() const {}
  // Throw Error("ERANGE").
  void check_vcpu(size_t index) const;
  void check_packet(uint32_t device, std::span<const uint8_t> packet) const;
  static void check_console(std::span<const uint8_t> bytes);

 private:
  mutable std::shared_mutex frozen_;  // shared: write_memory()
};

// Throws Error("BAD_STATE"): `verb` is not possible now.
[[noreturn]] void bad_state(State state, const char* verb);

std::string_view state_name(State state);
std::string_view reason_name(Reason reason);

}  // namespace hypertwin::machine
