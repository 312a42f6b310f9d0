// The classes behind lib/kvm: system, VM, vCPU, guest memory, exit handler, eventfd. They convert, forward to
// the handle's thread and hand what is dropped to the closing thread; lib/kvm owns the rules of use.
#include <fcntl.h>
#include <napi.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "async.h"
#include "dirty_target.h"
#include "env.h"
#include "errors.h"
#include "kvm_args.h"
#include "kvm_ops.h"
#include "kvm_state.h"

namespace hypertwin::addon {
namespace {

// One external window at most: Node 20 aborts above 4 GiB.
constexpr uint64_t kMaxWindow = uint64_t{1} << 30;

struct Slot {
  std::shared_ptr<KvmEnv> env = std::make_shared<KvmEnv>();
  bool hooked = false;
  Napi::FunctionReference system, vm, vcpu, memory, handler;
};

Slot& slot(Napi::Env env) {
  EnvData& data = env_data(env);
  Slot& found = data.slot<Slot>();
  if (!found.hooked) {
    found.hooked = true;
    data.on_teardown([kvm = found.env] { kvm->teardown(); });
  }
  return found;
}

// Keeps a JavaScript object alive; JavaScript thread only.
std::shared_ptr<Napi::ObjectReference> keep(const Napi::Value& value) {
  return std::make_shared<Napi::ObjectReference>(Napi::Persistent(value.As<Napi::Object>()));
}

// A new object of one of the classes here, around `state`.
template <class State>
Napi::Value wrap(Napi::Env env, Napi::FunctionReference& constructor, std::shared_ptr<State> state) {
  return constructor.New({Napi::External<std::shared_ptr<State>>::New(env, &state)});
}

template <class State>
std::shared_ptr<State> unwrap(const Napi::CallbackInfo& info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/kvm");
  return *info[0].As<Napi::External<std::shared_ptr<State>>>().Data();
}

template <class Target>
std::function<Result(Target&)> find_op(const Ops<Target>& ops, const Napi::CallbackInfo& info) {
  Args args(info);
  std::string name = args.text(0);
  auto found = ops.find(name);
  if (found == ops.end()) throw Error("EINVAL", "no operation " + name);
  return found->second(Args(info, 1));
}

// ------------------------------------------------------------------------------------------------- memory

class MemoryHandle : public Napi::ObjectWrap<MemoryHandle> {
 public:
  explicit MemoryHandle(const Napi::CallbackInfo& info)
      : ObjectWrap(info), memory_(unwrap<kvm::GuestMemory>(info)) {
    env_ = slot(info.Env()).env;
  }
  ~MemoryHandle() override { release(); }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeMemory",
        {InstanceMethod<&MemoryHandle::read>("read"), InstanceMethod<&MemoryHandle::write>("write"),
         InstanceMethod<&MemoryHandle::window>("window"), InstanceMethod<&MemoryHandle::fd>("fd"),
         InstanceMethod<&MemoryHandle::close>("close")});
  }
  // Throws Error("CLOSED").
  const std::shared_ptr<kvm::GuestMemory>& open() const {
    if (!memory_) throw Error("CLOSED", "the guest memory is closed");
    return memory_;
  }

 private:
  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      uint64_t offset = args.u64(0);
      auto into = args.view(1);
      open()->read(offset, into);
      return info[1];
    });
  }
  Napi::Value write(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      uint64_t offset = args.u64(0);
      open()->write(offset, args.view(1));
      return info.Env().Undefined();
    });
  }
  Napi::Value window(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      uint64_t offset = args.u64(0), length = args.u64(1);
      auto memory = open();
      if (length == 0 || length > kMaxWindow || offset > memory->size() || length > memory->size() - offset)
        throw Error("ERANGE", "a window has 1 byte to 1 GiB and lies within the memory of " +
                                  std::to_string(memory->size()) + " bytes");
      auto held = std::make_unique<std::shared_ptr<kvm::GuestMemory>>(memory);
      napi_value buffer;
      napi_status status = napi_create_external_arraybuffer(
          info.Env(), memory->data() + offset, length,
          [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<kvm::GuestMemory>*>(hint); },
          held.get(), &buffer);
      if (status != napi_ok)
        throw Error("ENOTSUP", "this runtime forbids windows into native memory: use read() and write()");
      held.release();  // the ArrayBuffer's finalizer owns it now
      return Napi::Value(info.Env(), buffer);
    });
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value { return Napi::Number::New(info.Env(), open()->fd()); });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->closer(),
                     [memory = std::move(memory_)]() mutable { memory = nullptr; });
  }
  void release() {
    if (memory_) env_->closer().post([memory = std::move(memory_)]() mutable { memory = nullptr; });
  }
  std::shared_ptr<kvm::GuestMemory> memory_;
  std::shared_ptr<KvmEnv> env_;
};

