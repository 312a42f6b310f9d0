#include "machine/config.h"

#include "base/error.h"

namespace hypertwin::machine {

namespace {
constexpr uint64_t kMaxMemory = uint64_t{1} << 40;
constexpr uint32_t kMaxVcpus = 254;  // as many as have an 8-bit APIC id
constexpr uint64_t kMinMemory = uint64_t{2} << 20;
constexpr size_t kMaxDevices = 8;
constexpr uint8_t kVersion = 1;          // of the deterministic board
constexpr uint8_t kStandardVersion = 2;  // with the number of vCPUs and further devices
constexpr uint8_t kHasConsole = 1, kHasBalloon = 2, kHasVsock = 4;

[[noreturn]] void bad(const std::string& message) { throw Error("BAD_CONFIG", message); }
}  // namespace

void DiskConfig::settle(uint64_t bytes) {
  const uint64_t whole = bytes & ~uint64_t{511};
  if (size == 0) size = whole;
  if (size > whole)
    bad("the disk image " + path + " has " + std::to_string(whole) + " bytes, less than the " +
        std::to_string(size) + " the machine had");
}

void MachineConfig::save(ByteWriter& out) const {
  const bool standard = board == BoardKind::kStandard;
  out.u8(standard ? kStandardVersion : kVersion);
  if (standard) {
    out.u8(static_cast<uint8_t>(vcpus));
    out.u8(static_cast<uint8_t>((console ? kHasConsole : 0) | (balloon ? kHasBalloon : 0) |
                                (vsock ? kHasVsock : 0)));
    if (vsock) {
      out.u64(vsock->cid);
      out.text(vsock->path);
    }
  }
  out.u64(memory_size);
  out.text(command_line);
  out.u64(wall_clock);
  out.u8(static_cast<uint8_t>(nets.size()));
  for (const auto& net : nets) {
    out.raw(net.mac);
    out.u8(static_cast<uint8_t>(net.backend));
    out.text(net.tap);
  }
  out.u8(static_cast<uint8_t>(disks.size()));
  for (const auto& disk : disks) {
    out.text(disk.path);
    out.u64(disk.size);
    out.u8(disk.read_only);
  }
}

MachineConfig MachineConfig::load(ByteReader& in) {
  const uint8_t version = in.u8();
  if (version != kVersion && version != kStandardVersion)
    throw Error("CORRUPT", "the machine's configuration has an unknown version");
  MachineConfig config;
  if (version == kStandardVersion) {
    config.board = BoardKind::kStandard;
    config.vcpus = in.u8();
    const uint8_t devices = in.u8();
    if (devices & ~(kHasConsole | kHasBalloon | kHasVsock)) in.corrupt("unknown devices");
    config.console = devices & kHasConsole;
    config.balloon = devices & kHasBalloon;
    if (devices & kHasVsock) {
      config.vsock.emplace();
      config.vsock->cid = in.u64();
      config.vsock->path = in.text(4096);
    }
  }
  config.memory_size = in.u64();
  config.command_line = in.text(4096);
  config.wall_clock = in.u64();
  size_t nets = in.u8();
  if (nets > kMaxDevices) in.corrupt("too many network devices");
  for (size_t i = 0; i < nets; ++i) {
    NetConfig net;
    auto mac = in.raw(6);
    std::copy(mac.begin(), mac.end(), net.mac.begin());
    net.backend = static_cast<NetBackend>(in.u8());
    if (net.backend > NetBackend::kTap) in.corrupt("unknown network backend");
    net.tap = in.text(64);
    config.nets.push_back(std::move(net));
  }
  size_t disks = in.u8();
  if (disks > kMaxDevices) in.corrupt("too many disks");
  for (size_t i = 0; i < disks; ++i) {
    DiskConfig disk;
    disk.path = in.text(4096);
    disk.size = in.u64();
    disk.read_only = in.u8() != 0;
    config.disks.push_back(std::move(disk));
  }
  config.check();
  return config;
}

void MachineConfig::check() const {
  if (memory_size % 4096)
    bad("memory of " + std::to_string(memory_size) + " bytes is not a whole number of 4096-byte pages");
  const bool standard = board == BoardKind::kStandard;
  if (memory_size < kMinMemory || memory_size > (standard ? kMaxMemory : kLowRamEnd))
    bad("memory of " + std::to_string(memory_size) + " bytes: choose from 2 MiB to " +
        (standard ? "1 TiB" : "3 GiB (the standard board takes more)"));
  if (vcpus < 1 || vcpus > kMaxVcpus) bad(std::to_string(vcpus) + " vCPUs: choose from 1 to 254");
  if (!standard && vcpus != 1)
    bad("the deterministic board has one vCPU: choose the standard board for more");
  if (!standard && (console || balloon || vsock))
    bad("virtio-console, balloon and vsock are devices of the standard board");
  if (vsock && (vsock->cid < 3 || vsock->cid >= UINT32_MAX))
    bad("a guest's vsock CID is from 3 to 4294967294, not " + std::to_string(vsock->cid));
  if (vsock && vsock->path.empty()) bad("the vsock device needs the path of its UNIX socket");
  if (command_line.size() > 4095) bad("the command line is longer than 4095 bytes");
  if (nets.size() > kMaxDevices) bad("at most 8 network devices");
  if (disks.size() > kMaxDevices) bad("at most 8 disks");
  for (const auto& net : nets) {
    if (net.mac[0] & 1) bad("a network device's MAC address is a multicast address");
    if (net.backend == NetBackend::kTap && (net.tap.empty() || net.tap.size() > 15))
      bad("a tap interface's name has 1 to 15 characters");
    if (net.vhost == NetConfig::Vhost::kAlways && (!standard || net.backend != NetBackend::kTap))
      bad("vhost is for taps of the standard board");
  }
  if (dirty_ring && (dirty_ring_entries < 1024 || (dirty_ring_entries & (dirty_ring_entries - 1))))
    bad("the dirty ring's entries must be a power of two, at least 1024");
}

}  // namespace hypertwin::machine
