// Misfortunes of a primary and its backup.
#include <fstream>

#include <filesystem>

#include "file_arbiter.h"
#include "scenario.h"

namespace hypertwin::campaign {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Silence that counts as death, where the scenario is not about it.
constexpr ha::Heartbeats kPatient{microseconds(2000), microseconds(400000), microseconds(400000)};
constexpr ha::Heartbeats kPrompt{microseconds(2000), microseconds(60000), microseconds(60000)};
constexpr unsigned kLinks = 8;

struct Point {
  bool primary = true;
  std::string step;
  uint64_t nth = 0;
};

// Every step of the protocol on either side, and every block of the log, sent or acknowledged, up to a limit.
std::vector<Point> all_points() {
  constexpr uint64_t kBlocks = 160;
  std::vector<Point> points;
  for (const char* step :
       {"connected", "sync-hello-sent", "sync-accepted", "hello", "sync-round-sent", "copied",
        "sync-state-sent", "state-sent", "sync-ready-received", "ready", "protected"})
    points.push_back({true, step, 0});
  for (const char* step : {"connected", "hello", "state-received", "ready", "armed"})
    points.push_back({false, step, 0});
  for (uint64_t nth = 0; nth < kBlocks; ++nth) {
    points.push_back({true, "log-sent", nth});
    points.push_back({true, "acked", nth});
    points.push_back({false, "acked", nth});
  }
  return points;
}

NodeOptions restored(const Setup& setup, const ha::Heartbeats& heartbeats = kPatient) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kRestore;
  options.snapshot = setup.snapshot;
  options.heartbeats = heartbeats;
  return options;
}

NodeOptions follower(const ha::Heartbeats& heartbeats = kPatient) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kBackup;
  options.heartbeats = heartbeats;
  return options;
}

std::string listening(Observer& o, unsigned number) {
  o.expect("a backup that listens", [&] { return o.host(number).said("listening"); });
  return o.host(number).event("listening")->substr(10);
}

unsigned first_primary(Observer& o, const Setup& setup, NodeOptions options) {
  const unsigned p = o.start(std::move(options), setup.disk);
  o.expect("a machine", [&] { return o.host(p).said("ready"); });
  o.connect_users(p);
  o.traffic(true);
  return p;
}

unsigned first_primary(Observer& o, const Setup& setup) { return first_primary(o, setup, restored(setup)); }

struct Pair {
  unsigned p, b;
};

bool over(const Observer::Host& host) {
  return host.said("ha live") || host.said("ha ended") || host.said("ha halted") ||
         host.said("ha unprotected");
}

void await_protection(Observer& o, const Pair& pair) {
  const auto& P = o.host(pair.p);
  const auto& B = o.host(pair.b);
  // Where others keep the host busy, heartbeats may be missed before it begins: that ends in order.
  o.run([&] { return over(P) || over(B) || (P.said("ha protected") && B.said("ha protected")); });
  if (over(P) || over(B))
    throw Stalled{"no protection on a host so busy: " + (over(B) ? B : P).events.back()};
  o.expect("protection",
           [&] { return o.host(pair.p).said("ha protected") && o.host(pair.b).said("ha protected"); });
}

// A primary with users, protected by a backup.
Pair protected_pair(Observer& o, const Setup& setup, const ha::Heartbeats& heartbeats = kPatient,
                    Relay** relay = nullptr) {
  Pair pair{first_primary(o, setup, restored(setup, heartbeats)), o.start(follower(heartbeats))};
  std::string address = listening(o, pair.b);
  if (relay) {
    *relay = &o.relay(address);
    address = (*relay)->address();
  }
  o.command(pair.p, "protect " + address);
  await_protection(o, pair);
  return pair;
}

bool goes_on(const Observer::Host& host) { return host.said("ha live") || host.said("ha unprotected"); }

// The backup takes over; the users are served by it.
void expect_failover(Observer& o, const Pair& pair, Tally& tally) {
  o.expect("a backup that goes live", [&] { return over(o.host(pair.b)); });
  if (!o.host(pair.b).said("ha live")) o.violated("the backup did not go live");
  o.expect_service("from the backup", pair.b);
  ++tally.failovers;
}

