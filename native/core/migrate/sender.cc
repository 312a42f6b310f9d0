// The source's side of pre-copy.

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/random.h"
#include "migrate/codec.h"
#include "migrate/migrate.h"
#include "migrate/payloads.h"
#include "migrate/peer.h"
#include "replay/recorder.h"

namespace hypertwin::migrate {

namespace {

// Payloads of pages and blocks: large enough to be cheap, small enough for a limit to be smooth.
constexpr size_t kBatch = 256u << 10;
constexpr size_t kSmallBatch = 16u << 10;
constexpr uint64_t kTick = 50'000'000;  // ns between two calls of on_progress
// A round with less says little about the connection's speed.
constexpr uint64_t kTellingBytes = 256u << 10;
// Of a stop, besides what is measured: the vCPU's kick, its state.
constexpr double kStopSeconds = 0.001;
constexpr std::chrono::milliseconds kPageLook{2};
constexpr std::chrono::milliseconds kCancelGrace{1000};
constexpr const char* kRefused = "REFUSED";

double seconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

SessionId random_session() {
  SessionId id;
  fill_random(id, "naming a migration");
  return id;
}

std::string session_text(const SessionId& id) { return log::hex(id); }

std::string_view step_name(Step step) {
  switch (step) {
    case Step::kConnected:
      return "connected";
    case Step::kHelloSent:
      return "hello-sent";
    case Step::kAccepted:
      return "accepted";
    case Step::kRoundSent:
      return "round-sent";
    case Step::kStopped:
      return "stopped";
    case Step::kStateSent:
      return "state-sent";
    case Step::kReadyReceived:
      return "ready-received";
    case Step::kClaimed:
      return "claimed";
    case Step::kCommitSent:
      return "commit-sent";
    case Step::kRunningReceived:
      return "running-received";
    case Step::kHelloReceived:
      return "hello-received";
    case Step::kAcceptSent:
      return "accept-sent";
    case Step::kRoundReceived:
      return "round-received";
    case Step::kStateReceived:
      return "state-received";
    case Step::kVerified:
      return "verified";
    case Step::kReadySent:
      return "ready-sent";
    case Step::kCommitReceived:
      return "commit-received";
    case Step::kDestinationClaimed:
      return "destination-claimed";
    case Step::kRunning:
      return "running";
  }
  return "unknown";
}

struct Sender::Impl {
  // A disk whose contents go along.
  struct Disk {
    size_t index = 0;
    uint64_t size = 0;
    std::vector<uint64_t> dirty;      // one bit a block
    std::vector<uint64_t> checksums;  // of the blocks as sent
    uint64_t blocks() const { return (size + kBlock - 1) / kBlock; }
  };

  Impl(std::shared_ptr<machine::Machine> its_machine, wire::Channel& channel, SenderOptions its_options)
      : machine(std::move(its_machine)), peer(channel, "destination"), options(std::move(its_options)) {
    if (machine->config().dirty_ring) options.mode = dirty::Mode::kRing;
    started_ns = now_ns();
    limit(options.bandwidth);
  }

  void step(Step which) const {
    if (options.on_step) options.on_step(which);
  }

  // ---- progress

  void report(bool at_once) {
    const uint64_t now = now_ns();
    if (!at_once && now - reported_ns < kTick) return;
    Progress copy;
    {
      std::lock_guard lock(mutex);
      progress.bytes_sent = peer.channel().sent_bytes();
      progress.elapsed_ns = now - started_ns;
      if (now > reported_ns && reported_ns != 0 && progress.bytes_sent > reported_bytes)
        progress.bytes_per_second =
            static_cast<double>(progress.bytes_sent - reported_bytes) / seconds(now - reported_ns);
      if (encoder) {
        const EncoderCounts& counts = encoder->counts();
        progress.pages_zero = counts.zero + skipped_zero;
        progress.pages_raw = counts.raw;
        progress.pages_compressed = counts.compressed;
        progress.pages_delta = counts.delta;
        progress.pages_sent =
            progress.pages_zero + progress.pages_raw + progress.pages_compressed + progress.pages_delta;
      }
      progress.remaining_bytes = progress.remaining_pages * kPage + remaining_blocks * kBlock;
      copy = progress;
    }
    reported_ns = now;
    reported_bytes = copy.bytes_sent;
    if (options.on_progress) options.on_progress(copy);
  }
  template <class F>
  void update(F change) {
    std::lock_guard lock(mutex);
    change(progress);
  }

