#include "libvirt/error.h"

#include <utility>

#include "libvirt/abi.h"
#include "libvirt/loader.h"

namespace hypertwin::libvirt {

namespace {

std::string text(const char* from) { return from ? from : ""; }

}  // namespace

LibvirtError::LibvirtError(const std::string& function, ErrorDetails details)
    : Error("LIBVIRT_ERROR",
            function + ": " +
                (details.message.empty() ? "failed, and libvirt does not say why" : details.message)),
      function_(function),
      details_(std::move(details)) {}

void reset_error() {
  static auto* const reset = loader().get<void()>("virResetLastError");
  reset();
}

LibvirtError last_error(const std::string& function) {
  static auto* const get = loader().get<abi::Error*()>("virGetLastError");
  ErrorDetails details;
  if (const abi::Error* error = get()) {
    details.code = error->code;
    details.domain = error->domain;
    details.level = error->level;
    details.message = text(error->message);
    details.str1 = text(error->str1);
    details.str2 = text(error->str2);
    details.str3 = text(error->str3);
    details.int1 = error->int1;
    details.int2 = error->int2;
  }
  return LibvirtError(function, std::move(details));
}

}  // namespace hypertwin::libvirt
