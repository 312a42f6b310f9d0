// The destination's side of pre-copy. All that comes is hostile: payloads are parsed and checked by codec.h
// and payloads.h before anything of them is applied.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "backends/disk.h"
#include "base/clock.h"
#include "base/fd.h"
#include "machine/cpuid.h"
#include "migrate/codec.h"
#include "migrate/migrate.h"
#include "migrate/payloads.h"
#include "migrate/peer.h"
#include "replay/recorder.h"

namespace hypertwin::migrate {

namespace {

constexpr uint64_t kTick = 50'000'000;
constexpr const char* kAborted = "ABORTED";
constexpr std::chrono::milliseconds kForEver{0};

// Blocks of an image that may be without their checksum: 128 MiB.
constexpr size_t kSettled = 2048;

// An image that is being filled.
class Image {
 public:
  Image(const std::string& path, size_t disk, uint64_t size)
      : path_(path),
        disk_(disk),
        size_(size),
        checksums_((size + kBlock - 1) / kBlock),
        fresh_((checksums_.size() + 63) / 64) {
    fd_ = Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd_) throw_errno("open", "opening the disk image " + path + " to fill it");
  }
  size_t disk() const { return disk_; }

  // Content of `index`th block, before what `entry` says.
  void put(const Entry& entry, std::vector<uint8_t>& buffer) {
    for (uint64_t block = entry.first; block < entry.first + entry.count; ++block) {
      std::span<uint8_t> bytes(buffer.data(), block_bytes(block, size_));
      // At the end of a round the source waits, and takes long silence for a loss.
      if (++unsettled_ > kSettled) settle(buffer);
      fresh_[block / 64] |= uint64_t{1} << (block % 64);
      if (entry.coding == Coding::kZero) {
        // A hole stays one.
        read(block, bytes);
        if (is_zero(bytes)) continue;
      }
      decode(entry, bytes);
      for (size_t done = 0; done < bytes.size();) {
        ssize_t n = ::pwrite(fd_.get(), bytes.data() + done, bytes.size() - done,
                             static_cast<off_t>(block * kBlock + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno("pwrite", "filling the disk image " + path_);
        done += static_cast<size_t>(n);
      }
    }
  }

  // What came since the last time, to stable storage and read again.
  void settle(std::vector<uint8_t>& buffer) {
    bool any = false;
    for (auto [first, count] : dirty::Ranges(fresh_))
      for (uint64_t block = first; block < first + count; ++block, any = true) {
        std::span<uint8_t> bytes(buffer.data(), block_bytes(block, size_));
        read(block, bytes);
        checksums_[block] = checksum64(bytes);
      }
    unsettled_ = 0;
    if (!any) return;
    std::fill(fresh_.begin(), fresh_.end(), 0);
    if (::fdatasync(fd_.get()) < 0) throw_errno("fdatasync", "filling the disk image " + path_);
  }
  Digest128 digest() const {
    return digest128(
        {reinterpret_cast<const uint8_t*>(checksums_.data()), checksums_.size() * sizeof(uint64_t)});
  }

 private:
  void read(uint64_t block, std::span<uint8_t> bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      ssize_t n = ::pread(fd_.get(), bytes.data() + done, bytes.size() - done,
                          static_cast<off_t>(block * kBlock + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw_errno("pread", "reading the disk image " + path_);
      if (n == 0) throw Error("EIO", "the disk image " + path_ + " was cut while it was filled");
      done += static_cast<size_t>(n);
    }
  }

  std::string path_;
  size_t disk_;
  uint64_t size_;
  Fd fd_;
  std::vector<uint64_t> checksums_;
  std::vector<uint64_t> fresh_;  // one bit a block
  size_t unsettled_ = 0;         // blocks that came since settle()
};

// True when it was made.
bool make_image(const std::string& path, uint64_t size) {
  if (backends::is_nbd_uri(path))
    throw Error("BAD_CONFIG",
                "the disk " + backends::without_secrets(path) +
                    " is on a server, perhaps the source's own, and a copy of it is made in a file "
                    "alone: name one at the destination; a migration may leave disks shared instead");
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    if (errno == EEXIST) return false;
    throw_errno("open", "creating the disk image " + path);
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0)
    throw_errno("ftruncate", "creating the disk image " + path);
  return true;
}

}  // namespace

struct Receiver::Impl {
  Impl(std::shared_ptr<kvm::System> its_system, wire::Channel& channel, ReceiverOptions its_options)
      : system(std::move(its_system)), peer(channel, "source"), options(std::move(its_options)) {
    started_ns = now_ns();
  }

