// The class behind lib/machine. It converts and forwards; calls that block run on the machine's own thread.
#include <napi.h>

#include <utility>

#include "async.h"
#include "dirty_target.h"
#include "env.h"
#include "errors.h"
#include "kvm_args.h"
#include "machine/quirks.h"
#include "machine_convert.h"
#include "machine_state.h"
#include "stream/snapshot_pages.h"

namespace hypertwin::addon {
namespace {

using machine::Machine;
using machine::MachineConfig;
using machine::StandardMachine;
using machine::VirtualMachine;

struct Classes {
  Napi::FunctionReference machine;
};

// What a handle is made around.
struct Made {
  std::shared_ptr<MachineState> state;
  std::shared_ptr<Callback> callback;
};

std::vector<std::shared_ptr<kvm::Vcpu>> vcpus_of(const VirtualMachine& machine) {
  std::vector<std::shared_ptr<kvm::Vcpu>> vcpus;
  for (size_t i = 0; i < machine.vcpus(); ++i) vcpus.push_back(machine.vcpu(i));
  return vcpus;
}

const char* link_name(backends::DiskNotice::Link link) {
  switch (link) {
    case backends::DiskNotice::Link::kLost:
      return "lost";
    case backends::DiskNotice::Link::kSilent:
      return "silent";
    case backends::DiskNotice::Link::kBack:
      return "back";
    case backends::DiskNotice::Link::kGivenUp:
      return "given-up";
  }
  return "unknown";
}

class MachineHandle : public Napi::ObjectWrap<MachineHandle> {
 public:
  explicit MachineHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/machine");
    const Made& made = *info[0].As<Napi::External<Made>>().Data();
    state_ = made.state;
    callback_ = made.callback;
  }
  ~MachineHandle() override {
    if (state_) env_->abandon(std::move(state_));
  }
  static Napi::Function define(Napi::Env env) {
    using H = MachineHandle;
    return DefineClass(env, "NativeMachine",
                       {InstanceMethod<&H::command<&VirtualMachine::start>>("start"),
                        InstanceMethod<&H::command<&VirtualMachine::pause>>("pause"),
                        InstanceMethod<&H::command<&VirtualMachine::resume>>("resume"),
                        InstanceMethod<&H::stop>("stop"),
                        InstanceMethod<&H::close>("close"),
                        InstanceMethod<&H::snapshot>("snapshot"),
                        InstanceMethod<&H::state_digest>("stateDigest"),
                        InstanceMethod<&H::registers>("registers"),
                        InstanceMethod<&H::status>("status"),
                        InstanceMethod<&H::boundary>("boundary"),
                        InstanceMethod<&H::counters>("counters"),
                        InstanceMethod<&H::config>("config"),
                        InstanceMethod<&H::take_events>("takeEvents"),
                        InstanceMethod<&H::send_packets>("sendPackets"),
                        InstanceMethod<&H::take_packets>("takePackets"),
                        InstanceMethod<&H::dropped_packets>("droppedPackets"),
                        InstanceMethod<&H::kernel_serves>("kernelServes"),
                        InstanceMethod<&H::send_console>("sendConsole"),
                        InstanceMethod<&H::resize_console>("resizeConsole"),
                        InstanceMethod<&H::vcpu_threads>("vcpuThreads"),
                        InstanceMethod<&H::press_power_button>("pressPowerButton"),
                        InstanceMethod<&H::set_balloon>("setBalloon"),
                        InstanceMethod<&H::balloon>("balloon"),
                        InstanceMethod<&H::set_debugging>("setDebugging"),
                        InstanceMethod<&H::step>("step"),
                        InstanceMethod<&H::breakpoints_exit>("breakpointsExit"),
                        InstanceMethod<&H::set_registers>("setRegisters"),
                        InstanceMethod<&H::translate>("translate"),
                        InstanceMethod<&H::read_memory>("readMemory"),
                        InstanceMethod<&H::write_memory>("writeMemory"),
                        InstanceMethod<&H::want_memory>("wantMemory"),
                        InstanceMethod<&H::memory_here>("memoryHere"),
                        InstanceMethod<&H::paging>("paging"),
                        InstanceMethod<&H::touched>("touched"),
                        InstanceMethod<&H::hold>("hold"),
                        InstanceMethod<&H::dirty_target>("dirtyTarget")});
  }
  const std::shared_ptr<MachineState>& state() const { return state_; }