// ------------------------------------------------------------------------------------------- exit handlers

class HandlerHandle : public Napi::ObjectWrap<HandlerHandle> {
 public:
  explicit HandlerHandle(const Napi::CallbackInfo& info)
      : ObjectWrap(info), handler_(unwrap<kvm::ExitHandler>(info)) {}
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeExitHandler",
        {InstanceMethod<&HandlerHandle::hits>("hits"), InstanceMethod<&HandlerHandle::read>("read"),
         InstanceMethod<&HandlerHandle::write>("write")});
  }
  const std::shared_ptr<kvm::ExitHandler>& handler() const { return handler_; }

 private:
  Napi::Value hits(const Napi::CallbackInfo& info) { return Napi::BigInt::New(info.Env(), handler_->hits()); }
  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      uint64_t offset = args.u64(0);
      handler_->read_ram(offset, args.view(1));
      return info[1];
    });
  }
  Napi::Value write(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      uint64_t offset = args.u64(0);
      handler_->write_ram(offset, args.view(1));
      return info.Env().Undefined();
    });
  }
  std::shared_ptr<kvm::ExitHandler> handler_;
};

// --------------------------------------------------------------------------------------------------- vCPU

struct RunOutcome {
  kvm::RunResult result = kvm::RunResult::kExit;
  std::vector<uint8_t> page;
  std::vector<uint8_t> data;
};

RunOutcome run_once(kvm::VcpuRunner& runner) {
  RunOutcome out;
  out.result = runner.run();
  if (out.result != kvm::RunResult::kExit) return out;
  kvm_run* run = runner.vcpu().run_page();
  const auto* bytes = reinterpret_cast<const uint8_t*>(run);
  // The head and the exit's union, without the synced registers.
  out.page.assign(bytes, bytes + offsetof(kvm_run, kvm_valid_regs));
  if (run->exit_reason == KVM_EXIT_IO) {
    uint64_t size = uint64_t{run->io.size} * run->io.count, room = runner.vcpu().run_page_size();
    if (run->io.data_offset <= room && size <= room - run->io.data_offset)
      out.data.assign(bytes + run->io.data_offset, bytes + run->io.data_offset + size);
  }
  return out;
}

class VcpuHandle : public Napi::ObjectWrap<VcpuHandle> {
 public:
  explicit VcpuHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), state_(unwrap<VcpuState>(info)) {
    env_ = slot(info.Env()).env;
  }
  ~VcpuHandle() override {
    env_->closer().post([state = std::move(state_)]() mutable { state = nullptr; });
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeVcpu",
        {InstanceMethod<&VcpuHandle::invoke>("invoke"), InstanceMethod<&VcpuHandle::run>("run"),
         InstanceMethod<&VcpuHandle::kick>("kick"), InstanceMethod<&VcpuHandle::handled>("handled"),
         InstanceMethod<&VcpuHandle::fd>("fd"), InstanceMethod<&VcpuHandle::close>("close")});
  }
  const std::shared_ptr<VcpuState>& state() const { return state_; }

 private:
  Napi::Value invoke(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto runner = state_->open_runner();
      auto work = find_op(vcpu_ops(), info);
      return run_async<Result>(
          info.Env(), runner->thread(),
          [target = runner.get(), work = std::move(work)]() -> Result { return work(*target); },
          [self = keep(info.This())](Napi::Env env, Result& result) { return to_value(env, result); });
    });
  }
  Napi::Value run(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto runner = state_->open_runner();
      return run_async<RunOutcome>(
          info.Env(), runner->thread(), [target = runner.get()] { return run_once(*target); },
          [self = keep(info.This())](Napi::Env env, RunOutcome& out) -> Napi::Value {
            Napi::Object result = Napi::Object::New(env);
            result.Set("result", Napi::Number::New(env, static_cast<int>(out.result)));
            result.Set("page", to_value(env, out.page));
            result.Set("data", to_value(env, out.data));
            return result;
          });
    });
  }
  Napi::Value kick(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_runner()->kick();
      return info.Env().Undefined();
    });
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Number::New(info.Env(), state_->open_runner()->vcpu().fd());
    });
  }
  Napi::Value handled(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::BigInt::New(info.Env(), state_->open_runner()->handled());
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->closer(), [state = state_] { state->shutdown(); });
  }
  std::shared_ptr<VcpuState> state_;
  std::shared_ptr<KvmEnv> env_;
};

