#include "libvirt/counts.h"

#include <algorithm>
#include <cstdlib>

namespace hypertwin::libvirt {

namespace {
template <class F>
F* find(const Resolver& resolver, const char* name, uint32_t since) {
  return reinterpret_cast<F*>(resolver(Library::main, name, since));
}

// virNodeInfo
struct NodeInfo {
  char model[32];
  unsigned long memory;
  unsigned cpus, mhz, nodes, sockets, cores, threads;
};
}  // namespace

int64_t call_for_int(const Resolver& resolver, int index, Slot* args) {
  const Function& function = functions()[static_cast<size_t>(index)];
  void* address = resolver(function.library, function.name, function.since);
  Slot result{};
  function.thunk(address, args, &result);
  return result.i;
}

int64_t ask_by_result(const Resolver& resolver, const Slot* args, int function, int array, int capacity) {
  Slot copy[kMostParams] = {};
  std::copy_n(args, functions()[static_cast<size_t>(function)].params.size(), copy);
  copy[array].p = nullptr;
  copy[capacity].ull = 0;
  return call_for_int(resolver, function, copy);
}

int64_t ask_by_counter(const Resolver& resolver, const Slot* args, int function, int array, int counter) {
  Slot copy[kMostParams] = {};
  std::copy_n(args, functions()[static_cast<size_t>(function)].params.size(), copy);
  int count = 0;
  copy[array].p = nullptr;
  copy[counter].p = &count;
  return call_for_int(resolver, function, copy) < 0 ? -1 : count;
}

int64_t count_scheduler_parameters(const Resolver& resolver, const Slot* args) {
  auto* type = find<char*(void*, int*)>(resolver, "virDomainGetSchedulerType", 2003);
  int count = 0;
  char* name = type(args[0].p, &count);
  if (name == nullptr) return -1;
  std::free(name);
  return count;
}

int64_t count_vcpus_of_domain(const Resolver& resolver, const Slot* args) {
  constexpr unsigned kMaximum = 4, kConfig = 2;  // VIR_DOMAIN_VCPU_*
  auto* active = find<int(void*)>(resolver, "virDomainIsActive", 7003);
  auto* vcpus = find<int(void*, unsigned)>(resolver, "virDomainGetVcpusFlags", 8005);
  const int running = active(args[0].p);
  if (running < 0) return -1;
  return vcpus(args[0].p, kMaximum | (running == 0 ? kConfig : 0));
}

int64_t count_cpumap_bytes_of_domain(const Resolver& resolver, const Slot* args) {
  auto* connection = find<void*(void*)>(resolver, "virDomainGetConnect", 3000);
  auto* map = find<int(void*, unsigned char**, unsigned*, unsigned)>(resolver, "virNodeGetCPUMap", 1000000);
  auto* ask = find<int(void*, NodeInfo*)>(resolver, "virNodeGetInfo", 1000);
  void* borrowed = connection(args[0].p);
  if (borrowed == nullptr) return -1;
  int64_t cpus = map(borrowed, nullptr, nullptr, 0);
  if (cpus < 0) {
    // Some drivers know no such map. The topology's product counts CPUs that are offline, too.
    NodeInfo info{};
    if (ask(borrowed, &info) < 0) return -1;
    cpus = int64_t{info.nodes} * info.sockets * info.cores * info.threads;
  }
  return (cpus + 7) / 8;
}

}  // namespace hypertwin::libvirt
