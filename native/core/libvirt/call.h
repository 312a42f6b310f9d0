// One call of one function: its arguments checked against the generated table, then the call itself and its
// result as a tree. Whatever it allocates is freed with it.
#pragma once

#include <memory>
#include <vector>

#include "libvirt/descriptor.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

class Call {
 public:
  // Checks and copies; calls nothing. `arguments` are those of the function's params that JavaScript gives,
  // in order; what is missing at the end is undefined. Throws Error("EINVAL") that names function and
  // argument, and Error("CLOSED"). `function` outlives it.
  Call(const Function& function, const std::vector<Value>& arguments);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const Function& function() const { return function_; }

  // Once, on a thread that may block. Throws LibvirtError, Error("LIBVIRT_MISSING"),
  // Error("LIBVIRT_TOO_OLD").
  Value run();

 private:
  struct Memory;

  const Function& function_;
  std::unique_ptr<Memory> memory_;
};

// The table's function of that name; nullptr when there is none.
const Function* find_function(const char* name);

// For CountQuery.
Resolver resolver();

}  // namespace hypertwin::libvirt
