// What a machine is made of: all that two machines must share for one to go on where the other was.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace hypertwin::machine {

enum class NetBackend : uint8_t {
  kQueue = 0,  // packets go to and come from the machine's owner, in this process
  kTap = 1,    // a tap interface of the host
};

struct NetConfig {
  std::array<uint8_t, 6> mac{0x52, 0x54, 0x00, 0x68, 0x74, 0x01};
  NetBackend backend = NetBackend::kQueue;
  std::string tap;  // interface name
  // Whether the kernel moves a tap's packets (vhost-net). Of the standard board; no part of a snapshot.
  enum class Vhost : uint8_t { kIfThere, kNever, kAlways };
  Vhost vhost = Vhost::kIfThere;
};

struct DiskConfig {
  std::string path;   // raw image, block device, or an NBD server's export by its URI
  uint64_t size = 0;  // bytes; read from the file when 0
  bool read_only = false;
  uint32_t reconnect_seconds = 60;  // of a server that is gone; no part of a snapshot

  // The image has `bytes`: the guest sees its whole sectors, or what was wanted of them. Throws
  // Error("BAD_CONFIG") when that is more.
  void settle(uint64_t bytes);
};

struct VsockConfig {
  uint64_t cid = 3;  // the guest's: 3 to 2^32 - 2
  std::string path;  // the UNIX socket of the host's side; see backends/vsock_unix.h
};

enum class BoardKind : uint8_t {
  kDeterministic = 0,  // one vCPU, every input at a boundary: can be recorded, replayed, mirrored
  kStandard = 1,       // several vCPUs, interrupt controllers and timers in the kernel: fast
};

// Guest physical addresses from here to 4 GiB are the devices'; RAM goes on above.
inline constexpr uint64_t kLowRamEnd = uint64_t{3} << 30;
inline constexpr uint64_t kHighRam = uint64_t{4} << 30;

struct MachineConfig {
  BoardKind board = BoardKind::kDeterministic;
  uint32_t vcpus = 1;
  uint64_t memory_size = 64u << 20;  // bytes, whole 4 KiB pages; deterministic: at most 3 GiB
  std::string command_line;
  std::vector<NetConfig> nets;
  std::vector<DiskConfig> disks;
  // Of the standard board, which has an entropy device too.
  bool console = false;  // virtio-console beside the serial port; console input goes there
  bool balloon = false;
  std::optional<VsockConfig> vsock;
  bool dirty_ring = false;  // create the VM with a dirty ring of this many entries
  uint32_t dirty_ring_entries = 4096;
  uint64_t wall_clock = 0;  // seconds since 1970 that the RTC starts from; the host's clock when 0

  void save(ByteWriter& out) const;
  static MachineConfig load(ByteReader& in);
  // Throws Error("BAD_CONFIG") that names the field, the value and the limit.
  void check() const;
};

}  // namespace hypertwin::machine
