// The nbdkit plugin: serves an image's local copy while it comes. A read of what is here never leaves this
// process; for what is missing the process that streams into the cache is asked, and waited for when it is
// not there: it may be killed and started again under a running guest. Read-only; writes are for nbdkit's cow
// filter or a qcow2 overlay.
//
//   nbdkit <this file> cache=FOLDER [log=FILE] [wait=SECONDS] [outlive=true]
#define NBDKIT_API_VERSION 2
#include <fcntl.h>
#include <nbdkit-plugin.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "access_log.h"
#include "base/error.h"
#include "base/fd.h"
#include "read_counts.h"
#include "stream/cached_image.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace hypertwin::nbdkit {
namespace {

using stream::CacheView;
using Clock = std::chrono::steady_clock;

// Of one read of a client that asks.
constexpr uint32_t kMaxRead = 32u << 20;

struct Served {
  std::string folder;
  std::string log_path;
  // 0: for ever.
  unsigned wait_seconds = 0;
  // Once it serves, it goes on when whoever started it ends, and says nothing more.
  bool outlive = false;
  std::unique_ptr<stream::CachedImage> image;
  std::unique_ptr<ReadCounts> counts;
  std::unique_ptr<AccessLog> log;
};

Served& served() {
  static Served instance;
  return instance;
}

const CacheView& cache() { return served().image->view(); }

thread_local Clock::time_point read_began;

// This thread's read has waited for too long.
bool is_late() {
  const unsigned limit = served().wait_seconds;
  return limit != 0 && Clock::now() - read_began > std::chrono::seconds(limit);
}

// Nothing that is thrown may come out into nbdkit. A client takes ESHUTDOWN for a server that ends, and asks
// the next one.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    nbdkit_error("%s", error.what());
    nbdkit_set_error(error.code() == "ESHUTDOWN" && !is_late() ? ESHUTDOWN : EIO);
  } catch (const std::exception& error) {
    nbdkit_error("%s", error.what());
    nbdkit_set_error(ENOMEM);
  }
  return -1;
}

// Waits; false when the client has gone, nbdkit ends, or this read has waited for too long.
bool pause(int ms) {
  return !is_late() && nbdkit_nanosleep(0, static_cast<unsigned>(ms < 1 ? 1 : ms) * 1'000'000u) == 0;
}

void read(void* to, uint32_t size, uint64_t offset) {
  if (size == 0) return;
  const auto begin = Clock::now();
  read_began = begin;
  AccessLog* log = served().log.get();
  try {
    uint64_t waited_us = 0;
    if (!served().image->read(to, size, offset)) {
      const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count();
      waited_us = static_cast<uint64_t>(std::max<int64_t>(1, waited));
    }
    served().counts->add(waited_us);
    const uint32_t chunk_size = cache().chunk_size();
    if (log)
      log->add(static_cast<uint32_t>(offset / chunk_size),
               static_cast<uint32_t>((offset + size - 1) / chunk_size), size, begin, waited_us);
  } catch (...) {
    served().counts->failed();
    if (log) log->failed();
    throw;
  }
}

int config(const char* key, const char* value) {
  const std::string name = key;
  if (name == "cache" || name == "log") {
    char* path = nbdkit_absolute_path(value);
    if (!path) return -1;
    (name == "cache" ? served().folder : served().log_path) = path;
    std::free(path);
    return 0;
  }
  if (name == "wait") return nbdkit_parse_unsigned("wait", value, &served().wait_seconds);
  if (name == "outlive") {
    const int on = nbdkit_parse_bool(value);
    served().outlive = on == 1;
    return on < 0 ? -1 : 0;
  }
  nbdkit_error("unknown parameter '%s'", key);
  return -1;
}

int config_complete() {
  if (!served().folder.empty()) return 0;
  nbdkit_error("give the cache's folder: cache=FOLDER");
  return -1;
}

int get_ready() {
  return guarded([] {
    Served& all = served();
    all.image = std::make_unique<stream::CachedImage>(all.folder, pause);
    all.counts = std::make_unique<ReadCounts>(cache().folder());
    if (!all.log_path.empty())
      all.log = std::make_unique<AccessLog>(all.log_path, cache().chunk_size(), cache().chunks(),
                                            cache().manifest_digest());
  });
}

