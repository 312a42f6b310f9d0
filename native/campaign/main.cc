// hypertwin_campaign: runs scenarios in lanes, processes of one thread each, and prints JSON lines: progress,
// violations with their story, a summary for each scenario. Exit code 1 when a promise was broken.
//   hypertwin_campaign ha|migrate|all|quick|bench [--runs KILLS] [--seed S] [--only NAME] [--index I]
//   [--lanes L]
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <random>
#include <thread>

#include "base/error.h"
#include "scenario.h"

namespace hypertwin::campaign {

void Tally::operator+=(const Tally& other) {
  kills += other.kills;
  failovers += other.failovers;
  carried_on += other.carried_on;
  restarts += other.restarts;
  false_alarms += other.false_alarms;
  acknowledged += other.acknowledged;
  moves += other.moves;
  zombie_frames += other.zombie_frames;
  zombie_writes += other.zombie_writes;
  frames_carried += other.frames_carried;
  frames_lost += other.frames_lost;
  frames_doubled += other.frames_doubled;
  frames_overtaken += other.frames_overtaken;
  by_netem += other.by_netem;
  by_bridge += other.by_bridge;
  stalled += other.stalled;
  hit += other.hit;
}

std::string Tally::json() const {
  std::string text;
  auto add = [&](const char* name, uint64_t value) {
    if (value) text += std::string(",\"") + name + "\":" + std::to_string(value);
  };
  add("kills", kills);
  add("failovers", failovers);
  add("carriedOn", carried_on);
  add("restarts", restarts);
  add("moves", moves);
  add("falseAlarms", false_alarms);
  add("acknowledged", acknowledged);
  add("zombieFrames", zombie_frames);
  add("zombieWrites", zombie_writes);
  add("framesCarried", frames_carried);
  add("framesLost", frames_lost);
  add("framesDoubled", frames_doubled);
  add("framesOvertaken", frames_overtaken);
  add("byNetem", by_netem);
  add("byBridge", by_bridge);
  add("stalled", stalled);
  return text + hit.json();
}

namespace {

struct Options {
  std::string what = "all";
  std::optional<uint64_t> runs;
  uint64_t seed = std::random_device{}();
  std::string only;
  std::optional<uint64_t> index;
  unsigned lanes = std::max(2u, std::thread::hardware_concurrency());
};

struct Job {
  const Scenario* scenario;
  uint64_t index;
};

// From a lane, of fixed size but for the text behind it.
struct Report {
  uint32_t job = 0;
  bool violated = false;
  Tally tally;
  char text[6000] = {};
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20) {
      out += ' ';
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

void run_job(const Setup& setup, const Job& job, Report& report) {
  const uint64_t seed = setup.seed * 1'000'003 + job.index;
  std::string story;
  try {
    Observer observer(setup.folder + "/" + std::to_string(::getpid()) + "." + std::to_string(report.job),
                      seed);
    try {
      job.scenario->run(observer, setup, job.index, report.tally);
      return;
    } catch (const Stalled& stalled) {
      ++report.tally.stalled;
      std::fprintf(stderr, "campaign: %s %llu given up: %s\n", job.scenario->name,
                   static_cast<unsigned long long>(job.index), stalled.what.c_str());
      return;
    } catch (const Violation& violation) {
      story = violation.what + "\n" + observer.story();
    } catch (const std::exception& error) {
      story = std::string("failed: ") + error.what() + "\n" + observer.story();
    }
  } catch (const std::exception& error) {
    story = std::string("failed: ") + error.what();
  }
  report.violated = true;
  if (story.size() >= sizeof(report.text)) {
    const size_t line = story.find('\n') + 1;
    story = story.substr(0, line) + "...\n" + story.substr(story.size() - (sizeof(report.text) - line - 64));
  }
  std::strncpy(report.text, story.c_str(), sizeof(report.text) - 1);
}

int run_all(const Setup& setup, const std::vector<Job>& jobs, const Options& options) {
  int pipe[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pipe) != 0) throw_errno("socketpair", "lanes");
  const unsigned lanes = std::min<unsigned>(options.lanes, static_cast<unsigned>(jobs.size()));
  std::vector<pid_t> pids;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const pid_t pid = ::fork();
    if (pid < 0) throw_errno("fork", "a lane");
    if (pid == 0) {
      ::close(pipe[0]);
      for (size_t i = lane; i < jobs.size(); i += lanes) {
        Report report;
        report.job = static_cast<uint32_t>(i);
        run_job(setup, jobs[i], report);
        if (::send(pipe[1], &report, sizeof(report), MSG_NOSIGNAL) < 0) ::_exit(1);
      }
      ::_exit(0);
    }
    pids.push_back(pid);
  }
  ::close(pipe[1]);
  struct Sum {
    uint64_t runs = 0, of = 0, violations = 0;
    Tally tally;
  };
  std::vector<std::pair<const Scenario*, Sum>> sums;
  auto sum_of = [&](const Scenario* scenario) -> Sum& {
    for (auto& [which, sum] : sums)
      if (which == scenario) return sum;
    return sums.emplace_back(scenario, Sum{}).second;
  };
  for (const Job& job : jobs) ++sum_of(job.scenario).of;
  const auto began = std::chrono::steady_clock::now();
  auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  Report report;
  uint64_t done = 0, kills = 0, violations = 0;
  Coverage hit;
  double said = 0;
  while (::recv(pipe[0], &report, sizeof(report), 0) == static_cast<ssize_t>(sizeof(report))) {
    const Job& job = jobs[report.job];
    Sum& sum = sum_of(job.scenario);
    ++sum.runs;
    ++done;
    sum.tally += report.tally;
    kills += report.tally.kills;
    hit += report.tally.hit;
    if (report.violated) {
      ++violations;
      ++sum.violations;
      const std::string text = report.text;
      const size_t line = text.find('\n');
      std::cout << "{\"violation\":" << quoted(text.substr(0, line))
                << ",\"scenario\":" << quoted(job.scenario->name) << ",\"index\":" << job.index
                << ",\"seed\":" << setup.seed
                << ",\"story\":" << quoted(line == text.npos ? "" : text.substr(line + 1)) << "}"
                << std::endl;
    }
    if (const double now = seconds(); now - said > 0.2 || done == jobs.size()) {
      said = now;
      std::cout << "{\"progress\":{\"runs\":" << done << ",\"of\":" << jobs.size() << ",\"kills\":" << kills
                << ",\"violations\":" << violations << "}}" << std::endl;
    }
  }
  bool whole = done == jobs.size();
  for (pid_t pid : pids) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) whole = false;
  }
  for (const auto& [scenario, sum] : sums)
    std::cout << "{\"scenario\":" << quoted(std::string(scenario->group) + "/" + scenario->name)
              << ",\"runs\":" << sum.runs << ",\"violations\":" << sum.violations << sum.tally.json()
              << "}\n";
  char time[32];
  std::snprintf(time, sizeof(time), "%.1f", seconds());
  std::cout << "{\"summary\":{\"runs\":" << done << ",\"kills\":" << kills << ",\"violations\":" << violations
            << ",\"whole\":" << (whole ? "true" : "false") << ",\"seed\":" << setup.seed
            << ",\"seconds\":" << time << hit.json() << "}}" << std::endl;
  return whole && violations == 0 ? 0 : 1;
}