 private:
  // `work` on the machine's thread; the handle lives as long.
  template <class R>
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<R(VirtualMachine&)> work,
                        std::function<Napi::Value(Napi::Env, R&)> convert) {
    return run_async<R>(
        info.Env(), state_->thread(),
        [machine = state_->open(), work = std::move(work)]() -> R { return work(*machine); },
        [self = keep(info.This()), convert = std::move(convert)](Napi::Env env, R& result) {
          return convert(env, result);
        });
  }
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<void(VirtualMachine&)> work) {
    return on_thread<detail::None>(
        info,
        [work = std::move(work)](VirtualMachine& machine) {
          work(machine);
          return detail::None{};
        },
        [](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
  }

  template <void (VirtualMachine::*method)()>
  Napi::Value command(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return on_thread(info, [](VirtualMachine& machine) { (machine.*method)(); }); });
  }
  Napi::Value stop(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      auto done = on_thread(info, [](VirtualMachine& machine) { machine.stop(); });
      state_->give_up_pages();
      return done;
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    Napi::Value done = shut_down(info, *env_, state_);
    // Whose close is before this one may wait for this machine's memory.
    state_->give_up_pages();
    return done;
  }
  Napi::Value snapshot(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Args args(info);
      const machine::SnapshotOptions options{.incremental = args.boolean(1), .track = args.boolean(2)};
      return on_thread<machine::SnapshotInfo>(
          info,
          [path = args.text(0), options](VirtualMachine& machine) { return machine.snapshot(path, options); },
          [](Napi::Env env, machine::SnapshotInfo& done) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("pages", Napi::Number::New(env, static_cast<double>(done.pages)));
            out.Set("bytes", Napi::Number::New(env, static_cast<double>(done.bytes)));
            out.Set("parent",
                    done.parent.empty() ? env.Undefined() : Napi::Value(Napi::String::New(env, done.parent)));
            return out;
          });
    });
  }
  Napi::Value state_digest(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<machine::StateDigest>(
          info, [](VirtualMachine& machine) { return machine.state_digest(); },
          [](Napi::Env env, machine::StateDigest& digest) { return to_value(env, std::as_const(digest)); });
    });
  }
  Napi::Value registers(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<machine::VcpuState>(
          info, [index = Args(info).u32(0)](VirtualMachine& machine) { return machine.vcpu_state(index); },
          [](Napi::Env env, machine::VcpuState& state) { return to_value(env, std::as_const(state)); });
    });
  }
  Napi::Value status(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto status = state_->status();
    Napi::Array out = Napi::Array::New(env, 3);
    out.Set(0u, text(env, machine::state_name(status.state)));
    out.Set(1u, text(env, machine::reason_name(status.reason)));
    out.Set(2u, text(env, status.message));
    return out;
  }
  Napi::Value boundary(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return bigint(info.Env(), state_->status().boundary); });
  }
  Napi::Value counters(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      machine::Counters c = state_->open()->counters();
      const uint64_t values[] = {c.boundaries, c.interrupts,  c.port_exits,    c.mmio_exits, c.halt_exits,
                                 c.packets_in, c.packets_out, c.disk_requests, c.kicks};
      auto out = Napi::BigUint64Array::New(info.Env(), std::size(values));
      std::memcpy(out.Data(), values, sizeof(values));
      return out;
    });
  }
  Napi::Value config(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Env env = info.Env();
      auto machine = state_->open();
      const MachineConfig& config = machine->config();
      Napi::Object out = Napi::Object::New(env);
      out.Set("board", config.board == machine::BoardKind::kStandard ? "standard" : "deterministic");
      out.Set("vcpus", number(env, config.vcpus));
      out.Set("memory", number(env, config.memory_size));
      Napi::Array disks = Napi::Array::New(env, config.disks.size());
      for (uint32_t i = 0; i < config.disks.size(); ++i) {
        Napi::Object disk = Napi::Object::New(env);
        disk.Set("path", config.disks[i].path);
        disk.Set("size", number(env, config.disks[i].size));
        disk.Set("readOnly", Napi::Boolean::New(env, config.disks[i].read_only));
        disks.Set(i, disk);
      }
      out.Set("disks", disks);
      Napi::Array nets = Napi::Array::New(env, config.nets.size());
      for (uint32_t i = 0; i < config.nets.size(); ++i) {
        const auto& from = config.nets[i];
        Napi::Object net = Napi::Object::New(env);
        net.Set("mac", to_value(env, std::vector<uint8_t>(from.mac.begin(), from.mac.end())));
        if (from.backend == machine::NetBackend::kTap) net.Set("tap", from.tap);
        nets.Set(i, net);
      }
      out.Set("nets", nets);
      return out;
    });
  }
  Napi::Value take_events(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto events = state_->mailbox()->take_events();
    Napi::Array out = Napi::Array::New(env, events.size());
    for (uint32_t i = 0; i < events.size(); ++i) {
      Napi::Array one = Napi::Array::New(env);
      if (const auto* state = std::get_if<Mailbox::StateEvent>(&events[i])) {
        one.Set(0u, "state");
        one.Set(1u, text(env, machine::state_name(state->state)));
        one.Set(2u, text(env, machine::reason_name(state->reason)));
        one.Set(3u, text(env, state->message));
        one.Set(4u, bigint(env, state->boundary));
      } else if (const auto* console = std::get_if<Mailbox::ConsoleEvent>(&events[i])) {
        one.Set(0u, "console");
        one.Set(1u, to_value(env, console->bytes));
        one.Set(2u, number(env, console->dropped));
      } else if (const auto* disk = std::get_if<Mailbox::DiskEvent>(&events[i])) {
        one.Set(0u, "disk");
        one.Set(1u, number(env, disk->device));
        one.Set(2u, link_name(disk->notice.link));
        one.Set(3u, text(env, disk->notice.uri));
        one.Set(4u, text(env, disk->notice.message));
      } else {
        one.Set(0u, "marker");
        one.Set(1u, number(env, std::get<uint32_t>(events[i])));
      }
      out.Set(i, one);
    }
    return out;
  }
  // device, packets: how many were accepted, from the first on
  Napi::Value send_packets(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto machine = state_->open();
      uint32_t device = Args(info).u32(0);
      if (!info[1].IsArray()) throw Error("EINVAL", "packets must be an array");
      auto packets = info[1].As<Napi::Array>();
      uint32_t sent = 0;
      for (const uint32_t count = packets.Length(); sent < count; ++sent) {
        Napi::HandleScope scope(info.Env());
        if (!machine->send_packet(device, bytes_of(packets.Get(sent), "a packet"))) break;
      }
      return Napi::Number::New(info.Env(), sent);
    });
  }
  Napi::Value take_packets(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Env env = info.Env();
      auto packets = state_->mailbox()->take_packets(Args(info).u32(0));
      if (packets.empty()) return env.Undefined();
      size_t total = 0;
      for (const auto& packet : packets) total += packet.size();
      auto bytes = Napi::Uint8Array::New(env, total);
      auto lengths = Napi::Uint32Array::New(env, packets.size());
      uint8_t* at = bytes.Data();
      for (size_t i = 0; i < packets.size(); ++i) {
        std::memcpy(at, packets[i].data(), packets[i].size());
        at += packets[i].size();
        lengths[i] = static_cast<uint32_t>(packets[i].size());
      }
      Napi::Object out = Napi::Object::New(env);
      out.Set("bytes", bytes);
      out.Set("lengths", lengths);
      return out;
    });
  }
  Napi::Value dropped_packets(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return bigint(info.Env(), state_->mailbox()->dropped_packets(Args(info).u32(0)));
    });
  }
  Napi::Value kernel_serves(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Boolean::New(info.Env(), state_->open()->kernel_serves(Args(info).u32(0)));
    });
  }
  Napi::Value send_console(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Boolean::New(info.Env(), state_->open()->send_console(Args(info).view(0)));
    });
  }
  Napi::Value resize_console(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      expect_all(*state_->standard());
      state_->standard()->set_console_size(static_cast<uint16_t>(args.u32(0)),
                                           static_cast<uint16_t>(args.u32(1)));
      return info.Env().Undefined();
    });
  }
  Napi::Value vcpu_threads(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto machine = state_->open();
      auto out = Napi::Array::New(info.Env(), machine->vcpus());
      for (uint32_t i = 0; i < machine->vcpus(); ++i) out.Set(i, machine->vcpu_thread(i));
      return out;
    });
  }
  Napi::Value press_power_button(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Boolean::New(info.Env(), state_->standard()->press_power_button());
    });
  }
  Napi::Value set_balloon(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const uint32_t pages = Args(info).u32(0);
      expect_all(*state_->standard());
      state_->standard()->with_balloon([&](devices::VirtioBalloon& balloon) { balloon.set_target(pages); });
      return info.Env().Undefined();
    });
  }
  // Pages: wanted, given up; then the statistics by tag, undefined where there are none. Asks for newer ones.
  Napi::Value balloon(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Env env = info.Env();
      Napi::Array out = Napi::Array::New(env);
      expect_all(*state_->standard());
      state_->standard()->with_balloon([&](devices::VirtioBalloon& balloon) {
        out.Set(0u, number(env, balloon.target()));
        out.Set(1u, number(env, balloon.actual()));
        uint32_t i = 2;
        for (const auto& value : balloon.stats()) out.Set(i++, value ? bigint(env, *value) : env.Undefined());
        balloon.request_stats();
      });
      return out;
    });
  }
  Napi::Value set_debugging(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread(info,
                       [on = Args(info).boolean(0)](VirtualMachine& machine) { machine.set_debugging(on); });
    });
  }
  // vcpu, at most, addresses: how many instructions were executed
  Napi::Value step(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Args args(info);
      const auto until = args.view(2);
      std::vector<uint64_t> addresses(until.size() / sizeof(uint64_t));
      if (!addresses.empty())
        std::memcpy(addresses.data(), until.data(), addresses.size() * sizeof(uint64_t));
      return on_thread<uint64_t>(
          info,
          [index = args.u32(0), most = args.u32(1), addresses = std::move(addresses)](
              VirtualMachine& machine) { return machine.step(index, most, addresses); },
          [](Napi::Env env, uint64_t& done) { return number(env, done); });
    });
  }
  // Whether this host's KVM hands the guest's int3 over.
  Napi::Value breakpoints_exit(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<bool>(
          info, [](VirtualMachine& machine) { return machine::breakpoints_exit(machine.vm()->system()); },
          [](Napi::Env env, bool& exit) -> Napi::Value { return Napi::Boolean::New(env, exit); });
    });
  }
  // vcpu, struct kvm_regs
  Napi::Value set_registers(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Args args(info);
      const auto bytes = args.view(1);
      kvm_regs regs{};
      if (bytes.size() != sizeof(regs))
        throw Error("EINVAL", "registers of another size than struct kvm_regs");
      std::memcpy(&regs, bytes.data(), sizeof(regs));
      return on_thread(
          info, [index = args.u32(0), regs](VirtualMachine& machine) { machine.set_registers(index, regs); });
    });
  }
  Napi::Value translate(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Args args(info);
      return on_thread<std::optional<uint64_t>>(
          info,
          [index = args.u32(0), linear = args.u64(1)](VirtualMachine& machine) {
            return machine.translate(index, linear);
          },
          [](Napi::Env env, std::optional<uint64_t>& address) -> Napi::Value {
            return address ? bigint(env, *address) : env.Undefined();
          });
    });
  }
  Napi::Value read_memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      auto machine = state_->open();
      expect_here(*machine, args.u64(0), args.view(1).size());
      machine->read_memory(args.u64(0), args.view(1));
      return info.Env().Undefined();
    });
  }
  Napi::Value write_memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      auto machine = state_->open();
      expect_here(*machine, args.u64(0), args.view(1).size());
      machine->write_memory(args.u64(0), args.view(1));
      return info.Env().Undefined();
    });
  }
  // JavaScript's thread waits for no page, nor for a device that does.
  static void expect_all(const VirtualMachine& machine) {
    const machine::Pager* pager = machine.memory().pager();
    if (pager && !pager->stats().complete)
      throw Error("NOT_HERE", "the machine's memory is still coming: see paging().complete");
  }
  static void expect_here(const VirtualMachine& machine, uint64_t address, uint64_t size) {
    if (!machine.memory_here(address, size))
      throw Error(
          "NOT_HERE",
          "this memory of the machine has not come yet: await bring(address, length) before you use it");
  }
  Napi::Value want_memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      state_->open()->want_memory(args.u64(0), args.u64(1));
      return info.Env().Undefined();
    });
  }
  Napi::Value memory_here(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      return Napi::Boolean::New(info.Env(), state_->open()->memory_here(args.u64(0), args.u64(1)));
    });
  }
  // Pages that hold something, of them here, waited for; nanoseconds waited in all, and the longest; whether
  // all have come; stalls. Undefined where memory does not come while the machine runs.
  Napi::Value paging(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto machine = state_->open();
      const machine::Pager* pager = machine->memory().pager();
      if (!pager) return info.Env().Undefined();
      const auto stats = pager->stats();
      const uint64_t values[] = {stats.pages,     stats.here,       stats.touched,
                                 stats.waited_ns, stats.longest_ns, uint64_t{stats.complete},
                                 stats.stalls};
      auto out = Napi::BigUint64Array::New(info.Env(), std::size(values));
      std::memcpy(out.Data(), values, sizeof(values));
      return out;
    });
  }
  // Three numbers for each page that was waited for: page, when, how long, in nanoseconds.
  Napi::Value touched(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto machine = state_->open();
      const machine::Pager* pager = machine->memory().pager();
      const auto touched = pager ? pager->touched() : std::vector<machine::Pager::Touch>{};
      auto out = Napi::BigUint64Array::New(info.Env(), 3 * touched.size());
      uint64_t* at = out.Data();
      for (const auto& touch : touched) {
        *at++ = touch.page;
        *at++ = touch.at_ns;
        *at++ = touch.waited_ns;
      }
      return out;
    });
  }
  Napi::Value hold(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const bool wanted = Args(info).boolean(0);
      if (wanted != std::exchange(held_, wanted)) {
        if (wanted)
          env_data(info.Env()).hold();
        else
          env_data(info.Env()).release();
      }
      return info.Env().Undefined();
    });
  }
  Napi::Value dirty_target(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto machine = state_->open();
      return make_dirty_target(info.Env(), {machine->vm(), vcpus_of(*machine), machine->ram()});
    });
  }

  std::shared_ptr<MachineState> state_;
  std::shared_ptr<Callback> callback_;
  std::shared_ptr<MachineEnv> env_;
  bool held_ = false;
};

