// Misfortunes of a machine that moves between two hosts with shared images.
#include <filesystem>
#include <fstream>

#include "scenario.h"

namespace hypertwin::campaign {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr unsigned kLinks = 6;
constexpr const char* kSourceSteps[] = {"connected", "hello-sent",      "accepted",       "round-sent",
                                        "stopped",   "state-sent",      "ready-received", "commit-sent",
                                        "claimed",   "running-received"};
constexpr const char* kDestinationSteps[] = {
    "hello-received", "accept-sent",     "round-received",      "state-received", "verified",
    "ready-sent",     "commit-received", "destination-claimed", "running"};

// Who won the claims that were not there before.
std::string new_claim(const std::string& folder, std::set<std::string>& known) {
  std::string winner;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.find('.') != name.npos || !known.insert(name).second) continue;
    std::ifstream(entry.path()) >> winner;
  }
  return winner;
}

std::string code_of(const std::string& event) {
  const size_t from = event.find(' ') + 1;
  return event.substr(from, event.find(' ', from) - from);
}

unsigned restart(Observer& o, const std::string& disk, bool arbiter, Tally& tally) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kBoot;
  options.disk = disk;
  if (!arbiter) options.arbiter = "none";
  const unsigned number = o.start(std::move(options));
  o.expect("a machine that boots from its disk", [&] { return o.host(number).said("ready"); });
  o.connect_users(number);
  ++tally.restarts;
  return number;
}

void chain(Observer& o, const Setup& setup, uint64_t index, Tally& tally, bool arbiter) {
  constexpr size_t kSources = std::size(kSourceSteps), kPoints = kSources + std::size(kDestinationSteps);
  NodeOptions first;
  first.begin = NodeOptions::Begin::kRestore;
  first.snapshot = setup.snapshot;
  if (!arbiter) first.arbiter = "none";
  unsigned s = o.start(std::move(first), setup.disk);
  o.expect("a machine", [&] { return o.host(s).said("ready"); });
  o.connect_users(s);
  o.traffic(true);
  const std::string disk = o.host(s).disk;
  std::set<std::string> claims;
  bool exactly = true;
  for (unsigned link = 0; link < kLinks; ++link) {
    const uint64_t number = index * kLinks + link;
    // Of six: two at each step in turn, two at random moments, one with both sides killed, one left in peace.
    const unsigned kind = number % 6;
    std::string source_step, destination_step;
    const size_t point = (number / 6 * 2 + kind + setup.seed) % kPoints;
    if (kind < 2)
      (point < kSources ? source_step : destination_step) =
          point < kSources ? kSourceSteps[point] : kDestinationSteps[point - kSources];
    if (kind == 4) {
      source_step = kSourceSteps[o.below(kSources)];
      destination_step = kDestinationSteps[o.below(std::size(kDestinationSteps))];
    }
    NodeOptions options;
    options.begin = NodeOptions::Begin::kDestination;
    options.disk = disk;
    options.kill = {destination_step, 0};
    if (!arbiter) options.arbiter = "none";
    if (number % 2) options.listen = "tcp://127.0.0.1:0";
    const unsigned d = o.start(std::move(options));
    o.expect("a destination that listens", [&] { return o.host(d).said("listening"); });
    auto& S = o.host(s);
    auto& D = o.host(d);
    S.forget();
    o.command(s, "kill-at 0 " + (source_step.empty() ? "never" : source_step));
    o.command(s, "migrate " + D.event("listening")->substr(10));
    if (kind == 2 || kind == 3) {
      o.pass(microseconds(o.below(25000)));
      o.signal(kind == 2 ? s : d, SIGKILL);
    }
    o.expect("the move's end at a side", [&] { return !S.alive || S.said("migrated"); });
    // A source may die before it has connected: nobody will.
    if (!S.alive && !D.said("connected")) o.pass(milliseconds(20));
    if (!S.alive && !D.said("connected")) {
      o.signal(d, SIGKILL);
    } else {
      o.expect("the move's end", [&] { return !D.alive || D.said("received"); });
    }
    o.pass(microseconds(0));
    if (!S.alive) ++tally.kills;
    if (!D.alive) ++tally.kills;
    const std::string winner = new_claim(o.folder() + "/arbiter", claims);
    const std::string sent = S.alive ? code_of(*S.event("migrated")) : "dead";
    const std::string received = D.alive ? code_of(*D.event("received")) : "dead";
    const bool source_runs =
        S.alive && sent != "none" && sent != "MIGRATED_ANYWAY" && sent != "MIGRATION_IN_DOUBT";
    const bool destination_runs = received == "none";
    if (source_runs && destination_runs) o.violated("both sides say that they run the machine");
    if (arbiter && source_runs && winner == "destination") o.violated("the source goes on without the claim");
    if (arbiter && destination_runs && winner != "destination")
      o.violated("the destination runs the machine without the claim");
    if (arbiter && sent == "MIGRATION_IN_DOUBT") o.violated("in doubt though the arbiter answers");
    if (sent == "none" && received == "none") {
      const std::string &out = *S.event("migrated none"), &in = *D.event("received none");
      if (out.substr(14) != in.substr(14)) o.violated("the digests differ: " + out + ", " + in);
      ++tally.moves;
    }
    if (S.alive && D.alive && !source_runs && !destination_runs) o.violated("neither side runs the machine");
    if (destination_runs) {
      o.expect_service("from the destination", d);
      if (S.alive && o.answers(s, milliseconds(10)))
        o.violated("the source answers though the machine moved");
      o.remove(s);
      s = d;
    } else if (source_runs) {
      o.expect_service("from the source", s);
      if (D.alive && o.answers(d, milliseconds(10))) o.violated("the destination answers though it refused");
      o.remove(d);
      ++tally.carried_on;
    } else {
      if (S.alive && o.answers(s, milliseconds(10)))
        o.violated("a source that does not own the machine answers");
      if (D.alive && o.answers(d, milliseconds(10))) o.violated("a destination without the machine answers");
      o.remove(s);
      o.remove(d);
      s = restart(o, disk, arbiter, tally);
      o.expect_service("after a restart", s);
      exactly = false;
    }
  }
  o.verify(exactly);
  tally.acknowledged += o.answered();
}

