// How many elements an output array needs room for, asked of libvirt before the call that fills it.
#pragma once

#include <cstdint>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

// Calls the table's function `index` with the arguments; its int result.
int64_t call_for_int(const Resolver& resolver, int index, Slot* args);
constexpr int kMostParams = 10;

// The result of another function of the table, given the chosen arguments of this call.
template <int F, int... Args>
int64_t by_function(const Resolver& resolver, const Slot* args) {
  Slot chosen[] = {args[Args]...};
  return call_for_int(resolver, F, chosen);
}

// The result of the function itself, called without an array.
int64_t ask_by_result(const Resolver& resolver, const Slot* args, int function, int array, int capacity);
template <int F, int Array, int Capacity>
int64_t by_result(const Resolver& resolver, const Slot* args) {
  return ask_by_result(resolver, args, F, Array, Capacity);
}

// What the function itself, called without an array, writes to its counter.
int64_t ask_by_counter(const Resolver& resolver, const Slot* args, int function, int array, int counter);
template <int F, int Array, int Counter>
int64_t by_counter(const Resolver& resolver, const Slot* args) {
  return ask_by_counter(resolver, args, F, Array, Counter);
}

// Of the domain that is the first argument: how many scheduler settings it has, how many virtual CPUs it may
// have, and how many bytes a map of its host's CPUs takes.
int64_t count_scheduler_parameters(const Resolver& resolver, const Slot* args);
int64_t count_vcpus_of_domain(const Resolver& resolver, const Slot* args);
int64_t count_cpumap_bytes_of_domain(const Resolver& resolver, const Slot* args);

}  // namespace hypertwin::libvirt