// ----------------------------------------------------------------------------------------------------- VM

class VmHandle : public Napi::ObjectWrap<VmHandle> {
 public:
  explicit VmHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), state_(unwrap<VmState>(info)) {
    env_ = slot(info.Env()).env;
    env_->add(state_);
  }
  ~VmHandle() override {
    env_->closer().post([state = std::move(state_)]() mutable { state = nullptr; });
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeVm",
        {InstanceMethod<&VmHandle::invoke>("invoke"), InstanceMethod<&VmHandle::set_region>("setRegion"),
         InstanceMethod<&VmHandle::create_vcpu>("createVcpu"), InstanceMethod<&VmHandle::harvest>("harvest"),
         InstanceMethod<&VmHandle::add_handler>("addHandler"),
         InstanceMethod<&VmHandle::remove_handler>("removeHandler"),
         InstanceMethod<&VmHandle::dirty_target>("dirtyTarget"), InstanceMethod<&VmHandle::fd>("fd"),
         InstanceMethod<&VmHandle::close>("close")});
  }

 private:
  Napi::Value invoke(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      auto work = find_op(vm_ops(), info);
      return run_async<Result>(
          info.Env(), state_->thread(),
          [target = state_.get(), work = std::move(work)]() -> Result { return work(*target); },
          [self = keep(info.This())](Napi::Env env, Result& result) { return to_value(env, result); });
    });
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&]() -> Napi::Value { return Napi::Number::New(info.Env(), state_->open_vm()->fd()); });
  }
  // slot, guest address, size, memory, offset, flags
  Napi::Value set_region(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      Args args(info);
      kvm::Slot region;
      region.slot = args.u32(0);
      region.guest_address = args.u64(1);
      region.size = args.u64(2);
      if (!info[3].IsObject() || !info[3].As<Napi::Object>().InstanceOf(slot(info.Env()).memory.Value()))
        throw Error("EINVAL", "a memory slot needs a GuestMemory");
      region.memory = MemoryHandle::Unwrap(info[3].As<Napi::Object>())->open();
      region.offset = args.u64(4);
      region.flags = args.u32(5);
      if (region.size == 0)
        throw Error("ERANGE", "a memory slot of 0 bytes: use deleteUserMemoryRegion to delete one");
      return run_async<Result>(
          info.Env(), state_->thread(),
          [target = state_.get(), region]() -> Result {
            target->open_vm()->set_user_memory_region(region);
            return std::monostate{};
          },
          [self = keep(info.This())](Napi::Env env, Result& result) { return to_value(env, result); });
    });
  }
  Napi::Value create_vcpu(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      return run_async<std::shared_ptr<VcpuState>>(
          info.Env(), state_->thread(),
          [target = state_.get(), id = Args(info).u32(0)] { return target->create_vcpu(id); },
          [self = keep(info.This())](Napi::Env env, std::shared_ptr<VcpuState>& vcpu) {
            return wrap(env, slot(env).vcpu, std::move(vcpu));
          });
    });
  }
  // Of the given vCPU; on the VM's thread, so that the vCPU may run meanwhile.
  Napi::Value harvest(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      if (!info[0].IsObject() || !info[0].As<Napi::Object>().InstanceOf(slot(info.Env()).vcpu.Value()))
        throw Error("EINVAL", "argument 1 must be a vCPU");
      auto vcpu = VcpuHandle::Unwrap(info[0].As<Napi::Object>())->state();
      return run_async<Result>(
          info.Env(), state_->thread(), [vcpu]() -> Result { return as_bytes(vcpu->harvest()); },
          [self = keep(info.This())](Napi::Env env, Result& result) { return to_value(env, result); });
    });
  }
  // mmio?, address, length, action, value. No vCPU of the VM may be running.
  Napi::Value add_handler(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      Args args(info);
      kvm::ExitHandler::Options options;
      options.space = args.boolean(0) ? kvm::ExitHandler::Space::kMmio : kvm::ExitHandler::Space::kPort;
      options.address = args.u64(1);
      options.length = args.u64(2);
      uint32_t action = args.u32(3);
      if (action > static_cast<uint32_t>(kvm::ExitHandler::Action::kRam))
        throw Error("EINVAL", "no such action");
      options.action = static_cast<kvm::ExitHandler::Action>(action);
      options.value = args.u64(4);
      return wrap(info.Env(), slot(info.Env()).handler, state_->handlers()->add(options));
    });
  }
  Napi::Value remove_handler(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open_vm();
      if (!info[0].IsObject() || !info[0].As<Napi::Object>().InstanceOf(slot(info.Env()).handler.Value()))
        throw Error("EINVAL", "argument 1 must be an exit handler");
      state_->handlers()->remove(HandlerHandle::Unwrap(info[0].As<Napi::Object>())->handler());
      return info.Env().Undefined();
    });
  }
  Napi::Value dirty_target(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      dirty::Target target;
      target.vm = state_->open_vm();
      for (const auto& vcpu : state_->vcpus())
        if (auto runner = vcpu->runner()) target.vcpus.emplace_back(runner, &runner->vcpu());
      return make_dirty_target(info.Env(), std::move(target));
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->closer(), [state = state_] { state->shutdown(); });
  }
  std::shared_ptr<VmState> state_;
  std::shared_ptr<KvmEnv> env_;
};

