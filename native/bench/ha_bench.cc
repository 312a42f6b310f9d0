// What protection costs and gives: operations of a mailroom with and without it (in turns, on fresh
// machines), for 50 users in a closed loop, who wait for answers most of the time, and for 250 that keep it
// saturated; rounds of a guest that only computes; how long outputs are held against a bare round trip and
// wake-up of this host; the log against its inputs, the replica's lag, and how long nobody serves when the
// connection breaks. Primary and backup share this host's processors. With --quick less of each.
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "ha/ha.h"
#include "mail_load.h"
#include "wire/stream.h"

using namespace hypertwin;
using namespace hypertwin::bench;
using namespace std::chrono_literals;

namespace {

constexpr double kAllowedPerSecond = 125'000;  // 1 Mb, beside 1.02 of the inputs

struct Ends {
  std::unique_ptr<wire::Stream> primary, backup;
};

Ends connect_ends() {
  wire::Listener listener(wire::Address::parse("tcp://127.0.0.1:0"));
  auto accepted = std::async(std::launch::async, [&] { return listener.accept(); });
  auto left = wire::connect(listener.address(), std::nullopt, 10s);
  return {std::move(left), accepted.get()};
}

// Can be cut: what is written vanishes then.
class Cut final : public wire::Stream {
 public:
  Cut(std::unique_ptr<wire::Stream> inner, std::shared_ptr<std::atomic<bool>> cut)
      : inner_(std::move(inner)), cut_(std::move(cut)) {}
  size_t read(std::span<uint8_t> into) override { return inner_->read(into); }
  void write(std::span<const std::span<const uint8_t>> parts) override {
    if (!cut_->load()) inner_->write(parts);
  }
  void shutdown() noexcept override { inner_->shutdown(); }
  std::string peer() const override { return inner_->peer(); }

 private:
  const std::unique_ptr<wire::Stream> inner_;
  const std::shared_ptr<std::atomic<bool>> cut_;
};

struct Protection {
  std::shared_ptr<std::atomic<bool>> cut = std::make_shared<std::atomic<bool>>(false);
  std::string winner = "backup";
  wire::Stream* socket = nullptr;  // the primary's
  ha::ProtectOptions protect;
  ha::BackupOptions follow;
  std::unique_ptr<ha::Primary> primary;
  std::unique_ptr<ha::Backup> backup;