  // ---- cancelling

  void check_cancelled() {
    if (cancelled.load(std::memory_order_relaxed)) throw Error("CANCELLED", "the migration was cancelled");
  }

  // Whatever went wrong before the state was sent: the machine goes on at full speed, the other side hears.
  template <class F>
  void guarded(F work) {
    try {
      check_cancelled();
      work();
    } catch (const std::exception& problem) {
      tracker.reset();
      if (cancelled && !past_point) {
        const Error error("CANCELLED", "the migration was cancelled");
        peer.condemn(kCancelGrace);
        peer.tell(wire::FrameType::kAbort, error);
        peer.forgive();
        throw error;
      }
      auto* error = dynamic_cast<const Error*>(&problem);
      if (!past_point && (!error || (error->code() != "PEER_LOST" && error->code() != kRefused)))
        peer.tell(wire::FrameType::kAbort, error ? *error : Error("FAILED", problem.what()));
      throw;
    }
  }

  // ---- pages and blocks

  void limit(uint64_t bytes_per_second) {
    bandwidth = bytes_per_second;
    peer.channel().limit(bytes_per_second);
  }
  size_t batch() const {
    const uint64_t rate = bandwidth.load(std::memory_order_relaxed);
    return rate == 0 ? kBatch : static_cast<size_t>(std::clamp<uint64_t>(rate / 50, kSmallBatch, kBatch));
  }

  void flush_pages() {
    if (auto payload = encoder->payload(); !payload.empty())
      peer.send(wire::FrameType::kPages, payload, kRefused);
    encoder->clear();
    if (!past_point) check_cancelled();
    report(false);
  }

  void send_pages(uint64_t first, uint64_t count) {
    alignas(64) std::array<uint8_t, kPage> copy;
    for (uint64_t page = first; page < first + count; ++page) {
      if (round == options.plant_skipped_page && !std::exchange(planted, true)) continue;
      copy_live(copy, machine->memory().data() + page * kPage);
      encoder->add(page, copy);
      ++round_pages;
      if (encoder->size() >= batch()) {
        update(
            [&](Progress& p) { p.remaining_pages -= std::min(p.remaining_pages, round_pages - told_pages); });
        told_pages = round_pages;
        flush_pages();
      }
    }
  }

  void flush_blocks(ByteWriter& out) {
    if (out.size() <= 1) return;
    peer.send(wire::FrameType::kBlocks, out.data(), kRefused);
    check_cancelled();
    report(false);
  }

  void send_blocks(Disk& disk) {
    std::vector<uint8_t> bytes(kBlock), packed(kBlock - kBlock / 8);
    ByteWriter out;
    uint64_t at = 0;
    auto begin = [&] {
      out = ByteWriter();
      out.u8(static_cast<uint8_t>(disk.index));
      at = 0;
    };
    begin();
    for (auto [first, count] : dirty::Ranges(disk.dirty)) {
      for (uint64_t block = first; block < first + count; ++block) {
        std::span<uint8_t> content(bytes.data(), block_bytes(block, disk.size));
        machine->disk(disk.index)->read_at(block * kBlock, content);
        disk.checksums[block] = checksum64(content);
        size_t size = 0;
        const bool zero = is_zero(content);
        if (!zero && (features & kFeatureLz4)) size = compress(content, packed);
        if (size >= content.size()) size = 0;
        out.u8(static_cast<uint8_t>(zero ? Coding::kZero : size ? Coding::kLz4 : Coding::kRaw));
        out.varint(block - at);
        if (zero)
          out.varint(1);
        else if (size)
          out.blob(std::span(packed).first(size));
        else
          out.raw(content);
        at = block + 1;
        ++round_blocks;
        if (remaining_blocks) --remaining_blocks;
        if (out.size() >= batch()) {
          flush_blocks(out);
          begin();
        }
      }
    }
    flush_blocks(out);
    std::fill(disk.dirty.begin(), disk.dirty.end(), 0);
    update([&](Progress& p) { p.disk_blocks_sent = all_blocks + round_blocks; });
  }

  void begin_round() {
    ++round;
    encoder->begin_round(round);
    round_pages = told_pages = round_blocks = 0;
    round_began_ns = now_ns();
    round_bytes = peer.channel().sent_bytes();
    update([&](Progress& p) { p.round = round; });
    report(true);
  }