void expect_unprotected(Observer& o, const Pair& pair, Tally& tally) {
  o.expect("a primary without its backup", [&] { return over(o.host(pair.p)); });
  o.expect_service("from the primary", pair.p);
  ++tally.carried_on;
}

void finish(Observer& o, Tally& tally, bool exactly = true) {
  o.verify(exactly);
  tally.acknowledged += o.answered();
}

// A machine from the image of a dead host, as after a power failure.
unsigned restart(Observer& o, unsigned dead, Tally& tally) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kBoot;
  options.disk = o.host(dead).disk;
  options.heartbeats = kPatient;
  const unsigned number = o.start(std::move(options));
  o.expect("a machine that boots from its disk", [&] { return o.host(number).said("ready"); });
  o.connect_users(number);
  ++tally.restarts;
  return number;
}

// A chain of kills: whoever survives is protected again by a new backup, and the next is killed.
void kills(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  static const std::vector<Point> points = all_points();
  static const char* const late[] = {"suspecting", "claimed", "replayed", "live"};
  unsigned p = first_primary(o, setup);
  bool exactly = true;
  for (unsigned link = 0; link < kLinks; ++link) {
    const uint64_t number = index * kLinks + link;
    // Of eight: five enumerated, two at random moments, one primary and then its backup while it takes over.
    enum { kAtPoint, kAtRandom, kBoth } kind = number % 8 < 5 ? kAtPoint : number % 8 < 7 ? kAtRandom : kBoth;
    // 5/8 and 1/8 of the numbers, without gaps.
    const uint64_t nth = kind == kBoth ? number / 8 * 37 : number / 8 * 5 + number % 8;
    Point point = points[(nth + setup.seed) % points.size()];
    if (kind == kBoth) point.primary = true;
    if (kind == kBoth && (point.step != "acked" || point.nth == 0)) point = {true, "acked", 20 + nth % 100};
    NodeOptions options = follower();
    if (kind == kBoth) options.kill = {late[number / 8 % 4], 0};
    if (kind == kAtPoint && !point.primary) options.kill = {point.step, point.nth};
    if (number % 2 == 1) options.listen = "tcp://127.0.0.1:0";
    const unsigned b = o.start(std::move(options));
    const std::string address = listening(o, b);
    o.host(p).forget();
    if (kind != kAtRandom && point.primary)
      o.command(p, "kill-at " + std::to_string(point.nth) + " " + point.step);
    else
      o.command(p, "kill-at 0 never");
    o.command(p, "protect " + address);
    if (kind == kAtRandom) {
      const bool primary = o.below(2) == 0;
      o.pass(microseconds(o.below(150000)));
      o.signal(primary ? p : b, SIGKILL);
    }
    auto& P = o.host(p);
    auto& B = o.host(b);
    auto settled = [](const Observer::Host& host) { return !host.alive || over(host); };
    o.expect("somebody's end", [&] { return settled(P) || settled(B); });
    // A primary may die before it has connected: nobody will.
    if (!P.alive && !B.said("connected")) o.pass(milliseconds(20));
    if (P.alive || B.said("connected"))
      o.expect("both sides' end or decision", [&] { return settled(P) && settled(B); });
    if (kind == kBoth && B.said("ha live")) o.expect("the backup's end too", [&] { return !B.alive; });
    // What was said before death is heard.
    o.pass(microseconds(0));
    if (!P.alive) ++tally.kills;
    if (!B.alive) ++tally.kills;
    if (P.alive && B.alive) {
      ++tally.false_alarms;
      if (goes_on(P) && B.said("ha live")) o.violated("both sides go on");
    }
    if (!P.alive && B.alive && !B.said("ha live") && P.said("ha protected"))
      o.violated("a protected machine has no successor");
    if (B.alive && B.said("ha live")) {
      o.expect_service("from the backup", b);
      ++tally.failovers;
      o.remove(p);
      p = b;
    } else if (P.alive) {
      o.expect_service("from the primary", p);
      ++tally.carried_on;
      o.remove(b);
    } else {
      // Both dead, or the primary before it was protected: what was acknowledged is on a disk.
      if (B.alive && o.answers(b, milliseconds(20))) o.violated("a replica that has ended answers");
      o.remove(b);
      p = restart(o, o.author().value_or(p), tally);
      o.expect_service("after a restart", p);
      exactly = false;
    }
  }
  finish(o, tally, exactly);
  if (index % 8 == 0) {
    // The survivor's disk alone holds all that was acknowledged, too.
    o.remove(p);
    restart(o, p, tally);
    o.verify(false);
  }
}