  Protection(const std::shared_ptr<kvm::System>& system, const std::shared_ptr<machine::Machine>& machine,
             const TempDir& dir) {
    protect.arbiter = follow.arbiter = [this](const std::string&, const std::string& who) {
      return who == winner ? migrate::Claim::kWon : migrate::Claim::kLost;
    };
    protect.heartbeats.max_timeout = follow.heartbeats.max_timeout = 10s;
    const std::string disk = dir.file("backup.img");
    follow.adjust = [disk](machine::MachineConfig& config) {
      for (auto& one : config.disks) one.path = disk;
    };
    auto ends = connect_ends();
    socket = ends.primary.get();
    backup = ha::Backup::follow(
        system, std::make_unique<wire::Channel>(std::make_unique<Cut>(std::move(ends.backup), cut)), follow);
    primary = ha::Primary::protect(
        machine, std::make_unique<wire::Channel>(std::make_unique<Cut>(std::move(ends.primary), cut)),
        protect);
    while (primary->state() == ha::State::kSyncing) std::this_thread::sleep_for(1ms);
    expect_protected();
  }
  void expect_protected() const {
    if (primary->state() != ha::State::kProtected)
      throw Error("BENCH", "not protected, but " + std::string(ha::state_name(primary->state())));
  }
};

double microseconds(uint64_t ns) { return static_cast<double>(ns) / 1e3; }

struct Run {
  double seconds = 0, cpu = 0;  // wall; the primary's vCPU thread
  ha::Stats before, after;
};

// With what a turn is compared: nothing else on this host; or a second machine that is as busy, as the
// replica is, which would have a host of its own.
enum class Side : uint8_t { kProtected, kAlone, kBesideAnother };

Run run(const std::shared_ptr<kvm::System>& system, const std::filesystem::path& where, uint16_t users,
        uint64_t warm, uint64_t count, Side side) {
  TempDir dir(where), other_dir(where);
  Run run;
  std::shared_ptr<MailLoad> other;
  if (side == Side::kBesideAnother) {
    other = MailLoad::boot(system, other_dir, {.users = users, .log = {}, .apart = true});
    other->start();
  }
  auto load = MailLoad::boot(system, dir, {.users = users, .log = {}, .apart = true});
  std::unique_ptr<Protection> protection;
  if (side == Side::kProtected) protection = std::make_unique<Protection>(system, load->machine, dir);
  load->start();
  load->wait_answers(warm);
  if (protection) run.before = protection->primary->stats();
  const double cpu = load->cpu(), start = now();
  const uint64_t before = load->answered();
  load->wait_answers(before + count);
  run.seconds = now() - start;
  run.cpu = load->cpu() - cpu;
  if (protection) {
    run.after = protection->primary->stats();
    protection->expect_protected();
    protection->primary->close();
  }
  for (const auto& each : {load, other}) {
    if (!each) continue;
    each->finish();
    each->machine->stop();
  }
  return run;
}

void throughput(const std::shared_ptr<kvm::System>& system, const std::filesystem::path& where,
                const std::string& name, uint16_t users, int turns, uint64_t count) {
  Pairs alone, beside, cpu;
  for (int i = 0; i < turns; ++i) {
    Run runs[3];
    for (int k = 0; k < 3; ++k) {
      const int side = (i + k) % 3;
      runs[side] = run(system, where, users, 3000, count, static_cast<Side>(side));
    }
    const auto& [with, without, beside_another] = runs;
    auto rate = [&](const Run& one) { return static_cast<double>(count) / one.seconds; };
    alone.add(rate(with), rate(without));
    beside.add(rate(with), rate(beside_another));
    cpu.add(with.cpu / static_cast<double>(count), beside_another.cpu / static_cast<double>(count));
    std::fprintf(stderr, "%s: turn %d of %d\n", name.c_str(), i + 1, turns);
    if (i + 1 < turns) continue;
    const auto& s = with.after;
    const double bytes = static_cast<double>(s.log_bytes - with.before.log_bytes);
    const double inputs = static_cast<double>(s.input_bytes - with.before.input_bytes);
    const double allowed = 1.02 * inputs + kAllowedPerSecond * with.seconds;
    print(name + "/log-bytes-vs-allowed", bytes, "bytes", allowed, bytes / allowed);
    print(name + "/log-bytes-vs-inputs", bytes, "bytes", inputs, bytes / inputs);
    print(name + "/log-blocks", static_cast<double>(s.log_blocks - with.before.log_blocks) / with.seconds,
          "1/s");
    print(name + "/output-hold-p50", microseconds(s.hold_p50_ns), "us", microseconds(s.round_trip_ns),
          static_cast<double>(s.hold_p50_ns) / static_cast<double>(s.round_trip_ns));
    print(name + "/output-hold-p99", microseconds(s.hold_p99_ns), "us");
    print(name + "/lag-p50", microseconds(s.lag_p50_ns), "us");
    print(name + "/lag-p99", microseconds(s.lag_p99_ns), "us");
    print(name + "/paced", microseconds(s.paced_ns - with.before.paced_ns) / with.seconds / 1e6, "share");
  }
  alone.print(name + "/operations-vs-alone", "1/s");
  beside.print(name + "/operations-vs-two-machines", "1/s");
  cpu.print(name + "/vcpu-thread-per-operation", "us", 1e6);
}

// Writes to memory, round after round, and says nothing but each round's end.
class Rounds final : public Watch {
 public:
  void on_marker(uint32_t) override {
    std::lock_guard lock(mutex_);
    ++done_;
    wake_.notify_all();
  }
  struct Speed {
    double rate = 0, cpu = 0;  // rounds a second; seconds of the vCPU's thread for one
  };
  Speed measure(machine::Machine& machine, uint64_t rounds) {
    uint64_t from = 0;
    {
      std::lock_guard lock(mutex_);
      from = done_;
    }
    wait([&] { return done_ > from; });
    auto cpu = [&] {
      double seconds = 0;
      machine.call(machine::At::kAnywhere, [&] { seconds = clock_seconds(CLOCK_THREAD_CPUTIME_ID); });
      return seconds;
    };
    const double start = now(), cpu_start = cpu();
    wait([&] { return done_ > from + rounds; });
    const auto count = static_cast<double>(rounds);
    return {count / (now() - start), (cpu() - cpu_start) / count};
  }

 private:
  uint64_t done_ = 0;
};

struct Computing {
  std::shared_ptr<Rounds> watch = std::make_shared<Rounds>();
  std::shared_ptr<machine::Machine> machine;

