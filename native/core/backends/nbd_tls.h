// What an nbds:// URI's TLS goes by. libnbd's versions differ in how they read a URI's parameters, and where
// they find no authority to verify a server by they take any: so what could be read in two ways is refused
// here, and what was read is given to libnbd beside the URI.
#pragma once

#include <string>

namespace hypertwin::backends {

struct TlsFiles {
  std::string certificates;  // a folder; empty: none
  std::string psk_file;      // empty: none
};

// Nothing for a URI without TLS. Throws Error("BAD_CONFIG") for a query that could be read in two ways, or
// that turns verification off, and for an nbds:// URI with neither a key nor a folder with ca-cert.pem, named
// by it or where libnbd looks. On a UNIX socket or vsock libnbd has no host's name to compare, and verifies
// no certificate.
TlsFiles tls_files(const std::string& uri);

}  // namespace hypertwin::backends
