// What every device of a machine is made of, and all that a device may ask of the world: its `Host`.
// A device knows no KVM, no log, no clock and no thread; all calls come on the vCPU's thread. Its state is a
// function of the guest's accesses and of the inputs handed to it, in order.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace hypertwin {
class ByteReader;
class ByteWriter;
}  // namespace hypertwin

namespace hypertwin::devices {

// Why the guest asked for an end.
enum class PowerEvent : uint8_t { kPowerOff = 1, kReset = 2 };

// A discard is a wish: what is read from there later may be anything. After kWriteZeroes it is zeros.
enum class BlockOperation : uint8_t { kRead = 0, kWrite = 1, kFlush = 2, kDiscard = 3, kWriteZeroes = 4 };

// One request as the device hands it out. The data of a write was copied from guest memory at the boundary
// at which the guest submitted it, unless `parts` says where it lies.
struct BlockRequest {
  uint64_t ordinal = 0;  // per device, from 0: names the request in completions and logs
  BlockOperation operation = BlockOperation::kRead;
  uint64_t offset = 0;        // bytes
  uint32_t size = 0;          // bytes, of all but a write and a flush
  std::vector<uint8_t> data;  // of a write
  bool durable = false;       // a write that must be on the medium when it completes
  bool unmap = false;         // of kWriteZeroes: the space may be given back
  // Of a read or write straight into or out of guest memory, `size` bytes; until it is completed.
  std::vector<iovec> parts = {};
};

// virtio-blk's status byte.
enum class BlockStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

// The machine, as its devices see it. Everything that leaves a device goes through here, so that it can be
// digested, held back, or dropped while replaying.
class Host {
 public:
  virtual ~Host() = default;
  // Virtual time in nanoseconds since the machine was created. Reading it is an input: it is logged.
  virtual uint64_t now() = 0;
  virtual void transmit(uint32_t device, std::span<const uint8_t> packet) = 0;
  // A network whose packets a thread of the host's moves: the guest has room for some that waited, or has
  // more to transmit than one notification's batch. Both queues are to be notified again.
  virtual void net_ready(uint32_t /*device*/) {}
  virtual void console_output(uint32_t device, std::span<const uint8_t> bytes) = 0;
  virtual void block_submit(uint32_t device, BlockRequest request) = 0;
  virtual void power(PowerEvent event) = 0;
};

class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void set(bool level) = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  // Stable, unique within a machine ("pic", "serial0", "net0"): names its section in snapshots.
  virtual std::string_view name() const = 0;
  virtual void save(ByteWriter& out) const = 0;
  // Hostile input: throws Error("CORRUPT") and leaves the device usable for nothing but destruction.
  virtual void load(ByteReader& in) = 0;
};

// The ports that a PortDevice answers; an access belongs to the range in which it starts.
struct PortRange {
  uint16_t first;
  uint16_t count;
};

class PortDevice {
 public:
  virtual ~PortDevice() = default;
  // size is 1, 2 or 4. Reads of what is not there give all ones.
  virtual uint32_t port_read(uint16_t port, unsigned size) = 0;
  virtual void port_write(uint16_t port, unsigned size, uint32_t value) = 0;
};

class MmioDevice {
 public:
  virtual ~MmioDevice() = default;
  // size is 1, 2, 4 or 8.
  virtual uint64_t mmio_read(uint64_t address, unsigned size) = 0;
  virtual void mmio_write(uint64_t address, unsigned size, uint64_t value) = 0;
};

// A device with timers. Virtual time moves only by advance().
class TimedDevice {
 public:
  virtual ~TimedDevice() = default;
  // Virtual time of the next thing to happen by itself; none when nothing will.
  virtual std::optional<uint64_t> deadline() const = 0;
  // Time is now `now` (never less than before): do all that is due.
  virtual void advance(uint64_t now) = 0;
};

}  // namespace hypertwin::devices
