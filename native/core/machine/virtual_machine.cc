#include "machine/virtual_machine.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "base/hex.h"
#include "devices/serial.h"
#include "devices/virtio_net.h"

namespace hypertwin::machine {

namespace {

void put_digest(ByteWriter& out, const Digest128& digest) {
  out.u64(digest.lo);
  out.u64(digest.hi);
}

}  // namespace

MachineConfig restored_config(ByteReader& in, const SnapshotFile& file, const RestoreOptions& options) {
  ByteReader bytes(in.blob(1u << 20), "the snapshot's configuration");
  MachineConfig config = MachineConfig::load(bytes);
  if (options.adjust) options.adjust(config);
  if (config.memory_size != file.memory_size()) in.corrupt("memory of another size than the configuration's");
  return config;
}

std::unique_ptr<MachineMemory> restored_memory(SnapshotChain chain, const RestoreOptions& options) {
  if (options.pages) return std::make_unique<MachineMemory>(chain.front(), options.pages, options.paging);
  if (options.verify == Verify::kBefore) chain.back()->verify([] { return true; });
  return std::make_unique<MachineMemory>(std::move(chain));
}

std::string_view state_name(State state) {
  switch (state) {
    case State::kCreated:
      return "created";
    case State::kRunning:
      return "running";
    case State::kPaused:
      return "paused";
    case State::kStopped:
      return "stopped";
    case State::kFailed:
      return "failed";
  }
  return "unknown";
}

End end_of(devices::PowerEvent event) {
  const bool off = event == devices::PowerEvent::kPowerOff;
  return {State::kStopped, off ? Reason::kPowerOff : Reason::kReset,
          off ? "the guest powered off" : "the guest asked for a reset"};
}

std::optional<devices::PowerEvent> VirtualMachine::saved_power_event(
    std::optional<devices::PowerEvent> pending) const {
  if (state() == State::kStopped && reason() == Reason::kPowerOff) return devices::PowerEvent::kPowerOff;
  if (state() == State::kStopped && reason() == Reason::kReset) return devices::PowerEvent::kReset;
  return pending;
}

std::string_view reason_name(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kRequested:
      return "requested";
    case Reason::kPowerOff:
      return "power-off";
    case Reason::kReset:
      return "reset";
    case Reason::kHalted:
      return "halted";
    case Reason::kTripleFault:
      return "triple-fault";
    case Reason::kError:
      return "error";
    case Reason::kBoundary:
      return "boundary";
    case Reason::kLogEnd:
      return "log-end";
    case Reason::kDiverged:
      return "diverged";
    case Reason::kCaptureFailed:
      return "capture-failed";
    case Reason::kMigrated:
      return "migrated";
    case Reason::kInDoubt:
      return "in-doubt";
    case Reason::kHandedOver:
      return "handed-over";
    case Reason::kFenced:
      return "fenced";
    case Reason::kUnprotected:
      return "unprotected";
    case Reason::kBreakpoint:
      return "breakpoint";
  }
  return "unknown";
}

Digest128 StateDigest::combined() const {
  ByteWriter bytes;
  put_digest(bytes, vcpu);
  put_digest(bytes, devices);
  put_digest(bytes, memory);
  return digest128(bytes.data());
}

void VirtualMachine::check_vcpu(size_t index) const {
  if (index >= vcpus())
    throw Error("ERANGE", "vCPU " + std::to_string(index) + ": the machine has " + std::to_string(vcpus()));
}

void VirtualMachine::check_packet(uint32_t device, std::span<const uint8_t> packet) const {
  const size_t nets = config().nets.size();
  if (device >= nets)
    throw Error("ERANGE",
                "network device " + std::to_string(device) + ": the machine has " + std::to_string(nets));
  if (packet.size() < 14 || packet.size() > devices::VirtioNet::kMaxPacket)
    throw Error("ERANGE", "a packet of " + std::to_string(packet.size()) +
                              " bytes: an Ethernet frame has 14 to " +
                              std::to_string(devices::VirtioNet::kMaxPacket));
}

void VirtualMachine::check_console(std::span<const uint8_t> bytes) {
  if (bytes.size() > devices::Serial::kMaxInput)
    throw Error("ERANGE",
                "console input of " + std::to_string(bytes.size()) + " bytes: at most 4096 at a time");
}

namespace {
[[noreturn]] void not_ram(uint64_t address, size_t size) {
  throw Error("ERANGE", std::to_string(size) + " bytes at " + hex(address) + " are not all RAM");
}
}  // namespace

void VirtualMachine::read_memory(uint64_t address, std::span<uint8_t> into) const {
  if (!ram()->read(address, into)) not_ram(address, into.size());
}

void VirtualMachine::write_memory(uint64_t address, std::span<const uint8_t> from) {
  std::shared_lock lock(frozen_, std::try_to_lock);
  if (!lock)
    throw Error("BAD_STATE",
                "the machine's memory is being copied, for a snapshot or to another host: write when "
                "that is over");
  check_writable();
  if (!ram()->write(address, from)) not_ram(address, from.size());
}

namespace {

// Calls with [offset, offset + size) of the memory, for each part of a range that is RAM.
template <class Part>
void for_each_part(const VirtualMachine& machine, uint64_t address, uint64_t size, const Part& part) {
  for (const auto& region : machine.ram()->regions()) {
    const uint64_t begin = std::max(address, region.guest_address);
    const uint64_t end = std::min(address + size, region.guest_address + region.size);
    if (begin >= end) continue;
    part(static_cast<uint64_t>(region.host - machine.memory().data()) + (begin - region.guest_address),
         end - begin);
  }
}

}  // namespace

bool VirtualMachine::memory_here(uint64_t address, uint64_t size) const {
  bool here = true;
  if (const Pager* pager = memory().pager())
    for_each_part(*this, address, size,
                  [&](uint64_t offset, uint64_t part) { here = here && pager->here(offset, part); });
  return here;
}

void VirtualMachine::want_memory(uint64_t address, uint64_t size) const {
  if (Pager* pager = memory().pager())
    for_each_part(*this, address, size, [&](uint64_t offset, uint64_t part) { pager->want(offset, part); });
}

void bad_state(State state, const char* verb) {
  const char* possible = "";
  switch (state) {
    case State::kCreated:
      possible = "start() it first";
      break;
    case State::kRunning:
      possible = "pause() it first";
      break;
    case State::kPaused:
      possible = "resume() it";
      break;
    case State::kStopped:
    case State::kFailed:
      possible = "create a new machine, or restore a snapshot";
      break;
  }
  throw Error("BAD_STATE", std::string("cannot ") + verb + " a machine that is " +
                               std::string(state_name(state)) + ": " + possible);
}

}  // namespace hypertwin::machine
