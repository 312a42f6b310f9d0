// What capture costs and gives, on a mailroom with 50 busy users: operations with and without a log (in
// turns, on fresh machines), replay against recording, the log's size. With --quick less of each.
#include <unistd.h>

#include <cstring>
#include <thread>

#include "mail_load.h"
#include "replay/replayer.h"

using namespace hypertwin;
using namespace hypertwin::bench;

namespace {

// What a second of logging may take beside the inputs: 1 Mb.
constexpr double kAllowedPerSecond = 125'000;

void print_log(const std::string& name, const log::WriterStats& log, double seconds) {
  const double allowed = 1.02 * static_cast<double>(log.input_bytes) + kAllowedPerSecond * seconds;
  print(name + "/bytes-vs-allowed", static_cast<double>(log.bytes), "bytes", allowed,
        static_cast<double>(log.bytes) / allowed);
  if (log.input_bytes != 0)
    print(name + "/bytes-vs-inputs", static_cast<double>(log.bytes), "bytes",
          static_cast<double>(log.input_bytes),
          static_cast<double>(log.bytes) / static_cast<double>(log.input_bytes));
}

replay::ReplayResult replay_all(const std::shared_ptr<kvm::System>& system, const std::string& log,
                                double& seconds, double& cpu) {
  auto replay = replay::Replay::open(system, log, nullptr);
  const double start = now(), start_cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
  auto result = replay->run();
  seconds = now() - start;
  cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
  if (result.stop != replay::ReplayStop::kLogEnd || !result.complete)
    throw Error("BENCH",
                "the replay strayed: " + (result.divergence ? result.divergence->message : result.message));
  return result;
}

struct Run {
  double seconds = 0, cpu = 0, process = 0;  // of the measured operations: wall, vCPU thread, all threads
  replay::RecordingResult recorded;
  double recorded_seconds = 0, recorded_cpu = 0, own = 0;
  uint64_t operations = 0;
};

// `warm` operations, then `count` that are measured.
Run run(const std::shared_ptr<kvm::System>& system, const TempDir& dir, uint64_t warm, uint64_t count,
        const std::string& log, bool timed = false) {
  Run run;
  auto load = MailLoad::boot(system, dir, {.log = log, .timed = timed});
  load->start();
  load->wait_answers(warm);
  const double process = clock_seconds(CLOCK_PROCESS_CPUTIME_ID), cpu = load->cpu(), start = now();
  const uint64_t before = load->answered();
  load->wait_answers(before + count);
  run.seconds = now() - start;
  const uint64_t answered = load->answered();
  run.cpu = load->cpu() - cpu;
  run.process = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - process;
  const double scale = static_cast<double>(count) / static_cast<double>(answered - before);
  run.seconds *= scale;
  run.cpu *= scale;
  run.process *= scale;
  if (load->recording) {
    load->finish();
    run.recorded_seconds = now() - load->started;
    run.recorded_cpu = load->cpu();
    run.recorded = load->recording->stop();
    run.operations = load->answered();
  }
  run.own = load->own_time();
  if (load->refused() != 0) throw Error("BENCH", "the mailroom refused operations");
  load->machine->stop();
  return run;
}

void busy(const std::shared_ptr<kvm::System>& system, const std::string& kind,
          const std::filesystem::path& where, int pairs) {
  // Short turns, many of them: what else the host does is then the same for neighbours.
  const uint64_t warm = 5000, count = 60'000;
  Pairs rates, cpu, process, replays, replays_cpu;
  Run last;
  double own = 0;
  for (int i = 0; i < pairs; ++i) {
    Run with, without;
    TempDir dir(where);
    const std::string log = dir.file("log");
    const bool first = i % 2 == 0;
    if (first) with = run(system, dir, warm, count, log);
    without = run(system, dir, warm, count, "");
    if (!first) with = run(system, dir, warm, count, log);
    rates.add(static_cast<double>(count) / with.seconds, static_cast<double>(count) / without.seconds);
    cpu.add(with.cpu / static_cast<double>(count), without.cpu / static_cast<double>(count));
    process.add(with.process / static_cast<double>(count), without.process / static_cast<double>(count));
    double replayed = 0, replayed_cpu = 0;
    auto result = replay_all(system, log, replayed, replayed_cpu);
    if (result.state != with.recorded.state) throw Error("BENCH", "the replay's state differs");
    replays.add(replayed, with.recorded_seconds);
    replays_cpu.add(replayed_cpu, with.recorded_cpu);
    std::fprintf(stderr, "mailroom, %s: pair %d of %d\n", kind.c_str(), i + 1, pairs);
    last = with;
  }
  {
    TempDir dir(where);
    own = run(system, dir, warm, count, dir.file("log"), true).own;
  }
  rates.print("capture/mailroom-" + kind + "/operations", "1/s");
  cpu.print("capture/mailroom-" + kind + "/vcpu-thread-per-operation", "us", 1e6);
  process.print("capture/mailroom-" + kind + "/all-threads-per-operation", "us", 1e6);
  print("capture/mailroom-" + kind + "/load-generator-per-operation",
        own / static_cast<double>(last.operations) * 1e6, "us");
  replays.print("replay/mailroom-" + kind + "/wall-vs-recording", "s");
  replays_cpu.print("replay/mailroom-" + kind + "/cpu-vs-recording", "s");
  print("log/mailroom-" + kind + "/per-operation",
        static_cast<double>(last.recorded.log.bytes) / static_cast<double>(last.operations), "bytes");
  print("log/mailroom-" + kind + "/boundaries-per-operation",
        static_cast<double>(last.recorded.last_boundary - last.recorded.first_boundary) /
            static_cast<double>(last.operations),
        "boundaries");
  print_log("log/mailroom-" + kind, last.recorded.log, last.recorded_seconds);
}

// A guest that halts, and one that a timer wakes 100 times a second.
void idle(const std::shared_ptr<kvm::System>& system, bool quick) {
  const auto length = std::chrono::milliseconds(quick ? 1000 : 5000);
  struct Kind {
    const char* name;
    const char* guest;
    const char* options;
  };
  for (const Kind& kind :
       {Kind{"halted", "mailroom", "disk=0"}, Kind{"100Hz", "exits", "kind=hlt hz=100 count=1000000000"}}) {
    TempDir dir;
    auto watch = std::make_shared<Watch>();
    machine::MachineConfig config;
    config.memory_size = 16u << 20;
    config.command_line = kind.options;
    config.nets.emplace_back();
    std::shared_ptr<machine::Machine> machine =
        machine::Machine::create(system, config, guest_image(kind.guest), watch);
    machine->start();
    if (std::string(kind.guest) == "mailroom") watch->wait_console("mailroom ready");
    auto recording = replay::Recording::start(machine, dir.file("log"));
    const double start = now();
    std::this_thread::sleep_for(length);
    const double seconds = now() - start;
    auto recorded = recording->stop();
    machine->stop();
    double replayed = 0, cpu = 0;
    auto result = replay_all(system, dir.file("log"), replayed, cpu);
    if (result.state != recorded.state) throw Error("BENCH", "the replay's state differs");
    const std::string name = std::string("idle-") + kind.name;
    print("replay/" + name + "/wall-vs-recording", replayed, "s", seconds, replayed / seconds);
    print("log/" + name + "/per-second", static_cast<double>(recorded.log.bytes) / seconds, "bytes");
    print_log("log/" + name, recorded.log, seconds);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  auto system = kvm::System::open();
  const std::filesystem::path memory = "/dev/shm";
  std::error_code failed;
  const auto space = std::filesystem::space(memory, failed);
  if (failed || space.available < (512u << 20) || ::access(memory.c_str(), W_OK) != 0)
    std::fprintf(stderr, "skipped: mailroom-memory: no 512 MiB in %s\n", memory.c_str());
  else
    busy(system, "memory", memory, quick ? 5 : 31);
  busy(system, "disk", std::filesystem::temp_directory_path(), quick ? 3 : 15);
  idle(system, quick);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
