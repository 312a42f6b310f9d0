#include "libvirt/loader.h"

#include <dlfcn.h>

#include <memory>
#include <utility>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/event_loop.h"
#include "libvirt/threads.h"

namespace hypertwin::libvirt {

namespace {

void be_silent(void*, abi::Error*) {}

}  // namespace

std::string version_text(uint64_t version) {
  return std::to_string(version / 1000000) + "." + std::to_string(version / 1000 % 1000) + "." +
         std::to_string(version % 1000);
}

Loader::Loader(std::vector<std::string> files) : files_(std::move(files)) {}

void* Loader::open(Library lib) {
  const auto index = static_cast<size_t>(lib);
  if (!handles_[index]) {
    handles_[index] = ::dlopen(files_[index].c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handles_[index]) {
      const char* why = ::dlerror();
      throw Error(
          "LIBVIRT_MISSING",
          "opening libvirt: " + std::string(why ? why : files_[index] + " cannot be loaded") +
              ". Install libvirt's client libraries: on Debian and Ubuntu `apt-get install libvirt0`, "
              "on Fedora `dnf install libvirt-libs`, on Alpine `apk add libvirt-libs`");
    }
  }
  return handles_[index];
}

void Loader::load() {
  std::lock_guard lock(mutex_);
  if (ready_) return;
  void* main = open(Library::main);
  const auto find = [main](const char* name) { return ::dlsym(main, name); };
  const Working working(Working::Kind::initialisation);
  auto* initialize = reinterpret_cast<int (*)()>(find("virInitialize"));
  auto* get_version =
      reinterpret_cast<int (*)(unsigned long*, const char*, unsigned long*)>(find("virGetVersion"));
  auto* set_error_function =
      reinterpret_cast<void (*)(void*, void (*)(void*, abi::Error*))>(find("virSetErrorFunc"));
  unsigned long version = 0;
  if (!initialize || !get_version || !set_error_function || initialize() < 0 ||
      get_version(&version, nullptr, nullptr) < 0)
    throw Error("LIBVIRT_MISSING", "opening libvirt: " + files_[0] + " cannot be initialised");
  set_error_function(nullptr, be_silent);
  version_ = version;
  start_event_loop(main);
  ready_ = true;
}

uint64_t Loader::version() {
  load();
  std::lock_guard lock(mutex_);
  return version_;
}

void* Loader::find(Library lib, const char* name) {
  load();
  std::lock_guard lock(mutex_);
  return ::dlsym(open(lib), name);
}

void* Loader::symbol(Library lib, const char* name, uint32_t since) {
  if (void* found = find(lib, name)) return found;
  throw Error("LIBVIRT_TOO_OLD", std::string(name) + " came with libvirt " + version_text(since) +
                                     ", and this is libvirt " + version_text(version()) +
                                     ": it takes a newer libvirt");
}

Loader& loader() {
  // Threads use it until the process is gone, so it is not destroyed before.
  static Loader& one =
      *std::make_unique<Loader>(std::vector<std::string>{"libvirt.so.0", "libvirt-qemu.so.0",
                                                         "libvirt-lxc.so.0", "libvirt-admin.so.0"})
           .release();
  return one;
}

}  // namespace hypertwin::libvirt
