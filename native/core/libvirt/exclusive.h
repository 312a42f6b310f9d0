// libvirt.so and libvirt-admin.so each hold a copy of libvirt's inner classes under the same names:
// connections of both kinds in one process crash it, whatever the program. So the first kind that is tried is
// the only one.
#pragma once

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

// Before a connection of a kind (Class::connect, Class::adm_connect) is opened by `function`. Throws
// Error("LIBVIRT_CONFLICT") when this process has tried the other kind before.
void claim_process(Class kind, const char* function);

}  // namespace hypertwin::libvirt