std::optional<machine::VsockConfig> vsock_of(const Napi::Object& options) {
  Napi::Value vsock = options.Get("vsock");
  if (vsock.IsUndefined()) return std::nullopt;
  auto from = object_of(vsock, "vsock");
  return machine::VsockConfig{size_of(from, "cid"), text_of(from.Get("path"), "vsock's path")};
}

std::array<uint8_t, 6> mac_of(const Napi::Value& value) {
  std::array<uint8_t, 6> mac;
  const auto bytes = bytes_of(value, "mac");
  if (bytes.size() != mac.size()) throw Error("EINVAL", "a MAC address has 6 bytes");
  std::copy(bytes.begin(), bytes.end(), mac.begin());
  return mac;
}

MachineConfig read_config(const Napi::Object& options) {
  MachineConfig config;
  const std::string board = text_of(options.Get("board"), "board");
  if (board == "standard") config.board = machine::BoardKind::kStandard;
  config.vcpus = static_cast<uint32_t>(size_of(options, "vcpus"));
  config.console = flag_of(options, "console");
  config.balloon = flag_of(options, "balloon");
  config.vsock = vsock_of(options);
  config.memory_size = size_of(options, "memory");
  config.command_line = text_of(options.Get("commandLine"), "commandLine");
  config.wall_clock = size_of(options, "wallClock");
  if (uint64_t entries = size_of(options, "dirtyRingEntries")) {
    config.dirty_ring = true;
    config.dirty_ring_entries = static_cast<uint32_t>(entries);
  }
  auto disks = array_of(options, "disks");
  for (uint32_t i = 0; i < disks.Length(); ++i) {
    auto from = object_of(disks.Get(i), "a disk");
    machine::DiskConfig disk;
    disk.path = text_of(from.Get("path"), "a disk's path");
    disk.size = size_of(from, "size");
    disk.read_only = flag_of(from, "readOnly");
    disk.reconnect_seconds = static_cast<uint32_t>(size_of(from, "reconnectSeconds"));
    config.disks.push_back(std::move(disk));
  }
  auto nets = array_of(options, "nets");
  for (uint32_t i = 0; i < nets.Length(); ++i) {
    auto from = object_of(nets.Get(i), "a network device");
    machine::NetConfig net;
    net.mac = mac_of(from.Get("mac"));
    if (!from.Get("tap").IsUndefined()) {
      net.backend = machine::NetBackend::kTap;
      net.tap = text_of(from.Get("tap"), "tap");
    }
    net.vhost = vhost_of(from);
    config.nets.push_back(std::move(net));
  }
  return config;
}

