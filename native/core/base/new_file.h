// A file that is there whole or not at all: it is written under another name beside its own, by one writer at
// a time, and gets its own when it is whole.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"

namespace hypertwin {

class NewFile {
 public:
  enum class Over : uint8_t { kAnother, kNone };

  // Creates `name` + `suffix` in `folder` (AT_FDCWD where `name` is a path), private to the user. What a
  // writer left there that did not end is used again. Throws Error: BUSY (somebody is writing it), or the
  // failed call.
  NewFile(int folder, const std::string& name, const char* suffix);
  // Removes it, unless it has its name.
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  int fd() const { return fd_.get(); }
  // Over another one, or not: then throws Error("EEXIST") where there is one.
  void give_name(Over over);
  // To go on with.
  Fd take() { return std::move(fd_); }

 private:
  const int folder_;
  const std::string name_, partial_;
  Fd fd_;
  bool named_ = false;
};

}  // namespace hypertwin
