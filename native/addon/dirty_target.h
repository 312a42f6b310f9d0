// How a native handle (a VM's, a machine's) offers itself to a dirty tracker: its JavaScript object has a
// method `dirtyTarget` that returns make_dirty_target(...). Whoever holds the external keeps the VM open.
#pragma once

#include <napi.h>

#include <utility>

#include "base/error.h"
#include "dirty/tracker.h"

namespace hypertwin::addon {

inline constexpr napi_type_tag kDirtyTargetTag{0x6879706572747769, 0x6469727479746172};

// `target.ram` may be null: then host writes are marked through the tracker alone.
inline Napi::Value make_dirty_target(Napi::Env env, dirty::Target target) {
  auto external =
      Napi::External<dirty::Target>::New(env, std::make_unique<dirty::Target>(std::move(target)).release(),
                                         [](Napi::Env, dirty::Target* held) { delete held; });
  napi_type_tag_object(env, external, &kDirtyTargetTag);
  return external;
}

inline dirty::Target dirty_target(const Napi::Value& value) {
  bool tagged = false;
  if (!value.IsExternal() ||
      napi_check_object_type_tag(value.Env(), value, &kDirtyTargetTag, &tagged) != napi_ok || !tagged)
    throw Error("EINVAL", "no VM or machine to track");
  return *value.As<Napi::External<dirty::Target>>().Data();
}

}  // namespace hypertwin::addon