  explicit Computing(const std::shared_ptr<kvm::System>& system) {
    machine::MachineConfig config;
    config.memory_size = 32u << 20;
    // About a millisecond each.
    config.command_line = "rounds=0 pattern=random pages=256 count=250000";
    machine = machine::Machine::create(system, config, guest_image("dirtier"), watch);
    machine->start();
    measure(20);
  }
  Rounds::Speed measure(uint64_t rounds) { return watch->measure(*machine, rounds); }
  ~Computing() { machine->stop(); }
};

void computing(const std::shared_ptr<kvm::System>& system, const std::filesystem::path& where, int turns,
               uint64_t rounds) {
  Pairs alone, beside, cpu;
  double paced = 0;
  uint64_t lag = 0;
  for (int i = 0; i < turns; ++i) {
    TempDir dir(where);
    Computing one(system);
    const auto without = one.measure(rounds);
    Rounds::Speed with, beside_another;
    auto protect = [&] {
      Protection protection(system, one.machine, dir);
      const auto before = protection.primary->stats();
      const double begun = now();
      with = one.measure(rounds);
      const auto after = protection.primary->stats();
      paced = microseconds(after.paced_ns - before.paced_ns) / 1e6 / (now() - begun);
      lag = after.lag_p50_ns;
      protection.expect_protected();
      protection.primary->close();
    };
    auto pair = [&] {
      Computing other(system);
      beside_another = one.measure(rounds);
    };
    if (i % 2) pair();
    protect();
    if (i % 2 == 0) pair();
    alone.add(with.rate, without.rate);
    beside.add(with.rate, beside_another.rate);
    cpu.add(with.cpu, beside_another.cpu);
  }
  alone.print("ha/computing/rounds-vs-alone", "1/s");
  beside.print("ha/computing/rounds-vs-two-machines", "1/s");
  cpu.print("ha/computing/vcpu-thread-per-round", "us", 1e6);
  print("ha/computing/paced", paced, "share");
  print("ha/computing/lag-p50", microseconds(lag), "us");
}

// On a processor of its own, where there are two: a thread that is woken on the one that wakes it costs less
// than any that waits on another host.
void stay_on(std::thread::native_handle_type thread, unsigned processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor % std::max(1u, std::thread::hardware_concurrency()), &set);
  ::pthread_setaffinity_np(thread, sizeof(set), &set);
}

// What nothing of ours can be faster than: threads that wait in a socket and on a condition, woken after a
// rest.
struct HostCost {
  double round_trip = 0, wake_up = 0;  // seconds, medians
};

HostCost host_cost(int samples) {
  constexpr auto kRest = 200us;
  std::vector<double> trips, wakes;
  auto ends = connect_ends();
  cpu_set_t before;
  ::pthread_getaffinity_np(::pthread_self(), sizeof(before), &before);
  stay_on(::pthread_self(), 0);
  std::thread echo([&] {
    uint8_t bytes[64];
    while (const size_t got = ends.backup->read(bytes)) {
      const std::span<const uint8_t> part(bytes, got);
      ends.backup->write({&part, 1});
    }
  });
  stay_on(echo.native_handle(), 1);
  uint8_t bytes[60] = {};
  for (int i = 0; i < samples; ++i) {
    std::this_thread::sleep_for(kRest);
    const double start = now();
    const std::span<const uint8_t> part(bytes);
    ends.primary->write({&part, 1});
    for (size_t got = 0; got < sizeof(bytes);) got += ends.primary->read(std::span(bytes).subspan(got));
    trips.push_back(now() - start);
  }
  ends.primary->shutdown();
  echo.join();
  std::mutex mutex;
  std::condition_variable changed;
  int round = 0;
  double woken = 0;
  std::thread sleeper([&] {
    std::unique_lock lock(mutex);
    for (int seen = 0; seen < samples;) {
      changed.wait(lock, [&] { return round > seen; });
      seen = round;
      woken = now();
      changed.notify_all();
    }
  });
  stay_on(sleeper.native_handle(), 1);
  for (int i = 0; i < samples; ++i) {
    std::this_thread::sleep_for(kRest);
    std::unique_lock lock(mutex);
    woken = 0;
    const double start = now();
    ++round;
    changed.notify_all();
    changed.wait(lock, [&] { return woken != 0; });
    wakes.push_back(woken - start);
  }
  sleeper.join();
  ::pthread_setaffinity_np(::pthread_self(), sizeof(before), &before);
  return {median(trips), median(wakes)};
}

