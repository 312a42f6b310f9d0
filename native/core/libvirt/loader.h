// The way into libvirt: its four libraries, opened at first use and never closed. No header of libvirt's is
// needed to build, and everything here works without libvirt until a symbol is asked for.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

constexpr size_t kLibraries = 4;

// One set of the four. The process has one, loader(); a test makes others by file names that are not there.
class Loader {
 public:
  // In Library's order.
  explicit Loader(std::vector<std::string> files);
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Opens libvirt and makes it ready (its own messages to stderr off, the event loop's thread running) when
  // that is not done. Throws Error("LIBVIRT_MISSING").
  void load();
  // As load(). 9000000 for 9.0.0.
  uint64_t version();

  // A function's address. `since` is the version that brought it (4001000). Throws Error("LIBVIRT_MISSING"),
  // Error("LIBVIRT_TOO_OLD").
  void* symbol(Library lib, const char* name, uint32_t since);
  // nullptr where symbol() throws LIBVIRT_TOO_OLD.
  void* find(Library lib, const char* name);

  // The same with the function's type.
  template <class F>
  F* get(const char* name, uint32_t since = 1000, Library lib = Library::main) {
    return reinterpret_cast<F*>(symbol(lib, name, since));
  }

 private:
  void* open(Library lib);

  const std::vector<std::string> files_;
  std::mutex mutex_;  // guards the three below
  void* handles_[kLibraries] = {};
  bool ready_ = false;
  uint64_t version_ = 0;
};

// The process's own; never destroyed.
Loader& loader();

// "9.0.0" for 9000000.
std::string version_text(uint64_t version);

}  // namespace hypertwin::libvirt
