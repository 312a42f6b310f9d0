// libvirt without a binding, as the baseline of bench/libvirt.mjs: reads a command a line from stdin and
// answers with a number a line. "serial S", "pipelined S" (64 threads): calls a second over S seconds; "hop
// S": seconds to another thread and back; "list URI", "stats URI": seconds for all domains. Ends with 77
// where there is no libvirt.
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "bench.h"
#include "libvirt/loader.h"

namespace {

using namespace hypertwin;
using bench::now;

constexpr int kInFlight = 64;

struct Info {
  unsigned char state;
  unsigned long max_mem, memory;
  unsigned short cpus;
  unsigned long long cpu_time;
};

// The functions that are measured.
struct Api {
  template <class F>
  static F* find(const char* name) {
    return libvirt::loader().get<F>(name);
  }
  void* (*open)(const char*) = find<void*(const char*)>("virConnectOpen");
  void* (*lookup)(void*, const char*) = find<void*(void*, const char*)>("virDomainLookupByName");
  int (*info)(void*, Info*) = find<int(void*, Info*)>("virDomainGetInfo");
  int (*free_domain)(void*) = find<int(void*)>("virDomainFree");
  int (*list)(void*, void***, unsigned) = find<int(void*, void***, unsigned)>("virConnectListAllDomains");
  int (*stats)(void*, unsigned, void***,
               unsigned) = find<int(void*, unsigned, void***, unsigned)>("virConnectGetAllDomainStats");
  void (*free_stats)(void**) = find<void(void**)>("virDomainStatsRecordListFree");
};

void check(bool good, const char* what) {
  if (!good) throw Error("EBENCH", std::string(what) + " failed");
}

uint64_t calls_for(const Api& api, void* domain, double seconds) {
  uint64_t calls = 0;
  Info info;
  for (const double end = now() + seconds; now() < end; calls += 16)
    for (int i = 0; i < 16; ++i) check(api.info(domain, &info) == 0, "virDomainGetInfo");
  return calls;
}

double serial(const Api& api, void* domain, double seconds) {
  const double start = now();
  const uint64_t calls = calls_for(api, domain, seconds);
  return static_cast<double>(calls) / (now() - start);
}

double pipelined(const Api& api, void* domain, double seconds) {
  std::atomic<uint64_t> calls = 0;
  std::vector<std::thread> threads;
  const double start = now();
  for (int i = 0; i < kInFlight; ++i) threads.emplace_back([&] { calls += calls_for(api, domain, seconds); });
  for (auto& thread : threads) thread.join();
  return static_cast<double>(calls) / (now() - start);
}

double hop(double seconds) {
  std::mutex mutex;
  std::condition_variable there, back;
  bool asked = false, over = false;
  std::thread other([&] {
    std::unique_lock lock(mutex);
    for (;;) {
      there.wait(lock, [&] { return asked || over; });
      if (over) return;
      asked = false;
      back.notify_one();
    }
  });
  uint64_t hops = 0;
  const double start = now();
  {
    std::unique_lock lock(mutex);
    for (; now() - start < seconds; ++hops) {
      asked = true;
      there.notify_one();
      back.wait(lock, [&] { return !asked; });
    }
    over = true;
    there.notify_one();
  }
  other.join();
  return (now() - start) / static_cast<double>(hops);
}

// The connection that is listed, kept for the next time.
struct Many {
  std::string uri;
  void* open = nullptr;
  void* connection(const Api& api, const std::string& wanted) {
    if (uri != wanted) {
      open = api.open(wanted.c_str());
      check(open, "virConnectOpen");
      uri = wanted;
    }
    return open;
  }
};

double list(const Api& api, void* connection, bool with_stats) {
  const double start = now();
  void** all = nullptr;
  if (with_stats) {
    check(api.stats(connection, 0, &all, 0) > 0, "virConnectGetAllDomainStats");
    api.free_stats(all);
  } else {
    const int count = api.list(connection, &all, 0);
    check(count > 0, "virConnectListAllDomains");
    for (int i = 0; i < count; ++i) api.free_domain(all[i]);
    std::free(all);
  }
  return now() - start;
}

}  // namespace

int main(int argc, char** argv) try {
  const Api api;
  void* connection = api.open(argc > 1 ? argv[1] : "test:///default");
  check(connection, "virConnectOpen");
  void* domain = api.lookup(connection, "test");
  check(domain, "virDomainLookupByName");
  Many many;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, argument;
    words >> command >> argument;
    const double seconds = std::strtod(argument.c_str(), nullptr);
    double answer = 0;
    if (command == "serial")
      answer = serial(api, domain, seconds);
    else if (command == "pipelined")
      answer = pipelined(api, domain, seconds);
    else if (command == "hop")
      answer = hop(seconds);
    else if (command == "list" || command == "stats")
      answer = list(api, many.connection(api, argument), command == "stats");
    else
      throw Error("EINVAL", "there is no command " + command);
    std::printf("%.9g\n", answer);
    std::fflush(stdout);
  }
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "libvirt_bench: %s\n", error.what());
  return error.code() == "LIBVIRT_MISSING" ? 77 : 1;
}
