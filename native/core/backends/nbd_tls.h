// Whether libnbd, given a URI, verifies the server's certificate. Where it finds no authority to verify it by
// it takes any, so such a URI is refused here.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace hypertwin::backends {

// What a URI's `name=` says, decoded; nothing when it says nothing.
std::optional<std::string> uri_parameter(std::string_view uri, std::string_view name);

// Error("BAD_CONFIG") for an nbds:// URI without a key, nor a folder with ca-cert.pem: neither named by it
// nor where libnbd looks. On a UNIX socket or vsock it has no host's name to compare, and verifies nothing.
std::optional<Error> unverifiable(const std::string& uri);

}  // namespace hypertwin::backends