// ---- The benchmark of what users see

void figure(const std::string& name, std::vector<uint64_t>& samples, const char* unit, double scale) {
  if (samples.empty()) return;
  std::sort(samples.begin(), samples.end());
  auto at = [&](double quantile) {
    const auto i = static_cast<size_t>(quantile * static_cast<double>(samples.size() - 1) + 0.5);
    return static_cast<double>(samples[i]) / scale;
  };
  for (const auto& [part, quantile] : {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1.0}})
    std::printf("{\"name\":\"%s/%s\",\"value\":%.4f,\"unit\":\"%s\",\"samples\":%zu}\n", name.c_str(), part,
                at(quantile), unit, samples.size());
  std::fflush(stdout);
}

// What it costs this host to wake a process that waits in a read, there and back, after a rest.
std::vector<uint64_t> wake_up_cost(size_t count) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) throw_errno("socketpair", "measuring");
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(ends[0]);
    char byte;
    while (::recv(ends[1], &byte, 1, 0) == 1) ::send(ends[1], &byte, 1, MSG_NOSIGNAL);
    ::_exit(0);
  }
  ::close(ends[1]);
  std::vector<uint64_t> samples;
  for (size_t i = 0; i < count; ++i) {
    ::usleep(1000);
    char byte = 0;
    const uint64_t from = monotonic_ns();
    ::send(ends[0], &byte, 1, 0);
    if (::recv(ends[0], &byte, 1, 0) != 1) break;
    samples.push_back(monotonic_ns() - from);
  }
  ::close(ends[0]);
  ::waitpid(pid, nullptr, 0);
  return samples;
}

