// The parts of the addon's libvirt half that know of each other.
#pragma once

#include <napi.h>

#include "libvirt/handle.h"

namespace hypertwin::addon {

void init_libvirt_open(Napi::Env env, Napi::Object exports);
void init_libvirt_events(Napi::Env env, Napi::Object exports);
void init_libvirt_streams(Napi::Env env, Napi::Object exports);

// Before a connection is closed: its subscriptions keep it.
void stop_events_of(Napi::Env env, const libvirt::Handle& connection);

}  // namespace hypertwin::addon