// ------------------------------------------------------------------------------------------------- system

class SystemHandle : public Napi::ObjectWrap<SystemHandle> {
 public:
  explicit SystemHandle(const Napi::CallbackInfo& info)
      : ObjectWrap(info), system_(unwrap<kvm::System>(info)) {
    env_ = slot(info.Env()).env;
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeSystem",
        {InstanceMethod<&SystemHandle::invoke>("invoke"),
         InstanceMethod<&SystemHandle::create_vm>("createVm"), InstanceMethod<&SystemHandle::fd>("fd"),
         InstanceMethod<&SystemHandle::close>("close")});
  }

 private:
  const std::shared_ptr<kvm::System>& open() const {
    if (!system_) throw Error("CLOSED", "/dev/kvm is closed");
    return system_;
  }
  Napi::Value invoke(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto system = open();
      auto work = find_op(system_ops(), info);
      return run_async<Result>(
          info.Env(), env_->system(), [system, work = std::move(work)]() -> Result { return work(*system); },
          [](Napi::Env env, Result& result) { return to_value(env, result); });
    });
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value { return Napi::Number::New(info.Env(), open()->fd()); });
  }
  Napi::Value create_vm(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return run_async<std::shared_ptr<VmState>>(
          info.Env(), env_->system(),
          [system = open(), type = Args(info).u64(0)] {
            return std::make_shared<VmState>(system->create_vm(type));
          },
          [](Napi::Env env, std::shared_ptr<VmState>& vm) { return wrap(env, slot(env).vm, std::move(vm)); });
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->system(),
                     [system = std::move(system_)]() mutable { system = nullptr; });
  }
  std::shared_ptr<kvm::System> system_;
  std::shared_ptr<KvmEnv> env_;
};

// ------------------------------------------------------------------------------------------------ eventfd