  void end_round(bool final) {
    flush_pages();
    const uint64_t asked = now_ns();
    peer.send(
        wire::FrameType::kRoundEnd,
        encode_round_end({.round = round, .final = final, .pages = round_pages, .blocks = round_blocks}),
        kRefused);
    all_blocks += round_blocks;
    update([](Progress& p) { p.remaining_pages = 0; });
    if (final) return;
    // Only what has arrived counts as sent: neither buffers nor the other side's work hide in the figures.
    auto frame = peer.receive({wire::FrameType::kRoundEnd}, options.patience, kRefused);
    if (decode_answer(frame.payload).round != round)
      throw Error("PROTOCOL", "the destination answers another round than was sent");
    const uint64_t now = now_ns();
    answer_seconds =
        answer_seconds == 0 ? seconds(now - asked) : std::min(answer_seconds, seconds(now - asked));
    const uint64_t sent = peer.channel().sent_bytes() - round_bytes;
    if (sent >= kTellingBytes || speed == 0)
      speed = static_cast<double>(sent) / std::max(1e-6, seconds(now - round_began_ns));
    if (round_pages >= 64 || round_blocks)
      cost = std::min(1.0, static_cast<double>(sent) / static_cast<double>(std::max<uint64_t>(
                                                           1, round_pages * kPage + round_blocks * kBlock)));
    report(true);
    step(Step::kRoundSent);
    check_cancelled();
  }

  static RoundEnd decode_answer(std::span<const uint8_t> payload) {
    try {
      return decode_round_end(payload);
    } catch (const Error& error) {
      throw Error("PROTOCOL", error.what());
    }
  }

  // What is dirty now is merged into `pages` and the disks'.
  void harvest() {
    tracker->harvest(harvested);
    const auto& slot = harvested.slots.at(0);
    dirty::merge(pages, slot.bitmap);
    uint64_t blocks = 0;
    for (Disk& disk : disks) {
      machine->disk(disk.index)->take_written(disk.dirty);
      blocks += dirty::popcount(disk.dirty);
    }
    remaining_blocks = blocks;
    const double span = seconds(harvested.ended_ns - harvested.started_ns);
    update([&](Progress& p) {
      p.remaining_pages = dirty::popcount(pages);
      // The stop follows its last harvest at once: that says nothing.
      if (p.phase == Progress::Phase::kMemory && span > 0)
        p.dirty_pages_per_second = static_cast<double>(slot.pages) / span;
    });
  }

  double expected_blackout() {
    const uint64_t bytes = dirty::popcount(pages) * kPage + remaining_blocks * kBlock;
    double rate = speed;
    if (const uint64_t limited = bandwidth) rate = std::min(rate, static_cast<double>(limited));
    double blackout = static_cast<double>(bytes) * cost / std::max(rate, 1.0) + answer_seconds + kStopSeconds;
    // Both sides digest all memory at the same time.
    if (options.verify_memory) blackout += static_cast<double>(used_pages) * digest_seconds;
    update([&](Progress& p) { p.expected_blackout_ms = blackout * 1e3; });
    return blackout;
  }

  void measure_digest() {
    std::vector<uint8_t> some(256 * kPage, 1);
    const uint64_t began = now_ns();
    Hasher hasher;
    for (size_t at = 0; at < some.size(); at += kPage) hasher.update(std::span(some).subspan(at, kPage));
    hasher.digest();
    // Twice: memory is not in the cache as this is.
    digest_seconds = 2 * seconds(now_ns() - began) / 256;
  }

  void first_round() {
    machine->snapshots().stop_tracking();
    tracker =
        std::make_unique<dirty::Tracker>(dirty::Target{machine->vm(), {machine->vcpu()}, machine->ram()},
                                         dirty::Tracker::Options{.mode = options.mode});
    tracker->start();
    pages.assign(dirty::words_for(page_count), 0);
    for (Disk& disk : disks) {
      disk.dirty.assign(dirty::words_for(std::max(disk.blocks(), machine->disk(disk.index)->blocks())), 0);
      disk.checksums.assign(disk.blocks(), 0);
      machine->disk(disk.index)->take_written(disk.dirty);
      std::fill(disk.dirty.begin(), disk.dirty.end(), 0);
      dirty::set_range(disk.dirty, 0, disk.blocks());
      remaining_blocks += disk.blocks();
    }
    update([&](Progress& p) {
      p.phase = Progress::Phase::kMemory;
      p.remaining_pages = page_count;
    });
    begin_round();
    // What is zero is zero there already, and stays a hole here: tracking tells of what is written from now.
    uint64_t next = 0;
    machine->memory().for_each_run(
        [&](uint64_t first, uint64_t count) {
          skipped_zero += first - next;
          update([&](Progress& p) { p.remaining_pages -= std::min(p.remaining_pages, first - next); });
          next = first + count;
          send_pages(first, count);
        },
        [&](uint64_t first, uint64_t count) { await_pages(first, count); });
    skipped_zero += page_count - next;
    used_pages = round_pages;
    flush_pages();
    for (Disk& disk : disks) send_blocks(disk);
    end_round(false);
  }