// From here on this process serves. It is not ended with whoever started it (--exit-with-parent), whose file
// its messages went to.
int after_fork() {
  if (guarded([] { served().counts->start(); }) != 0) return -1;
  if (!served().outlive) return 0;
  const Fd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (::prctl(PR_SET_PDEATHSIG, 0) == 0 && ::dup2(nowhere.get(), STDOUT_FILENO) >= 0 &&
      ::dup2(nowhere.get(), STDERR_FILENO) >= 0)
    return 0;
  nbdkit_error("outlive: %m");
  return -1;
}

void* open_handle(int /*readonly*/) { return NBDKIT_HANDLE_NOT_NEEDED; }
int64_t get_size(void* /*handle*/) { return static_cast<int64_t>(cache().image_size()); }
int no(void* /*handle*/) { return 0; }
int yes(void* /*handle*/) { return 1; }

int pread_chunks(void* /*handle*/, void* to, uint32_t size, uint64_t offset, uint32_t /*flags*/) {
  return guarded([&] { read(to, size, offset); });
}

int extents(void* /*handle*/, uint32_t size, uint64_t offset, uint32_t flags, struct nbdkit_extents* found) {
  const uint64_t chunk_size = cache().chunk_size();
  const uint64_t end = offset + size;
  for (uint64_t at = offset; at < end;) {
    const auto hole = [&](uint64_t where) {
      return cache().chunk(static_cast<uint32_t>(where / chunk_size)) == CacheView::Chunk::kHole;
    };
    const bool is_hole = hole(at);
    uint64_t next = at;
    do {
      next = std::min((next / chunk_size + 1) * chunk_size, cache().image_size());
    } while (next < end && hole(next) == is_hole);
    const uint32_t type = is_hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
    if (nbdkit_add_extent(found, at, next - at, type) == -1) return -1;
    if ((flags & NBDKIT_FLAG_REQ_ONE) != 0) break;
    at = next;
  }
  return 0;
}

int can_cache(void* /*handle*/) { return NBDKIT_CACHE_NATIVE; }

// A client says that it will read this. What the copy has no room for would only fill the memory.
int cache_chunks(void* /*handle*/, uint32_t size, uint64_t offset, uint32_t /*flags*/) {
  return guarded([&] {
    read_began = Clock::now();
    for (uint32_t done = 0, piece = 0; done < size; done += piece) {
      piece = std::min(size - done, kMaxRead);
      if (!served().image->bring(offset + done, piece).empty()) return;
    }
  });
}

int block_size(void* /*handle*/, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
  *minimum = 1;
  *preferred = cache().chunk_size();
  *maximum = kMaxRead;
  return 0;
}

void unload() { served() = {}; }

constexpr struct nbdkit_plugin make_plugin() {
  struct nbdkit_plugin plugin {};
  plugin.name = "hypertwin";
  plugin.longname = "hypertwin: an image that can be read while it comes";
  plugin.version = HYPERTWIN_VERSION;
  plugin.unload = unload;
  plugin.config = config;
  plugin.config_complete = config_complete;
  plugin.config_help =
      "cache=FOLDER  (required) the image's local copy, as hypertwin/stream makes it\n"
      "log=FILE      writes down what is read\n"
      "wait=SECONDS  how long a read waits for a chunk, 0 for ever (the default)\n"
      "outlive=true  once it serves, it goes on when whoever started it ends, and says nothing more";
  plugin.magic_config_key = "cache";
  plugin.get_ready = get_ready;
  plugin.after_fork = after_fork;
  plugin.open = open_handle;
  plugin.get_size = get_size;
  plugin.can_write = no;
  plugin.can_flush = no;
  plugin.is_rotational = no;
  plugin.can_trim = no;
  plugin.can_multi_conn = yes;
  plugin.pread = pread_chunks;
  plugin.can_extents = yes;
  plugin.extents = extents;
  plugin.can_cache = can_cache;
  plugin.cache = cache_chunks;
  plugin.block_size = block_size;
  return plugin;
}

struct nbdkit_plugin plugin = make_plugin();

}  // namespace
}  // namespace hypertwin::nbdkit

using hypertwin::nbdkit::plugin;
NBDKIT_REGISTER_PLUGIN(plugin)