// Makes a machine on a thread of its own, by `make`, and gives its handle.
Napi::Value make_machine(
    const Napi::CallbackInfo& info, const Napi::Value& notify, std::string device,
    std::function<std::unique_ptr<VirtualMachine>(std::shared_ptr<kvm::System>, std::shared_ptr<Mailbox>)>
        make,
    std::shared_ptr<machine::PageSource> pages = nullptr) {
  Napi::Env env = info.Env();
  if (!notify.IsFunction()) throw Error("EINVAL", "notify must be a function");
  auto machines = machine_env(env);
  auto callback = std::make_shared<Callback>(machines, notify.As<Napi::Function>());
  auto state = std::make_shared<MachineState>(std::make_shared<Mailbox>(callback->signal()));
  state->set_pages(std::move(pages));
  machines->add(state);
  return run_async<detail::None>(
      env, state->thread(),
      [target = state.get(), device = std::move(device), make = std::move(make)] {
        target->adopt(make(kvm::System::open(device), target->mailbox()));
        return detail::None{};
      },
      [state, callback](Napi::Env now, detail::None&) { return machine_handle(now, state, callback); });
}

// options, notify
Napi::Value create(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto options = object_of(info[0], "the options");
    MachineConfig config = read_config(options);
    auto kernel = bytes_of(options.Get("kernel"), "kernel");
    auto initrd = bytes_of(options.Get("initrd"), "initrd");
    Machine::Image image{{kernel.begin(), kernel.end()}, {initrd.begin(), initrd.end()}};
    return make_machine(info, info[1], text_of(options.Get("device"), "device"),
                        [config = std::move(config), image = std::move(image)](
                            std::shared_ptr<kvm::System> system,
                            std::shared_ptr<Mailbox> mailbox) -> std::unique_ptr<VirtualMachine> {
                          if (config.board == machine::BoardKind::kStandard)
                            return StandardMachine::create(std::move(system), config, image,
                                                           std::move(mailbox));
                          return Machine::create(std::move(system), config, image, std::move(mailbox));
                        });
  });
}