  // Pages of a machine whose memory still comes: who touched them would wait, and could not be cancelled.
  void await_pages(uint64_t first, uint64_t count) {
    machine::Pager* pager = machine->memory().pager();
    if (!pager || pager->here(first * kPage, count * kPage)) return;
    pager->want(first * kPage, count * kPage);
    while (!pager->here(first * kPage, count * kPage) && !pager->failed()) {
      check_cancelled();
      report(false);
      std::this_thread::sleep_for(kPageLook);
    }
  }

  void send_dirty() {
    for (auto [first, count] : dirty::Ranges(pages)) send_pages(first, count);
    std::fill(pages.begin(), pages.end(), 0);
    flush_pages();
    for (Disk& disk : disks) send_blocks(disk);
  }

  std::shared_ptr<machine::Machine> machine;
  Peer peer;
  SenderOptions options;
  const uint64_t page_count = machine->config().memory_size / kPage;

  std::atomic<bool> cancelled{false};
  std::atomic<bool> past_point{false};
  std::atomic<uint64_t> bandwidth{0};

  // The sender's thread (in finish(): the vCPU's, while the sender's waits for it).
  uint32_t features = 0;
  std::unique_ptr<PageEncoder> encoder;
  std::unique_ptr<dirty::Tracker> tracker;
  dirty::Harvest harvested;
  std::vector<uint64_t> pages;  // to be sent, one bit each
  std::vector<Disk> disks;
  uint32_t round = 0;
  bool planted = false;
  uint64_t round_pages = 0, told_pages = 0, round_blocks = 0, all_blocks = 0, remaining_blocks = 0;
  uint64_t round_began_ns = 0, round_bytes = 0;
  uint64_t skipped_zero = 0;
  uint64_t used_pages = 0;
  double speed = 0;           // bytes a second on the wire, as arrived
  double cost = 1;            // bytes on the wire for a byte of memory
  double answer_seconds = 0;  // the shortest time to a round's answer
  double digest_seconds = 0;  // a page
  uint64_t started_ns = 0, reported_ns = 0, reported_bytes = 0;

