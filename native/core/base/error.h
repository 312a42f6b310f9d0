// The one error type of native/core: which call failed, with what errno, and what was attempted.
#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>
#include <string_view>

namespace hypertwin {

// Stable codes; each layer adds its own string constants (for example "EBADSLOT", "LOG_CORRUPT").
// For a failed system call the code is errno's name ("ENOENT").
class Error : public std::runtime_error {
 public:
  // An error of ours: no system call failed.
  Error(std::string code, std::string message);
  // A failed system call: `call` is its name ("KVM_CREATE_VM", "mmap"), `attempted` what it was for.
  static Error system(int err, std::string call, std::string_view attempted);

  // An error of ours that a failed system call caused: keeps errno and the call's name of `cause`.
  static Error caused(std::string code, const std::string& message, const Error& cause) {
    return Error(std::move(code), cause.errno_, cause.call_, message);
  }

  const std::string& code() const { return code_; }
  // 0 when no system call failed.
  int err() const { return errno_; }
  // Empty when no system call failed.
  const std::string& call() const { return call_; }

 private:
  Error(std::string code, int err, std::string call, const std::string& message);
  std::string code_;
  int errno_ = 0;
  std::string call_;
};

// "ENOENT" for 2; "E<number>" for an unknown one.
std::string errno_name(int err);

[[noreturn]] inline void throw_errno(std::string call, std::string_view attempted) {
  throw Error::system(errno, std::move(call), attempted);
}

}  // namespace hypertwin
