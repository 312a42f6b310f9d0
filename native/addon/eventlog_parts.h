// The parts of the addon's event-log half that know of each other.
#pragma once

#include <napi.h>

namespace hypertwin::addon {

// Adds what writes logs that are not of machines.
void init_eventlog_writer(Napi::Env env, Napi::Object eventlog);

}  // namespace hypertwin::addon