  void step(Step which) const {
    if (options.on_step) options.on_step(which);
  }

  void report(bool at_once) {
    const uint64_t now = now_ns();
    if (!at_once && now - reported_ns < kTick) return;
    Progress copy;
    {
      std::lock_guard lock(mutex);
      const uint64_t bytes = peer.channel().received_bytes();
      if (reported_ns != 0 && now > reported_ns && bytes > progress.bytes_sent)
        progress.bytes_per_second =
            static_cast<double>(bytes - progress.bytes_sent) * 1e9 / static_cast<double>(now - reported_ns);
      progress.bytes_sent = bytes;
      progress.elapsed_ns = now - started_ns;
      progress.pages_sent =
          progress.pages_zero + progress.pages_raw + progress.pages_compressed + progress.pages_delta;
      copy = progress;
    }
    reported_ns = now;
    if (options.on_progress) options.on_progress(copy);
  }
  template <class F>
  void update(F change) {
    std::lock_guard lock(mutex);
    change(progress);
  }

  // Whatever goes wrong, the source hears of it, and nothing is left.
  template <class F>
  void guarded(wire::FrameType last_words, F work) {
    try {
      work();
    } catch (const Error& problem) {
      machine.reset();
      Error error = problem.code() == "CORRUPT" ? Error("PROTOCOL", problem.what()) : problem;
      if (error.code() != "PEER_LOST" && error.code() != kAborted) peer.tell(last_words, error);
      throw error;
    } catch (const std::exception& problem) {
      machine.reset();
      peer.tell(last_words, Error("FAILED", problem.what()));
      throw;
    }
  }

  void check_host() {
    log::LogHeader here =
        replay::host_header(system, machine::deterministic_cpuid(system->supported_cpuid()));
    here.memory_size = hello.config.memory_size;
    here.initial_state = hello.host.initial_state;
    std::string all;
    for (const std::string& difference : log::replay_mismatches(hello.host, here))
      all += (all.empty() ? "" : "; ") + difference;
    if (!all.empty())
      throw Error("MIGRATION_MISMATCH",
                  "this host cannot go on with the source's machine (\"log\" is the source): " + all);
  }

  void prepare() {
    machine::MachineConfig config = hello.config;
    if (options.adjust) options.adjust(config);
    const auto& there = hello.config;
    if (config.memory_size != there.memory_size || config.nets.size() != there.nets.size() ||
        config.disks.size() != there.disks.size())
      throw Error("BAD_CONFIG",
                  "memory and devices must stay as they are at the source: choose only other "
                  "disks' paths and other taps");
    Accept accept;
    accept.features = hello.features & spoken_features();
    for (size_t i = 0; i < config.nets.size(); ++i) config.nets[i].mac = there.nets[i].mac;
    for (size_t i = 0; i < config.disks.size(); ++i) {
      config.disks[i].size = there.disks[i].size;
      config.disks[i].read_only = there.disks[i].read_only;
      if (!hello.disks) continue;
      const bool made = make_image(config.disks[i].path, config.disks[i].size);
      // What nobody writes and is there already is the same image.
      accept.disks.push_back(made || !config.disks[i].read_only);
    }
    config.command_line = there.command_line;
    config.wall_clock = there.wall_clock;
    machine = machine::Machine::incoming(
        system, config, options.listener,
        hello.purpose == Purpose::kProtect ? machine::Backends::kStandby : machine::Backends::kAttached);
    for (size_t i = 0; i < config.disks.size(); ++i) disk_sizes.push_back(config.disks[i].size);
    for (size_t i = 0; i < accept.disks.size(); ++i)
      if (accept.disks[i]) images.emplace_back(config.disks[i].path, i, config.disks[i].size);
    features = accept.features;
    page_count = config.memory_size / kPage;
    received.assign(dirty::words_for(page_count), 0);
    peer.send(wire::FrameType::kAccept, encode_accept(accept), kAborted);
    step(Step::kAcceptSent);
  }