// SIGSTOP, and SIGCONT after the backup went live: the zombie says nothing new.
void zombie(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  const Pair pair = protected_pair(o, setup, kPrompt);
  o.pass(microseconds(o.below(20000)));
  o.signal(pair.p, SIGSTOP);
  expect_failover(o, pair, tally);
  ++tally.kills;
  o.pass(microseconds(0));
  auto& P = o.host(pair.p);
  const uint64_t frames = P.frames, disk = o.disk_digest(pair.p);
  o.signal(pair.p, SIGCONT);
  if (o.answers(pair.p, milliseconds(30))) o.violated("the fenced primary answers");
  o.expect("the former primary's halt", [&] { return over(P); });
  if (!P.said("ha halted")) o.violated("the former primary does not halt: " + P.events.back());
  if (o.answers(pair.p, milliseconds(10))) o.violated("the halted primary answers");
  tally.zombie_frames += P.frames - frames;
  tally.zombie_writes += o.disk_digest(pair.p) != disk;
  finish(o, tally);
}

void set_arbiter(Observer& o, bool up) {
  const std::string flag = o.folder() + "/arbiter/down";
  if (up)
    std::filesystem::remove(flag);
  else
    std::ofstream{flag};
}

// Nobody takes a risk while the arbiter does not answer, and all goes on when it does.
void arbiter_down(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  const Pair pair = protected_pair(o, setup);
  o.pass(microseconds(o.below(10000)));
  set_arbiter(o, false);
  const bool kill_primary = index % 2 == 0;
  const unsigned dead = kill_primary ? pair.p : pair.b, left = kill_primary ? pair.b : pair.p;
  o.signal(dead, SIGKILL);
  ++tally.kills;
  o.expect("a side that waits", [&] { return o.host(left).said("ha waiting"); });
  o.pass(microseconds(0));
  if (o.answers(left, milliseconds(40))) o.violated("a side runs though the arbiter does not answer");
  set_arbiter(o, true);
  if (kill_primary)
    expect_failover(o, pair, tally);
  else
    expect_unprotected(o, pair, tally);
  finish(o, tally);
}

// A backup that stands still now and then, for less than counts as death.
void slow_backup(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  const Pair pair = protected_pair(o, setup);
  for (int i = 0; i < 4; ++i) {
    o.signal(pair.b, SIGSTOP);
    o.pass(microseconds(10000 + o.below(60000)));
    o.signal(pair.b, SIGCONT);
    o.pass(microseconds(o.below(10000)));
  }
  o.expect_service("with a slow backup");
  if (over(o.host(pair.p))) {
    ++tally.false_alarms;
    finish(o, tally);
    return;
  }
  o.signal(pair.p, SIGKILL);
  ++tally.kills;
  expect_failover(o, pair, tally);
  finish(o, tally);
}

// The backup's disk takes no more: it gives up, the primary goes on.
void full_disk(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  const Pair pair = protected_pair(o, setup);
  o.command(pair.b, "limit 65536");
  expect_unprotected(o, pair, tally);
  if (!o.host(pair.p).said("ha unprotected")) o.violated("the primary is not unprotected");
  o.expect("the backup's end", [&] { return over(o.host(pair.b)); });
  if (o.host(pair.b).said("ha live")) o.violated("a backup with a full disk went live");
  if (o.answers(pair.b, milliseconds(10))) o.violated("a backup with a full disk answers");
  o.signal(pair.b, SIGKILL);
  o.expect_service("afterwards", pair.p);
  finish(o, tally);
}