void moves(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  chain(o, setup, index, tally, true);
}

void moves_alone(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  chain(o, setup, index, tally, false);
}

void skipped_page(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  NodeOptions source;
  source.begin = NodeOptions::Begin::kRestore;
  source.snapshot = setup.snapshot;
  source.skipped_page = 1;
  const unsigned s = o.start(std::move(source), setup.disk);
  o.expect("a machine", [&] { return o.host(s).said("ready"); });
  o.connect_users(s);
  o.traffic(true);
  NodeOptions destination;
  destination.begin = NodeOptions::Begin::kDestination;
  destination.disk = o.host(s).disk;
  const unsigned d = o.start(std::move(destination));
  o.expect("a destination that listens", [&] { return o.host(d).said("listening"); });
  o.command(s, "migrate " + o.host(d).event("listening")->substr(10));
  o.expect("the move's end", [&] { return o.host(s).said("migrated") && o.host(d).said("received"); });
  if (!o.host(d).said("received MIGRATION_DIGEST"))
    o.violated("planted and not caught: a page that was not sent: " + *o.host(d).event("received"));
  o.expect_service("from the source", s);
  o.verify();
  tally.acknowledged += o.answered();
}

}  // namespace

const std::vector<Scenario>& migrate_scenarios() {
  static const std::vector<Scenario> all = {
      {"moves", "migrate", 5, 14, moves, 100},
      {"moves-without-arbiter", "migrate", 5, 4, moves_alone},
      {"planted/skipped-page", "migrate", 1, 2, skipped_page},
  };
  return all;
}

}  // namespace hypertwin::campaign