class EventHandle : public Napi::ObjectWrap<EventHandle> {
 public:
  explicit EventHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(slot(info.Env()).env) {
    guarded(info.Env(), [&] { state_ = std::make_shared<EventState>(); });
    env_->add(state_);
  }
  ~EventHandle() override {
    if (state_) env_->closer().post([state = std::move(state_)]() mutable { state = nullptr; });
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeEvent",
        {InstanceMethod<&EventHandle::fd>("fd"), InstanceMethod<&EventHandle::take>("take"),
         InstanceMethod<&EventHandle::signal>("signal"), InstanceMethod<&EventHandle::wait>("wait"),
         InstanceMethod<&EventHandle::cancel>("cancel"), InstanceMethod<&EventHandle::close>("close")});
  }

 private:
  EventState& open() const {
    if (!state_) throw Error("CLOSED", "the event is closed");
    return *state_;
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value { return Napi::Number::New(info.Env(), open().fd()); });
  }
  Napi::Value take(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value { return Napi::BigInt::New(info.Env(), open().take()); });
  }
  Napi::Value signal(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      open().signal(Args(info).u64(0));
      return info.Env().Undefined();
    });
  }
  Napi::Value wait(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return run_async<uint64_t>(
          info.Env(), open().thread(), [state = state_.get()] { return state->wait(); },
          [self = keep(info.This())](Napi::Env env, uint64_t& count) -> Napi::Value {
            return Napi::BigInt::New(env, count);
          });
    });
  }
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      open().cancel();
      return info.Env().Undefined();
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->closer(), [state = std::move(state_)]() mutable { state = nullptr; });
  }
  std::shared_ptr<EventState> state_;
  std::shared_ptr<KvmEnv> env_;
};

// ---------------------------------------------------------------------------------------------- functions

Napi::Value open_system(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return run_async<std::shared_ptr<kvm::System>>(
        info.Env(), slot(info.Env()).env->system(),
        [path = Args(info).text(0)] { return kvm::System::open(path); },
        [](Napi::Env env, std::shared_ptr<kvm::System>& system) {
          return wrap(env, slot(env).system, std::move(system));
        });
  });
}

Napi::Value wrap_memory(Napi::Env env, std::shared_ptr<kvm::GuestMemory>& memory) {
  return wrap(env, slot(env).memory, std::move(memory));
}

// size, memfd?, huge page size, name
Napi::Value allocate_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Args args(info);
    kvm::GuestMemory::Options options;
    uint64_t size = args.u64(0);
    if (args.boolean(1)) options.backing = kvm::GuestMemory::Backing::kMemfd;
    options.huge_page_size = args.u64(2);
    options.name = args.text(3);
    return run_async<std::shared_ptr<kvm::GuestMemory>>(
        info.Env(), slot(info.Env()).env->system(),
        [size, options] { return kvm::GuestMemory::allocate(size, options); }, wrap_memory);
  });
}

// descriptor (duplicated), offset, size, private copy?
Napi::Value memory_from_fd(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Args args(info);
    uint64_t offset = args.u64(1), size = args.u64(2);
    bool private_copy = args.boolean(3);
    auto fd = std::make_shared<Fd>(::fcntl(args.fd(0), F_DUPFD_CLOEXEC, 0));
    if (!*fd) throw_errno("fcntl", "duplicating the descriptor of guest memory");
    return run_async<std::shared_ptr<kvm::GuestMemory>>(
        info.Env(), slot(info.Env()).env->system(),
        [=] { return kvm::GuestMemory::from_fd(std::move(*fd), offset, size, private_copy); }, wrap_memory);
  });
}

// Opens a userfaultfd and asks for its features: they come back as a bigint.
Napi::Value userfaultfd_features(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    constexpr int kUserModeOnly = 1;
    long raw = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (raw < 0 && errno == EPERM) raw = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly);
    Fd fd(static_cast<int>(raw));
    if (!fd) throw_errno("userfaultfd", "opening a userfaultfd");
    uffdio_api api{};
    api.api = UFFD_API;
    if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) throw_errno("UFFDIO_API", "asking what userfaultfd can do");
    return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(api.features));
  });
}

}  // namespace

void init_kvm(Napi::Env env, Napi::Object exports) {
  Slot& made = slot(env);
  made.system = Napi::Persistent(SystemHandle::define(env));
  made.vm = Napi::Persistent(VmHandle::define(env));
  made.vcpu = Napi::Persistent(VcpuHandle::define(env));
  made.memory = Napi::Persistent(MemoryHandle::define(env));
  made.handler = Napi::Persistent(HandlerHandle::define(env));
  Napi::Object kvm = Napi::Object::New(env);
  kvm.Set("open", Napi::Function::New(env, open_system));
  kvm.Set("allocateMemory", Napi::Function::New(env, allocate_memory));
  kvm.Set("memoryFromFd", Napi::Function::New(env, memory_from_fd));
  kvm.Set("userfaultfdFeatures", Napi::Function::New(env, userfaultfd_features));
  kvm.Set("Event", EventHandle::define(env));
  exports.Set("kvm", kvm);
}

}  // namespace hypertwin::addon