// One direction, or both, bring nothing for a while: exactly one side goes on.
void partition(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Relay* relay = nullptr;
  const Pair pair = protected_pair(o, setup, kPrompt, &relay);
  o.pass(microseconds(o.below(20000)));
  if (index % 3 != 1) relay->hold(Relay::kForward, true);
  if (index % 3 != 0) relay->hold(Relay::kBack, true);
  auto& P = o.host(pair.p);
  auto& B = o.host(pair.b);
  o.expect("somebody's suspicion", [&] { return over(P) || over(B); });
  o.pass(microseconds(o.below(50000)));
  relay->hold(Relay::kForward, false);
  relay->hold(Relay::kBack, false);
  o.expect("both sides' decision", [&] { return over(P) && over(B); });
  if (goes_on(P) == B.said("ha live")) o.violated("not exactly one side goes on");
  const bool taken_over = B.said("ha live");
  o.expect_service("after the partition", taken_over ? pair.b : pair.p);
  if (o.answers(taken_over ? pair.p : pair.b, milliseconds(20))) o.violated("both sides answer");
  ++(taken_over ? tally.failovers : tally.carried_on);
  finish(o, tally);
}

// Delay that varies, then the end of one side, without its connection's end in half of the cases.
void weather(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Relay* relay = nullptr;
  const Pair pair = protected_pair(o, setup, kPatient, &relay);
  relay->delay(microseconds(1 + o.below(15000)));
  o.expect_service("through bad weather", std::nullopt, 40);
  if (index % 2) relay->swallow_end();
  const bool kill_primary = index % 4 < 2;
  if (over(o.host(pair.p)) || over(o.host(pair.b))) {
    ++tally.false_alarms;
  } else {
    o.signal(kill_primary ? pair.p : pair.b, SIGKILL);
    ++tally.kills;
    if (kill_primary)
      expect_failover(o, pair, tally);
    else
      expect_unprotected(o, pair, tally);
  }
  finish(o, tally);
}

// Planned: the machine moves to the backup; also when one side dies on the way.
void hand_over(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  const Pair pair = protected_pair(o, setup);
  o.pass(microseconds(o.below(10000)));
  auto& P = o.host(pair.p);
  o.command(pair.p, "hand-over");
  if (index % 3 != 0) {
    o.pass(microseconds(o.below(8000)));
    o.signal(index % 3 == 1 ? pair.p : pair.b, SIGKILL);
    ++tally.kills;
  }
  if (index % 3 == 2) {
    // The backup may have won the claim before it died: then the primary must not go on.
    o.expect("the primary's end", [&] { return over(P); });
    const std::string winner = claimed_by(o.folder() + "/arbiter", P.event("session")->substr(8));
    if (winner == "backup") {
      if (o.answers(pair.p, milliseconds(30))) o.violated("a machine that was handed over answers");
      const unsigned again = restart(o, o.author().value_or(pair.p), tally);
      o.expect_service("after a restart", again);
      return finish(o, tally, false);
    }
    o.expect_service("from the primary", pair.p);
    ++tally.carried_on;
  } else {
    expect_failover(o, pair, tally);
    if (index % 3 == 0) {
      o.expect("the hand-over's end", [&] { return P.said("handed-over"); });
      if (!P.said("handed-over none")) o.violated("the hand-over failed: " + *P.event("handed-over"));
      if (o.answers(pair.p, milliseconds(10))) o.violated("a machine that was handed over answers");
    }
  }
  finish(o, tally);
}

// ---- Planted errors: each passes when it is caught

// `signs`: what the observer may say of it.
void caught(Observer& o, const std::string& error, std::initializer_list<const char*> signs,
            const std::function<void()>& run) {
  std::string heard;
  try {
    run();
  } catch (const Violation& violation) {
    heard = violation.what;
    for (const char* sign : signs)
      if (heard.find(sign) != heard.npos) return;
  }
  o.violated("planted and not caught: " + error + (heard.empty() ? "" : " (but: " + heard + ")"));
}

void no_output_rule(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  caught(o, "answers that do not wait for the backup",
         {"given twice", "are lost", "were acknowledged", "not asked yet", "answers that differ", "status"},
         [&] {
           NodeOptions options = restored(setup);
           options.planted.no_output_rule = true;
           const Pair pair{first_primary(o, setup, std::move(options)), o.start(follower())};
           Relay& relay = o.relay(listening(o, pair.b));
           o.command(pair.p, "protect " + relay.address());
           await_protection(o, pair);
           relay.hold(Relay::kForward, true);
           o.expect_service("while the log does not arrive", pair.p);
           o.signal(pair.p, SIGKILL);
           relay.discard(Relay::kForward);
           relay.hold(Relay::kForward, false);
           expect_failover(o, pair, tally);
           o.verify();
         });
}