  void put_pages(std::span<const uint8_t> payload) {
    PageReader reader(payload, page_count, features);
    Entry entry;
    Progress now;
    while (reader.next(entry)) {
      for (uint64_t page = entry.first; page < entry.first + entry.count; ++page) {
        const bool had = received[page / 64] >> (page % 64) & 1;
        std::span<uint8_t> bytes(machine->memory().data() + page * kPage, kPage);
        if (entry.coding == Coding::kZero) {
          // What was never written is zero: it stays a hole.
          if (had) decode(entry, bytes);
          continue;
        }
        if (entry.coding == Coding::kDelta && !had)
          throw Error("PROTOCOL", "a difference for page " + std::to_string(page) + ", which never came");
        decode(entry, bytes);
        received[page / 64] |= uint64_t{1} << (page % 64);
      }
      switch (entry.coding) {
        case Coding::kZero:
          now.pages_zero += entry.count;
          break;
        case Coding::kRaw:
          ++now.pages_raw;
          break;
        case Coding::kLz4:
          ++now.pages_compressed;
          break;
        case Coding::kDelta:
          ++now.pages_delta;
          break;
      }
    }
    update([&](Progress& p) {
      p.pages_zero += now.pages_zero;
      p.pages_raw += now.pages_raw;
      p.pages_compressed += now.pages_compressed;
      p.pages_delta += now.pages_delta;
    });
  }

  void put_blocks(std::span<const uint8_t> payload) {
    BlockReader reader(payload, disk_sizes, features);
    auto image = std::find_if(images.begin(), images.end(),
                              [&](const Image& one) { return one.disk() == reader.disk(); });
    if (image == images.end())
      throw Error("PROTOCOL",
                  "blocks of disk " + std::to_string(reader.disk()) + ", which were not asked for");
    Entry entry;
    uint64_t blocks = 0;
    while (reader.next(entry)) {
      image->put(entry, buffer);
      blocks += entry.count;
    }
    update([&](Progress& p) { p.disk_blocks_sent += blocks; });
  }

  void settle_disks() {
    for (Image& image : images) image.settle(buffer);
  }

  void verify(const MovedState& state, const Digest128& memory) {
    std::string wrong;
    auto compare = [&](const char* what, const Digest128& there, const Digest128& here) {
      if (there == here) return;
      wrong += (wrong.empty() ? "" : "; ") + std::string(what) + ": " + there.hex() + " there, " +
               here.hex() + " here";
    };
    digest = state.digest;
    if (state.memory_verified) compare("memory", state.digest.memory, memory);
    machine->call(machine::At::kAnywhere, [&] {
      machine::StateDigest here = machine->digest_here(false);
      if (here.boundary != state.digest.boundary)
        wrong += (wrong.empty() ? "" : "; ") + std::string("boundary");
      compare("vCPU", state.digest.vcpu, here.vcpu);
      compare("devices", state.digest.devices, here.devices);
    });
    if (state.disks.size() != images.size())
      throw Error("PROTOCOL", "the digests of " + std::to_string(state.disks.size()) + " disks, not of " +
                                  std::to_string(images.size()));
    for (size_t i = 0; i < images.size(); ++i)
      compare(("disk " + std::to_string(images[i].disk())).c_str(), state.disks[i], images[i].digest());
    if (!wrong.empty())
      throw Error("MIGRATION_DIGEST", "what arrived is not what was sent, nothing is moved: " + wrong);
  }

