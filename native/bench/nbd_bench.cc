// What a machine's disk does with a server: the disk's backend, without a guest, on an nbdkit of this
// machine's that keeps its image in memory; beside a loop over libnbd alone with as much under way, and
// beside the backend of files on a file in memory. In turns. With --quick fewer.
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>

#include "backends/disk.h"
#include "backends/nbd_library.h"
#include "bench.h"
#include "machine_bench.h"

extern char** environ;

using namespace hypertwin;
using namespace hypertwin::bench;
using backends::Disk;
using backends::NbdLibrary;
using devices::BlockOperation;

namespace {

constexpr uint64_t kImage = 64u << 20;

class NbdKit {
 public:
  NbdKit(const std::string& socket, const std::string& size) {
    const std::string pid = socket + ".pid";
    std::array<const char*, 8> args{"nbdkit", "-f",        "-U",     socket.c_str(),
                                    "-P",     pid.c_str(), "memory", nullptr};
    std::array<const char*, 9> all{};
    std::copy(args.begin(), args.end() - 1, all.begin());
    all[7] = size.c_str();
    if (::posix_spawnp(&pid_, "nbdkit", nullptr, nullptr, const_cast<char**>(all.data()), environ) != 0)
      throw Error("BENCH", "nbdkit cannot be started");
    while (::access(pid.c_str(), F_OK) != 0) {
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) throw Error("BENCH", "nbdkit has ended");
      ::usleep(1000);
    }
  }
  NbdKit(const NbdKit&) = delete;
  NbdKit& operator=(const NbdKit&) = delete;
  ~NbdKit() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = 0;
};

struct Load {
  const char* name;
  bool writes;
  uint32_t size;
  unsigned in_flight, requests;
  uint64_t offset(unsigned i) const { return uint64_t{i} * 7919 * size % kImage / size * size; }
};

// Requests a second of a disk's backend.
class Backend {
 public:
  explicit Backend(const std::string& path)
      : disk_(backends::open_disk(path, {.threads = 4}, [this](Disk::Completion completion) {
          std::lock_guard lock(mutex_);
          failed_ |= completion.err != 0;
          ++done_;
          changed_.notify_one();
        })) {}

  double run(const Load& load) {
    std::vector<std::vector<uint8_t>> memory(load.in_flight, std::vector<uint8_t>(load.size, 'x'));
    const double begin = now();
    done_ = 0;
    for (unsigned i = 0; i < load.requests; ++i) {
      wait(i < load.in_flight ? 0 : i + 1 - load.in_flight);
      std::vector<uint8_t>& at = memory[i % load.in_flight];
      disk_->submit({.ordinal = i,
                     .operation = load.writes ? BlockOperation::kWrite : BlockOperation::kRead,
                     .offset = load.offset(i),
                     .size = load.size,
                     .data = {},
                     .parts = {{at.data(), at.size()}}});
    }
    wait(load.requests);
    return load.requests / (now() - begin);
  }

 private:
  void wait(unsigned count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= count; });
    if (failed_) throw Error("BENCH", "a request failed");
  }
  std::mutex mutex_;  // guards the two below
  unsigned done_ = 0;
  bool failed_ = false;
  std::condition_variable changed_;
  std::unique_ptr<Disk> disk_;
};

// The same by libnbd alone, in one thread.
class Bare {
 public:
  explicit Bare(const std::string& uri) : nbd_(NbdLibrary::get()), handle_(nbd_.create()) {
    if (!handle_ || nbd_.aio_connect_uri(handle_, uri.c_str()) < 0) throw Error("BENCH", nbd_.get_error());
    while (nbd_.aio_is_connecting(handle_) != 0) turn();
  }
  Bare(const Bare&) = delete;
  Bare& operator=(const Bare&) = delete;
  ~Bare() { nbd_.close(handle_); }

  double run(const Load& load) {
    std::vector<std::vector<uint8_t>> memory(load.in_flight, std::vector<uint8_t>(load.size, 'x'));
    const backends::NbdCallback answered{[](void* count, int* error) {
                                           if (*error) throw_errno("nbd", "measuring");
                                           ++*static_cast<unsigned*>(count);
                                           return 1;
                                         },
                                         &done_, nullptr};
    const double begin = now();
    done_ = 0;
    for (unsigned i = 0; i < load.requests; ++i) {
      while (i >= done_ + load.in_flight) turn();
      void* at = memory[i % load.in_flight].data();
      const int64_t cookie = load.writes
                                 ? nbd_.aio_pwrite(handle_, at, load.size, load.offset(i), answered, 0)
                                 : nbd_.aio_pread(handle_, at, load.size, load.offset(i), answered, 0);
      if (cookie < 0) throw Error("BENCH", nbd_.get_error());
    }
    while (done_ < load.requests) turn();
    return load.requests / (now() - begin);
  }

 private:
  void turn() {
    const unsigned direction = nbd_.aio_get_direction(handle_);
    pollfd fd{.fd = nbd_.aio_get_fd(handle_), .events = 0, .revents = 0};
    if (direction & NbdLibrary::kReads) fd.events |= POLLIN;
    if (direction & NbdLibrary::kWrites) fd.events |= POLLOUT;
    ::poll(&fd, 1, -1);
    int result = 0;
    if ((direction & NbdLibrary::kReads) && (fd.revents & POLLIN))
      result = nbd_.aio_notify_read(handle_);
    else if (fd.revents & POLLOUT)
      result = nbd_.aio_notify_write(handle_);
    if (result < 0) throw Error("BENCH", nbd_.get_error());
  }
  const NbdLibrary& nbd_;
  backends::NbdHandle* handle_;
  unsigned done_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  try {
    NbdLibrary::get();
  } catch (const Error& error) {
    std::fprintf(stderr, "skipped: disks on NBD servers: %s\n", error.what());
    return 0;
  }
  if (std::system("PATH=$PATH:/usr/sbin command -v nbdkit >/dev/null") != 0) {
    std::fprintf(stderr, "skipped: disks on NBD servers: nbdkit is missing (Debian: nbdkit)\n");
    return 0;
  }
  TempDir dir("/dev/shm");
  const std::string file = dir.file("image"), socket = dir.file("socket");
  std::ofstream(file) << std::string(kImage, 'a');
  NbdKit server(socket, std::to_string(kImage));
  const std::string uri = "nbd+unix:///?socket=" + socket;
  const unsigned share = quick ? 8 : 1;
  const std::array loads{
      Load{"read-4k/in-flight-1", false, 4096, 1, 8000 / share},
      Load{"read-4k/in-flight-16", false, 4096, 16, 32000 / share},
      Load{"write-4k/in-flight-16", true, 4096, 16, 32000 / share},
      Load{"read-1m/in-flight-4", false, 1u << 20, 4, 800 / share},
      Load{"write-1m/in-flight-4", true, 1u << 20, 4, 800 / share},
  };
  Backend ours(uri), on_file(file);
  Bare bare(uri);
  for (const Load& load : loads) {
    Pairs libnbd, files;
    // The server's memory comes with its first write.
    if (&load == &loads.front())
      for (uint64_t i = 0; i < 2; ++i) bare.run({"", true, 1u << 20, 4, 64});
    for (int turn = 0; turn < (quick ? 5 : 15); ++turn) {
      const double value = ours.run(load);
      libnbd.add(value, bare.run(load));
      files.add(value, on_file.run(load));
    }
    const std::string name = std::string("machine/disk/nbd/") + load.name;
    libnbd.print(name + "/vs-libnbd", "requests/s");
    files.print(name + "/vs-file", "requests/s");
  }
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