// The same without the planted error: nothing leaves while the log does not arrive.
void output_rule(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  Relay* relay = nullptr;
  const Pair pair = protected_pair(o, setup, kPatient, &relay);
  relay->hold(Relay::kForward, true);
  // What was acknowledged already may still come.
  o.pass(microseconds(20000));
  if (o.answers(pair.p, milliseconds(40))) o.violated("an answer left though no log arrived");
  o.signal(pair.p, SIGKILL);
  ++tally.kills;
  relay->discard(Relay::kForward);
  relay->hold(Relay::kForward, false);
  expect_failover(o, pair, tally);
  finish(o, tally);
}

void two_yes(Observer& o, const Setup& setup, uint64_t, Tally&) {
  caught(o, "an arbiter that says yes twice", {"both sides answer", "two are live"}, [&] {
    NodeOptions primary = restored(setup, kPrompt), backup = follower(kPrompt);
    primary.arbiter_says_yes = backup.arbiter_says_yes = true;
    const Pair pair{first_primary(o, setup, std::move(primary)), o.start(std::move(backup))};
    Relay& relay = o.relay(listening(o, pair.b));
    o.command(pair.p, "protect " + relay.address());
    await_protection(o, pair);
    relay.hold(Relay::kForward, true);
    relay.hold(Relay::kBack, true);
    o.expect("both sides' decision", [&] { return over(o.host(pair.p)) && over(o.host(pair.b)); });
    const bool one = o.answers(pair.p, milliseconds(1000)), other = o.answers(pair.b, milliseconds(1000));
    if (one && other) o.violated("both sides answer");
  });
}

void dropped_record(Observer& o, const Setup& setup, uint64_t, Tally& tally) {
  NodeOptions options = restored(setup);
  options.planted.drop_record = 50 + o.below(300);
  const Pair pair{first_primary(o, setup, std::move(options)), o.start(follower())};
  o.command(pair.p, "protect " + listening(o, pair.b));
  // The replica strays and says so: the primary goes on without it.
  o.expect("a backup that gives up", [&] { return over(o.host(pair.b)); });
  const auto& B = o.host(pair.b);
  if (!B.said("ha ended DIVERGED"))
    o.violated("planted and not caught: a record that was not sent: " + B.events.back());
  expect_unprotected(o, pair, tally);
  finish(o, tally);
}

}  // namespace

const std::vector<Scenario>& ha_scenarios() {
  static const std::vector<Scenario> all = {
      {"kills", "ha", kLinks, 20, kills},         {"zombie", "ha", 1, 6, zombie},
      {"arbiter-down", "ha", 1, 4, arbiter_down}, {"slow-backup", "ha", 1, 3, slow_backup},
      {"full-disk", "ha", 1, 3, full_disk},       {"partition", "ha", 1, 6, partition},
      {"weather", "ha", 1, 4, weather},           {"hand-over", "ha", 1, 6, hand_over},
      {"output-rule", "ha", 1, 3, output_rule},   {"planted/no-output-rule", "ha", 1, 2, no_output_rule},
      {"planted/two-yes", "ha", 1, 2, two_yes},   {"planted/dropped-record", "ha", 1, 2, dropped_record},
  };
  return all;
}

Failover one_failover(Observer& o, const Setup& setup, bool silent) {
  const ha::Heartbeats usual;
  // Else the pause would be the users' own patience.
  o.retransmit_after(microseconds(1000));
  const Pair pair = protected_pair(o, setup, usual);
  // Silence is noticed sooner when the connection has shown for some seconds how even it is.
  o.pass(microseconds((silent ? 4'000'000 : 20'000) + o.below(10000)));
  o.take_longest_pause();
  const uint64_t from = monotonic_ns();
  // A process that is stopped keeps its connection, as a host without power does.
  o.signal(pair.p, silent ? SIGSTOP : SIGKILL);
  o.expect("a backup that goes live", [&] { return o.host(pair.b).firsts > 0; });
  Failover result;
  result.pause_ns = o.host(pair.b).first_at - from;
  result.longest_gap_ns = o.take_longest_pause();
  return result;
}

}  // namespace hypertwin::campaign
