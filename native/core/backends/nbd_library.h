// The way into libnbd: opened at first use and never closed, so that nothing needs it to be built or loaded.
// Declares what is used of it, as libnbd(3) has it since version 1.4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hypertwin::backends {

struct NbdHandle;  // struct nbd_handle

// nbd_completion_callback. `call` returns 1 when the command is to be forgotten.
struct NbdCallback {
  int (*call)(void* user, int* error);
  void* user;
  void (*free)(void* user);
};

struct NbdLibrary {
  static constexpr uint32_t kFua = 1, kNoHole = 2;             // LIBNBD_CMD_FLAG_*
  static constexpr unsigned kReads = 1, kWrites = 2;           // LIBNBD_AIO_DIRECTION_*
  static constexpr int kSmallestBlock = 0, kLargestBlock = 2;  // LIBNBD_SIZE_*

  NbdHandle* (*create)();
  void (*close)(NbdHandle*);
  const char* (*get_error)();  // of this thread's last call
  int (*get_errno)();
  int (*set_uri_allow_local_file)(NbdHandle*, bool);
  int (*set_tls_certificates)(NbdHandle*, const char* folder);
  int (*set_tls_psk_file)(NbdHandle*, const char* file);
  int (*aio_connect_uri)(NbdHandle*, const char* uri);
  int (*aio_get_fd)(NbdHandle*);
  unsigned (*aio_get_direction)(NbdHandle*);
  int (*aio_notify_read)(NbdHandle*);
  int (*aio_notify_write)(NbdHandle*);
  int (*aio_is_connecting)(NbdHandle*);
  int (*aio_is_dead)(NbdHandle*);
  int (*aio_is_closed)(NbdHandle*);
  int (*aio_disconnect)(NbdHandle*, uint32_t flags);
  int64_t (*get_size)(NbdHandle*);
  int64_t (*get_block_size)(NbdHandle*, int which);
  int (*is_read_only)(NbdHandle*);
  int (*can_flush)(NbdHandle*);
  int (*can_fua)(NbdHandle*);
  int (*can_trim)(NbdHandle*);
  int (*can_zero)(NbdHandle*);
  int64_t (*aio_pread)(NbdHandle*, void*, size_t count, uint64_t offset, NbdCallback, uint32_t flags);
  int64_t (*aio_pwrite)(NbdHandle*, const void*, size_t count, uint64_t offset, NbdCallback, uint32_t flags);
  int64_t (*aio_flush)(NbdHandle*, NbdCallback, uint32_t flags);
  int64_t (*aio_trim)(NbdHandle*, uint64_t count, uint64_t offset, NbdCallback, uint32_t flags);
  int64_t (*aio_zero)(NbdHandle*, uint64_t count, uint64_t offset, NbdCallback, uint32_t flags);

  // Throws Error("LIBNBD_MISSING") with what to install.
  static NbdLibrary open(const char* file);
  // The process's own. Throws as open(), and tries again the next time.
  static const NbdLibrary& get();
};

}  // namespace hypertwin::backends