  mutable std::mutex mutex;  // guards progress; taken alone
  Progress progress;
  std::mutex point_mutex;  // past_point and cancelled change under it
};

Sender::Sender(std::shared_ptr<machine::Machine> machine, wire::Channel& channel, SenderOptions options)
    : impl_(std::make_unique<Impl>(std::move(machine), channel, std::move(options))) {}

Sender::~Sender() = default;

void Sender::handshake(const SessionId& session) {
  Impl& my = *impl_;
  my.guarded([&] {
    Hello hello;
    hello.purpose = my.options.purpose;
    hello.session = session;
    hello.config = my.machine->config();
    hello.host = replay::log_header(*my.machine);
    hello.disks = my.options.disks;
    hello.features = spoken_features();
    if (!my.options.compress) hello.features &= ~kFeatureLz4;
    if (!my.options.delta) hello.features &= ~kFeatureDelta;
    my.peer.send(wire::FrameType::kHello, encode_hello(hello), kRefused);
    my.step(Step::kHelloSent);
    auto frame = my.peer.receive({wire::FrameType::kAccept}, my.options.patience, kRefused);
    Accept accept;
    try {
      accept = decode_accept(frame.payload);
    } catch (const Error& error) {
      throw Error("PROTOCOL", error.what());
    }
    const auto& disks = my.machine->config().disks;
    if ((accept.features & ~hello.features) || accept.disks.size() != (hello.disks ? disks.size() : 0))
      throw Error("PROTOCOL", "the destination accepts what was not offered");
    my.features = accept.features;
    for (size_t i = 0; i < accept.disks.size(); ++i)
      if (accept.disks[i])
        my.disks.push_back({.index = i, .size = disks[i].size, .dirty = {}, .checksums = {}});
    my.encoder = std::make_unique<PageEncoder>(PageEncoder::Options{
        .features = my.features, .cache_bytes = my.options.delta_cache_bytes, .page_count = my.page_count});
    my.step(Step::kAccepted);
  });
}

void Sender::precopy() {
  Impl& my = *impl_;
  my.guarded([&] {
    if (my.options.verify_memory) my.measure_digest();
    my.first_round();
    for (;;) {
      // Or the stop would wait for it.
      my.peer.channel().settle();
      my.harvest();
      const double blackout = my.expected_blackout();
      my.report(true);
      if (blackout * 1e3 <= my.options.max_blackout_ms) break;
      if (my.round >= my.options.max_rounds) {
        if (!my.options.must_converge) break;
        throw Error("NO_CONVERGENCE", "the guest writes memory faster than it can be sent: after " +
                                          std::to_string(my.round) + " rounds a blackout of " +
                                          std::to_string(static_cast<uint64_t>(blackout * 1e3)) +
                                          " ms is expected, more than the " +
                                          std::to_string(static_cast<uint64_t>(my.options.max_blackout_ms)) +
                                          " ms allowed; raise the limit of bandwidth or blackout");
      }
      my.begin_round();
      my.send_dirty();
      my.end_round(false);
    }
    // What is left to write back is not left for the stop.
    if (my.disks.empty())
      for (size_t i = 0; i < my.machine->config().disks.size(); ++i)
        if (const auto& disk = my.machine->disk(i)) disk->sync();
  });
}

machine::StateDigest Sender::finish() {
  Impl& my = *impl_;
  MovedState state;
  my.guarded([&] {
    if (!my.tracker) throw Error("BAD_STATE", "finish() comes after precopy()");
    my.update([](Progress& p) { p.phase = Progress::Phase::kStop; });
    // The guest stands still meanwhile.
    my.peer.limit_sends(my.options.patience);
    state.running = my.machine->state() == machine::State::kRunning;
    state.memory_verified = my.options.verify_memory;
    // What the disks still do must not happen after the other side has begun; it will do it again.
    for (size_t i = 0; i < my.machine->config().disks.size(); ++i) {
      const auto& disk = my.machine->disk(i);
      if (!disk) continue;
      disk->drain();
      if (my.disks.empty()) disk->sync();
    }
    my.harvest();
    my.begin_round();
    my.send_dirty();
    my.end_round(true);
    // The other side digests at the same time.
    state.digest = my.machine->digest_here(my.options.verify_memory);
    for (const auto& disk : my.disks)
      state.disks.push_back(digest128({reinterpret_cast<const uint8_t*>(disk.checksums.data()),
                                       disk.checksums.size() * sizeof(uint64_t)}));
    ByteWriter saved;
    my.machine->save_state(saved);
    state.machine = saved.take();
    auto bytes = encode_state(state);
    {
      std::lock_guard lock(my.point_mutex);
      my.check_cancelled();
      my.past_point = true;
      my.peer.forgive();
    }
    std::vector<uint8_t> part;
    for (size_t at = 0;; at += kStatePart) {
      const size_t size = std::min(kStatePart, bytes.size() - at);
      const bool last = at + size == bytes.size();
      part.assign(1, last);
      part.insert(part.end(), bytes.begin() + static_cast<ptrdiff_t>(at),
                  bytes.begin() + static_cast<ptrdiff_t>(at + size));
      my.peer.send(wire::FrameType::kState, part, kRefused);
      if (last) break;
    }
    my.step(Step::kStateSent);
  });
  return state.digest;
}

void Sender::await_ready() {
  Impl& my = *impl_;
  my.update([](Progress& p) { p.phase = Progress::Phase::kCommit; });
  my.peer.receive({wire::FrameType::kReady}, my.options.patience, kRefused);
  my.tracker.reset();
  my.report(true);
  my.step(Step::kReadyReceived);
}

void Sender::cancel() {
  std::lock_guard lock(impl_->point_mutex);
  if (impl_->past_point || impl_->cancelled.exchange(true)) return;
  // A sender that waits for a peer that does nothing is woken.
  impl_->peer.condemn(kCancelGrace);
}

bool Sender::state_sent() const { return impl_->past_point; }

void Sender::limit(uint64_t bytes_per_second) { impl_->limit(bytes_per_second); }

Progress Sender::progress() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->progress;
}

}  // namespace hypertwin::migrate