int bench(const Setup& setup, uint64_t failovers) {
  auto wake = wake_up_cost(1000);
  figure("ha/host/wake-round-trip", wake, "us", 1e3);
  for (const bool silent : {false, true}) {
    std::vector<uint64_t> pauses;
    for (uint64_t i = 0; i < (silent ? (failovers + 1) / 2 : failovers); ++i) {
      Observer observer(setup.folder + "/" + (silent ? "s" : "r") + std::to_string(i), setup.seed + i);
      try {
        pauses.push_back(one_failover(observer, setup, silent).pause_ns);
      } catch (const Violation& violation) {
        std::fprintf(stderr, "campaign: %s\n%s", violation.what.c_str(), observer.story().c_str());
        return 1;
      } catch (const Stalled& stalled) {
        std::fprintf(stderr, "campaign: a failover given up: %s\n", stalled.what.c_str());
      }
    }
    figure(std::string("ha/failover-pause/") + (silent ? "silent" : "reset"), pauses, "ms", 1e6);
  }
  return 0;
}

int usage() {
  std::fprintf(
      stderr,
      "usage: hypertwin_campaign ha|migrate|all|quick|bench|list [--runs KILLS] [--seed S] [--only NAME]\n"
      "       [--index I] [--lanes L]\n");
  return 2;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.compare(0, 2, "--") != 0) {
      options.what = name;
      continue;
    }
    if (name == "--quick") {
      options.runs = 20;
      continue;
    }
    if (i + 1 == argc) return usage();
    const std::string value = argv[++i];
    if (name == "--only") {
      options.only = value;
      continue;
    }
    char* end = nullptr;
    const uint64_t number = std::strtoull(value.c_str(), &end, 10);
    if (end == value.c_str() || *end) return usage();
    if (name == "--runs")
      options.runs = number;
    else if (name == "--seed")
      options.seed = number;
    else if (name == "--index")
      options.index = number;
    else if (name == "--lanes" && number > 0)
      options.lanes = static_cast<unsigned>(number);
    else
      return usage();
  }
  const std::string& what = options.what;
  std::vector<const Scenario*> chosen;
  for (const auto* list : {&ha_scenarios(), &migrate_scenarios()})
    for (const Scenario& scenario : *list)
      if ((what == "all" || what == "quick" || what == "list" || what == scenario.group) &&
          (options.only.empty() || options.only == scenario.name))
        chosen.push_back(&scenario);
  if (what == "list") {
    for (const auto* scenario : chosen)
      std::cout << "{\"scenario\":\"" << scenario->group << "/" << scenario->name << "\"}\n";
    return 0;
  }
  if (chosen.empty() && what != "bench") return usage();
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    std::cout << "{\"skipped\":\"no usable /dev/kvm\"}" << std::endl;
    return 77;
  }
  std::vector<Job> jobs;
  for (const auto* scenario : chosen) {
    if (scenario->unable)
      if (const std::string reason = scenario->unable(); !reason.empty()) {
        std::cout << "{\"skipped\":" << quoted(reason) << ",\"scenario\":\"" << scenario->group << "/"
                  << scenario->name << "\"}" << std::endl;
        continue;
      }
    const uint64_t kills = options.runs.value_or(scenario->group == std::string("ha") ? 10000 : 1000);
    const uint64_t share = options.only.empty() ? kills * scenario->share / 100 : kills;
    uint64_t count = what == "quick" ? scenario->quick
                     : share > 0     ? (share + scenario->kills - 1) / scenario->kills
                                     : std::max(scenario->quick, kills / 100);
    if (options.index) count = 1;
    for (uint64_t i = 0; i < count; ++i) jobs.push_back({scenario, options.index.value_or(i)});
  }
  const char* shared_memory = "/dev/shm";
  std::string folder =
      (::access(shared_memory, W_OK) == 0 ? std::string(shared_memory)
                                          : std::filesystem::temp_directory_path().string()) +
      "/htc-XXXXXX";
  if (!::mkdtemp(folder.data())) throw_errno("mkdtemp", folder);
  Setup setup;
  setup.folder = folder;
  setup.snapshot = folder + "/template.htsnap";
  setup.disk = folder + "/template.img";
  setup.seed = options.seed;
  // In a process of its own, so that this one stays small and of one thread.
  const pid_t pid = ::fork();
  if (pid == 0) {
    try {
      make_template(setup.snapshot, setup.disk);
      ::_exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "campaign: %s\n", error.what());
      ::_exit(1);
    }
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  int result = 1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    result = what == "bench" ? bench(setup, options.runs.value_or(100)) : run_all(setup, jobs, options);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return result;
}

}  // namespace
}  // namespace hypertwin::campaign

int main(int argc, char** argv) {
  try {
    return hypertwin::campaign::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "campaign: %s\n", error.what());
    return 1;
  }
}