// One user, one request at a time: what an answer waits for.
void delay(const std::shared_ptr<kvm::System>& system, const std::filesystem::path& where, uint64_t count) {
  Pairs each;
  ha::Stats stats;
  for (int i = 0; i < 3; ++i) {
    double seconds[2];
    for (bool with : {false, true}) {
      TempDir dir(where);
      auto load = MailLoad::boot(system, dir, {.users = 1, .log = {}, .apart = true});
      std::unique_ptr<Protection> protection;
      if (with) protection = std::make_unique<Protection>(system, load->machine, dir);
      load->start();
      load->wait_answers(200);
      const double start = now();
      load->wait_answers(200 + count);
      seconds[with] = (now() - start) / static_cast<double>(count);
      if (with) stats = protection->primary->stats();
      if (with) protection->primary->close();
      load->finish();
      load->machine->stop();
    }
    each.add(seconds[1], seconds[0]);
  }
  each.print("ha/one-user/answer", "us", 1e6);
  const HostCost host = host_cost(2000);
  print("ha/host/tcp-round-trip", host.round_trip * 1e6, "us");
  print("ha/host/thread-wake-up", host.wake_up * 1e6, "us");
  // One round trip, and the thread that sends is woken first; 50 us are allowed beyond.
  const double held = microseconds(stats.hold_p50_ns), allowed = (host.round_trip + host.wake_up) * 1e6 + 50;
  print("ha/one-user/output-hold-vs-allowed", held, "us", allowed, held / allowed);
  print("ha/one-user/output-hold-p99", microseconds(stats.hold_p99_ns), "us");
  print("ha/one-user/lag-p99", microseconds(stats.lag_p99_ns), "us");
}

// From the cut to the moment at which the backup serves.
void pauses(const std::shared_ptr<kvm::System>& system, const std::filesystem::path& where, int rounds) {
  for (bool silent : {false, true}) {
    std::vector<double> pauses, detected, claimed, replayed;
    for (int i = 0; i < rounds; ++i) {
      TempDir dir(where);
      auto load = MailLoad::boot(system, dir, {.users = 8, .log = {}, .apart = true});
      Protection protection(system, load->machine, dir);
      load->start();
      load->wait_answers(500);
      // The time-out adapts to the calm after the copying.
      if (silent) std::this_thread::sleep_for(4s);
      const double begun = now();
      if (silent)
        protection.cut->store(true);
      else
        protection.socket->shutdown();
      (void)protection.backup->wait_settled(30s);
      if (protection.backup->state() != ha::State::kLive)
        throw Error("BENCH", "the backup is " + std::string(ha::state_name(protection.backup->state())));
      const auto timeline = *protection.backup->timeline();
      auto since = [&](uint64_t ns) { return static_cast<double>(ns) / 1e9 - begun; };
      pauses.push_back(since(timeline.live_ns));
      detected.push_back(since(timeline.detected_ns));
      claimed.push_back(since(timeline.claimed_ns) - since(timeline.detected_ns));
      replayed.push_back(since(timeline.live_ns) - since(timeline.claimed_ns));
      protection.backup->machine()->stop();
      protection.primary->close();
    }
    const std::string name = silent ? "ha/pause/silence" : "ha/pause/reset";
    print(name + "-p50", median(pauses) * 1e3, "ms");
    print(name + "-p99", quantile(pauses, 0.99) * 1e3, "ms");
    print(name + "-detection-p50", median(detected) * 1e3, "ms");
    print(name + "-from-claim-to-live-p50", median(replayed) * 1e3, "ms");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  bool quick = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0)
      quick = true;
    else
      only = argv[i];
  }
  auto system = kvm::System::open();
  const std::filesystem::path memory = "/dev/shm";
  std::error_code failed;
  const auto space = std::filesystem::space(memory, failed);
  const bool room = !failed && space.available >= (512u << 20) && ::access(memory.c_str(), W_OK) == 0;
  const auto where = room ? memory : std::filesystem::temp_directory_path();
  const std::pair<const char*, std::function<void()>> parts[] = {
      {"mailroom",
       [&] { throughput(system, where, "ha/mailroom", 50, quick ? 3 : 11, quick ? 10'000 : 30'000); }},
      {"saturated",
       [&] { throughput(system, where, "ha/saturated", 250, quick ? 3 : 11, quick ? 30'000 : 90'000); }},
      {"computing", [&] { computing(system, where, quick ? 3 : 11, quick ? 200 : 1000); }},
      {"one-user", [&] { delay(system, where, quick ? 1000 : 5000); }},
      {"pauses", [&] { pauses(system, where, quick ? 5 : 30); }}};
  bool known = only.empty();
  for (const auto& [name, part] : parts) {
    if (!only.empty() && only != name) continue;
    known = true;
    part();
  }
  if (known) return 0;
  std::fprintf(stderr, "usage: ha_bench [--quick] [mailroom|saturated|computing|one-user|pauses]\n");
  return 2;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