  std::shared_ptr<machine::Machine> receive() {
    StateParts parts;
    std::optional<Digest128> memory;
    bool final = false;
    update([](Progress& p) { p.phase = Progress::Phase::kMemory; });
    using wire::FrameType;
    while (!parts.complete()) {
      auto frame = final ? peer.receive({FrameType::kState}, kForEver, kAborted)
                         : peer.receive({FrameType::kPages, FrameType::kBlocks, FrameType::kRoundEnd},
                                        kForEver, kAborted);
      if (frame.type == FrameType::kPages) {
        put_pages(frame.payload);
        report(false);
      } else if (frame.type == FrameType::kBlocks) {
        put_blocks(frame.payload);
        report(false);
      } else if (frame.type == FrameType::kRoundEnd) {
        RoundEnd end = decode_round_end(frame.payload);
        final = end.final;
        update([&](Progress& p) {
          p.round = end.round;
          if (final) p.phase = Progress::Phase::kStop;
        });
        settle_disks();
        if (final)
          memory = machine->memory().digest();
        else
          peer.send(FrameType::kRoundEnd, encode_round_end(end), kAborted);
        report(true);
        step(Step::kRoundReceived);
      } else {
        parts.add(frame.payload);
      }
    }
    step(Step::kStateReceived);
    MovedState state = decode_state(parts.bytes());
    running = state.running;
    machine->arrive(state.machine);
    verify(state, *memory);
    update([](Progress& p) { p.phase = Progress::Phase::kCommit; });
    report(true);
    step(Step::kVerified);
    images.clear();
    return machine;
  }

  std::shared_ptr<kvm::System> system;
  Peer peer;
  ReceiverOptions options;
  Hello hello;
  std::shared_ptr<machine::Machine> machine;
  std::vector<uint64_t> disk_sizes;
  std::vector<Image> images;
  std::vector<uint8_t> buffer = std::vector<uint8_t>(kBlock);
  uint32_t features = 0;
  uint64_t page_count = 0;
  std::vector<uint64_t> received;  // pages that came with content, one bit each
  bool running = false;
  machine::StateDigest digest;
  uint64_t started_ns = 0, reported_ns = 0;

  mutable std::mutex mutex;  // guards progress; taken alone
  Progress progress;
};

Receiver::Receiver(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiverOptions options)
    : impl_(std::make_unique<Impl>(std::move(system), channel, std::move(options))) {}

Receiver::~Receiver() = default;

const Hello& Receiver::handshake() {
  Impl& my = *impl_;
  my.guarded(wire::FrameType::kRefuse, [&] {
    // Who says nothing must not keep others out.
    auto frame = my.peer.receive({wire::FrameType::kHello}, my.options.hello_patience, kAborted);
    my.hello = decode_hello(frame.payload);
    my.step(Step::kHelloReceived);
    const auto& wanted = my.options.purposes;
    if (std::find(wanted.begin(), wanted.end(), my.hello.purpose) == wanted.end())
      throw Error("MIGRATION_MISMATCH",
                  my.hello.purpose == Purpose::kMigrate
                      ? "this side takes machines to protect, not to run: migrate to another address"
                      : "this side takes machines to run, not to protect: choose the address of a backup");
    my.check_host();
    my.prepare();
  });
  return my.hello;
}

std::shared_ptr<machine::Machine> Receiver::receive() {
  Impl& my = *impl_;
  std::shared_ptr<machine::Machine> machine;
  my.guarded(wire::FrameType::kAbort, [&] {
    if (!my.machine) throw Error("BAD_STATE", "receive() comes after handshake()");
    machine = my.receive();
  });
  my.machine.reset();
  return machine;
}

bool Receiver::was_running() const { return impl_->running; }

machine::StateDigest Receiver::digest() const { return impl_->digest; }

void Receiver::ready() {
  impl_->peer.send(wire::FrameType::kReady, {}, kAborted);
  impl_->step(Step::kReadySent);
}

Progress Receiver::progress() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->progress;
}

}  // namespace hypertwin::migrate
