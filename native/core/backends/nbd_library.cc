#include "backends/nbd_library.h"

#include <dlfcn.h>

#include <string>

#include "base/error.h"

namespace hypertwin::backends {

NbdLibrary NbdLibrary::open(const char* file) {
  auto missing = [](const std::string& why) {
    return Error("LIBNBD_MISSING", "opening libnbd, for a disk on an NBD server: " + why +
                                       ". Install it: on Debian and Ubuntu `apt-get install libnbd0`, on "
                                       "Fedora `dnf install libnbd`, on Alpine `apk add libnbd`");
  };
  void* library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = ::dlerror();
    throw missing(why ? why : std::string(file) + " cannot be loaded");
  }
  NbdLibrary to{};
  auto find = [&]<class F>(F*& function, const char* name) {
    function = reinterpret_cast<F*>(::dlsym(library, name));
    if (!function) throw missing(std::string(file) + " has no " + name + ", which came with version 1.4");
  };
  find(to.create, "nbd_create");
  find(to.close, "nbd_close");
  find(to.get_error, "nbd_get_error");
  find(to.get_errno, "nbd_get_errno");
  find(to.set_uri_allow_local_file, "nbd_set_uri_allow_local_file");
  find(to.set_tls_certificates, "nbd_set_tls_certificates");
  find(to.set_tls_psk_file, "nbd_set_tls_psk_file");
  find(to.aio_connect_uri, "nbd_aio_connect_uri");
  find(to.aio_get_fd, "nbd_aio_get_fd");
  find(to.aio_get_direction, "nbd_aio_get_direction");
  find(to.aio_notify_read, "nbd_aio_notify_read");
  find(to.aio_notify_write, "nbd_aio_notify_write");
  find(to.aio_is_connecting, "nbd_aio_is_connecting");
  find(to.aio_is_dead, "nbd_aio_is_dead");
  find(to.aio_is_closed, "nbd_aio_is_closed");
  find(to.aio_disconnect, "nbd_aio_disconnect");
  find(to.get_size, "nbd_get_size");
  find(to.get_block_size, "nbd_get_block_size");
  find(to.is_read_only, "nbd_is_read_only");
  find(to.can_flush, "nbd_can_flush");
  find(to.can_fua, "nbd_can_fua");
  find(to.can_trim, "nbd_can_trim");
  find(to.can_zero, "nbd_can_zero");
  find(to.aio_pread, "nbd_aio_pread");
  find(to.aio_pwrite, "nbd_aio_pwrite");
  find(to.aio_flush, "nbd_aio_flush");
  find(to.aio_trim, "nbd_aio_trim");
  find(to.aio_zero, "nbd_aio_zero");
  return to;
}

const NbdLibrary& NbdLibrary::get() {
  static const NbdLibrary one = open("libnbd.so.0");
  return one;
}

}  // namespace hypertwin::backends