// What a snapshot of somebody else's says of this host's files, taps and sockets does not count.
void check_all_given(const MachineConfig& config, const std::vector<std::optional<std::string>>& disks,
                     const std::function<bool(size_t)>& net_is_given, bool vsock_is_given) {
  const auto refuse = [](const std::string& what, const std::string& how) {
    throw Error("BAD_CONFIG", what + " in the snapshot, which may not choose anything of this host: " + how);
  };
  for (size_t i = 0; i < config.disks.size(); ++i)
    if (i >= disks.size() || !disks[i])
      refuse("disk " + std::to_string(i) + " is " + backends::without_secrets(config.disks[i].path),
             "name its image here (disks, --disk)");
  for (size_t i = 0; i < config.nets.size(); ++i)
    if (config.nets[i].backend == machine::NetBackend::kTap && !net_is_given(i))
      refuse("network device " + std::to_string(i) + " is the tap " + config.nets[i].tap,
             "name one here, or 'queue' (nets, --net)");
  if (config.vsock && !vsock_is_given)
    refuse("the vsock device's socket is " + config.vsock->path, "name its socket here (vsock, --vsock)");
}

// path (of a streamed one: its cache), what differs, notify
Napi::Value restore(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto options = object_of(info[1], "the options");
    std::vector<std::optional<std::string>> disks;
    struct Net {
      std::optional<std::string> tap;  // empty for a queue
      std::optional<std::array<uint8_t, 6>> mac;
      machine::NetConfig::Vhost vhost = machine::NetConfig::Vhost::kIfThere;
    };
    std::vector<Net> nets;
    auto given_disks = array_of(options, "disks");
    for (uint32_t i = 0; i < given_disks.Length(); ++i) {
      Napi::Value path = given_disks.Get(i);
      disks.push_back(path.IsUndefined() ? std::nullopt : std::optional(text_of(path, "a disk's path")));
    }
    auto given_nets = array_of(options, "nets");
    for (uint32_t i = 0; i < given_nets.Length(); ++i) {
      Net& net = nets.emplace_back();
      Napi::Value given = given_nets.Get(i);
      if (given.IsUndefined()) continue;
      auto wanted = object_of(given, "a network device");
      if (Napi::Value tap = wanted.Get("tap"); !tap.IsUndefined()) net.tap = text_of(tap, "tap");
      if (Napi::Value mac = wanted.Get("mac"); !mac.IsUndefined()) net.mac = mac_of(mac);
      net.vhost = vhost_of(wanted);
    }
    const uint64_t ring = size_of(options, "dirtyRingEntries");
    const bool foreign = flag_of(options, "foreign");
    auto adjust = [disks = std::move(disks), nets = std::move(nets), vsock = vsock_of(options), ring,
                   foreign](MachineConfig& config) {
      if (disks.size() > config.disks.size() || nets.size() > config.nets.size())
        throw Error("BAD_CONFIG", "the snapshot's machine has " + std::to_string(config.disks.size()) +
                                      " disks and " + std::to_string(config.nets.size()) +
                                      " network devices: no more can be given");
      if (foreign)
        check_all_given(
            config, disks, [&](size_t i) { return i < nets.size() && nets[i].tap; }, vsock.has_value());
      for (size_t i = 0; i < disks.size(); ++i)
        if (disks[i]) config.disks[i].path = *disks[i];
      for (size_t i = 0; i < nets.size(); ++i) {
        if (nets[i].mac) config.nets[i].mac = *nets[i].mac;
        config.nets[i].vhost = nets[i].vhost;
        if (!nets[i].tap) continue;
        config.nets[i].backend =
            nets[i].tap->empty() ? machine::NetBackend::kQueue : machine::NetBackend::kTap;
        config.nets[i].tap = *nets[i].tap;
      }
      if (vsock && !config.vsock) throw Error("BAD_CONFIG", "the snapshot's machine has no vsock device");
      if (vsock) config.vsock = {vsock->cid ? vsock->cid : config.vsock->cid, vsock->path};
      config.dirty_ring = ring != 0;
      if (ring) config.dirty_ring_entries = static_cast<uint32_t>(ring);
      config.check();
    };
    machine::RestoreOptions how;
    how.adjust = std::move(adjust);
    how.verify =
        options.Get("verifyBefore").ToBoolean() ? machine::Verify::kBefore : machine::Verify::kBehind;
    std::shared_ptr<stream::SnapshotPages> pages;
    if (Napi::Value given = options.Get("stream"); !given.IsUndefined()) {
      auto from = object_of(given, "stream");
      pages = std::make_shared<stream::SnapshotPages>(Args(info).text(0),
                                                      static_cast<unsigned>(size_of(from, "waitSeconds")));
      how.pages = pages;
      how.paging = pages->options();
      how.paging.all = flag_of(from, "all");
      auto chunks = from.Get("chunks").As<Napi::Uint32Array>();
      how.paging.working_set = pages->pages_of({chunks.Data(), chunks.ElementLength()});
    }
    return make_machine(
        info, info[2], text_of(options.Get("device"), "device"),
        [path = Args(info).text(0), how = std::move(how), pages, foreign](
            std::shared_ptr<kvm::System> system,
            std::shared_ptr<Mailbox> mailbox) -> std::unique_ptr<VirtualMachine> {
          machine::SnapshotChain chain;
          if (pages)
            chain = {pages->open()};
          else if (foreign)
            chain = {std::make_shared<machine::SnapshotFile>(path, [](uint64_t, uint64_t) {})};  // it is here
          else
            chain = machine::open_snapshot(path);
          if (machine::snapshot_board(*chain.front()) == machine::BoardKind::kStandard)
            return StandardMachine::restore(std::move(system), std::move(chain), std::move(mailbox), how);
          return Machine::restore(std::move(system), std::move(chain), std::move(mailbox), how);
        },
        pages);
  });
}

}  // namespace

std::shared_ptr<MachineState> machine_state(const Napi::Value& handle) {
  if (!handle.IsObject() ||
      !handle.As<Napi::Object>().InstanceOf(env_data(handle.Env()).slot<Classes>().machine.Value()))
    throw Error("EINVAL", "this must be a machine of hypertwin/machine");
  return MachineHandle::Unwrap(handle.As<Napi::Object>())->state();
}

Napi::Value machine_handle(Napi::Env env, std::shared_ptr<MachineState> state,
                           std::shared_ptr<Callback> callback) {
  Made made{std::move(state), std::move(callback)};
  return env_data(env).slot<Classes>().machine.New({Napi::External<Made>::New(env, &made)});
}

void init_machine(Napi::Env env, Napi::Object exports) {
  env_data(env).slot<Classes>().machine = Napi::Persistent(MachineHandle::define(env));
  Napi::Object machine = Napi::Object::New(env);
  machine.Set("create", Napi::Function::New(env, create, "create"));
  machine.Set("restore", Napi::Function::New(env, restore, "restore"));
  exports.Set("machine", machine);
}

}  // namespace hypertwin::addon
