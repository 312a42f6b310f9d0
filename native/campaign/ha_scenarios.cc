// Misfortunes of a primary and its backup.
#include <fstream>

#include <filesystem>

#include "file_arbiter.h"
#include "ha_kills.h"
#include "ha_network.h"
#include "pair.h"

namespace hypertwin::campaign {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

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

// Nobody takes a risk while the arbiter does not answer, and all goes on when it does. In half of the runs
// the side that waits ends too.
void arbiter_down(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  const bool both = index / 2 % 2;
  NodeOptions backup = follower();
  if (both) backup.kill = {"waiting", 0};
  const Pair pair = protected_pair(o, restored(setup), std::move(backup), setup);
  if (both) o.command(pair.p, "kill-at 0 waiting");
  o.pass(microseconds(o.below(10000)));
  set_arbiter(o, false);
  const bool kill_primary = index % 2 == 0;
  const unsigned dead = kill_primary ? pair.p : pair.b, left = kill_primary ? pair.b : pair.p;
  o.signal(dead, SIGKILL);
  ++tally.kills;
  o.expect("a side that waits", [&] { return o.host(left).said("ha waiting"); });
  if (both) {
    o.expect("its end", [&] { return !o.host(left).alive; });
    ++tally.kills;
    tally.hit.step(kill_primary ? Side::kBackup : Side::kPrimary, "waiting");
    set_arbiter(o, true);
    o.expect_service("after a restart", restart(o, o.author().value_or(pair.p), tally));
    return finish(o, tally, false);
  }
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

// One direction, or both, bring nothing for a while: exactly one side goes on. In half of the runs the other
// one ends when it knows.
void partition(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Relay* relay = nullptr;
  const bool ends = index / 3 % 2;
  const std::string primary_step = index / 6 % 2 ? "lost-claim" : "fenced";
  NodeOptions backup = follower(kPrompt);
  if (ends) backup.kill = {"halted", 0};
  const Pair pair = protected_pair(o, restored(setup, kPrompt), std::move(backup), setup, &relay);
  if (ends) o.command(pair.p, "kill-at 0 " + primary_step);
  o.pass(microseconds(o.below(20000)));
  if (index % 3 != 1) relay->hold(Relay::kForward, true);
  if (index % 3 != 0) relay->hold(Relay::kBack, true);
  auto& P = o.host(pair.p);
  auto& B = o.host(pair.b);
  o.expect("somebody's suspicion", [&] { return over(P) || over(B); });
  o.pass(microseconds(o.below(50000)));
  relay->hold(Relay::kForward, false);
  relay->hold(Relay::kBack, false);
  o.expect("both sides' decision", [&] { return (over(P) || !P.alive) && (over(B) || !B.alive); });
  if (goes_on(P) == B.said("ha live")) o.violated("not exactly one side goes on");
  const bool taken_over = B.said("ha live");
  if (const auto& loser = taken_over ? P : B; ends) {
    o.expect("the loser's end", [&] { return !loser.alive; });
    ++tally.kills;
    tally.hit.step(taken_over ? Side::kPrimary : Side::kBackup, taken_over ? primary_step : "halted");
  }
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
  // Where it dies; empty: at a random moment.
  static const char* const primary_steps[] = {"", "handing-over", "fenced"};
  static const char* const backup_steps[] = {"", "handing-over", "claimed", "replayed", "live"};
  const bool kill_primary = index % 3 == 1, kill_backup = index % 3 == 2;
  const std::string step = kill_primary  ? primary_steps[index / 3 % std::size(primary_steps)]
                           : kill_backup ? backup_steps[index / 3 % std::size(backup_steps)]
                                         : "";
  NodeOptions backup = follower();
  if (kill_backup) backup.kill = {step, 0};
  const Pair pair = protected_pair(o, restored(setup), std::move(backup), setup);
  if (kill_primary && !step.empty()) o.command(pair.p, "kill-at 0 " + step);
  o.pass(microseconds(o.below(10000)));
  auto& P = o.host(pair.p);
  o.command(pair.p, "hand-over");
  if (kill_primary || kill_backup) {
    const unsigned dead = kill_primary ? pair.p : pair.b;
    if (step.empty()) {
      o.pass(microseconds(o.below(8000)));
      o.signal(dead, SIGKILL);
    } else {
      o.expect("an end at " + step, [&] { return !o.host(dead).alive; });
      tally.hit.step(kill_primary ? Side::kPrimary : Side::kBackup, step);
    }
    ++tally.kills;
  }
  if (kill_backup) {
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
    if (!kill_primary) {
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
           // The killed primary's connection tells of it; a slow host must not seem dead meanwhile.
           const ha::Heartbeats calm{std::chrono::milliseconds(2), std::chrono::seconds(10),
                                     std::chrono::seconds(10)};
           NodeOptions options = restored(setup, calm);
           options.planted.no_output_rule = true;
           const Pair pair{first_primary(o, setup, std::move(options)), o.start(follower(calm))};
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
  caught(o, "an arbiter that says yes twice",
         {"both sides answer", "two are live", "two answers that differ", "a mail's number is given twice"},
         [&] {
           NodeOptions primary = restored(setup, kPrompt), backup = follower(kPrompt);
           primary.arbiter_says_yes = backup.arbiter_says_yes = true;
           const Pair pair{first_primary(o, setup, std::move(primary)), o.start(std::move(backup))};
           Relay& relay = o.relay(listening(o, pair.b));
           o.command(pair.p, "protect " + relay.address());
           await_protection(o, pair);
           relay.hold(Relay::kForward, true);
           relay.hold(Relay::kBack, true);
           o.expect("both sides' decision", [&] { return over(o.host(pair.p)) && over(o.host(pair.b)); });
           const bool one = o.answers(pair.p, milliseconds(1000)),
                      other = o.answers(pair.b, milliseconds(1000));
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
      {"kills", "ha", kChainKills, 14, kills, 50},
      {"records", "ha", kRecordChainKills, 6, record_kills, 50},
      {"zombie", "ha", 1, 6, zombie},
      {"arbiter-down", "ha", 1, 4, arbiter_down},
      {"slow-backup", "ha", 1, 3, slow_backup},
      {"full-disk", "ha", 1, 3, full_disk},
      {"partition", "ha", 1, 6, partition},
      {"weather", "ha", 1, 4, weather},
      {"hand-over", "ha", 1, 6, hand_over},
      {"net-partition", "ha", 1, 3, net_partition, 0, net_unable},
      {"net-loss", "ha", 1, 4, net_loss, 0, net_unable},
      {"net-reorder", "ha", 1, 2, net_reorder, 0, net_unable},
      {"net-delay", "ha", 1, 2, net_delay, 0, net_unable},
      {"output-rule", "ha", 1, 3, output_rule},
      {"planted/no-output-rule", "ha", 1, 2, no_output_rule},
      {"planted/two-yes", "ha", 1, 2, two_yes},
      {"planted/dropped-record", "ha", 1, 2, dropped_record},
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
