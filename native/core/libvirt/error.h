// libvirt's errors: copied on the thread of the call, before another call can change them.
#pragma once

#include <string>

#include "base/error.h"

namespace hypertwin::libvirt {

// What virError holds, without the objects. Empty strings where it holds none.
struct ErrorDetails {
  int code = 0;    // a virErrorNumber
  int domain = 0;  // a virErrorDomain
  int level = 0;   // a virErrorLevel
  std::string message;
  std::string str1, str2, str3;
  int int1 = -1, int2 = -1;
};

// A call that failed. code() is "LIBVIRT_ERROR", call() the function's name.
class LibvirtError : public Error {
 public:
  LibvirtError(const std::string& function, ErrorDetails details);
  const std::string& function() const { return function_; }
  const ErrorDetails& details() const { return details_; }

 private:
  std::string function_;
  ErrorDetails details_;
};

// On the thread of the call, before it: what an earlier one left is not taken for its own.
void reset_error();
// On the thread of the call, after it failed.
LibvirtError last_error(const std::string& function);

}  // namespace hypertwin::libvirt
