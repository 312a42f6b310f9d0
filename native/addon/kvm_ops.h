// The operations that JavaScript can ask of a system, VM or vCPU by name. Each reads its arguments on the
// JavaScript thread and returns what is to run on the handle's own thread.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>

#include "kvm_args.h"
#include "kvm_state.h"

namespace hypertwin::addon {

template <class Target>
using Ops = std::unordered_map<std::string, std::function<std::function<Result(Target&)>(const Args&)>>;

const Ops<kvm::System>& system_ops();
const Ops<VmState>& vm_ops();
const Ops<kvm::VcpuRunner>& vcpu_ops();

}  // namespace hypertwin::addon
