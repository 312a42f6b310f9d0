#include "base/error.h"

#include <cstring>

namespace hypertwin {

Error::Error(std::string code, std::string message)
    : std::runtime_error(message), code_(std::move(code)) {}

Error::Error(std::string code, int err, std::string call, const std::string& message)
    : std::runtime_error(message), code_(std::move(code)), errno_(err), call_(std::move(call)) {}

Error Error::system(int err, std::string call, std::string_view attempted) {
  std::string message = call + " failed while " + std::string(attempted) + ": " + std::strerror(err) + " (" +
                        errno_name(err) + ")";
  return Error(errno_name(err), err, std::move(call), message);
}

std::string errno_name(int err) {
  const char* name = strerrorname_np(err);
  return name ? name : "E" + std::to_string(err);
}

}  // namespace hypertwin
