#include "ha_network.h"

#include "pair.h"

namespace hypertwin::campaign {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A lost segment at a connection's end is sent again after 200 ms, and after twice that the next time.
constexpr ha::Heartbeats kPatientNet{microseconds(2000), microseconds(2'000'000), microseconds(2'000'000)};
constexpr double kOvertaken = 0.05;  // at least, of frames that are delayed unequally
constexpr unsigned kPrimaryPort = 0, kBackupPort = 1;

Pair net_pair(Observer& o, const Setup& setup, const ha::Heartbeats& heartbeats, Lan** lan,
              const Weather& weather = {}) {
  *lan = &o.make_lan(weather);
  NodeOptions primary = restored(setup, heartbeats), backup = follower(heartbeats);
  primary.lan_port = kPrimaryPort;
  backup.lan_port = kBackupPort;
  backup.listen = "tcp://" + Lan::address(kBackupPort) + ":0";
  return protected_pair(o, std::move(primary), std::move(backup), setup);
}

void count(Observer& o, const Lan& lan, const Weather& weather, Tally& tally) {
  const auto& counts = lan.counts();
  tally.frames_carried += counts.carried;
  tally.frames_lost += counts.lost;
  tally.frames_doubled += counts.doubled;
  tally.frames_overtaken += counts.overtaken;
  if (weather.fine()) return;
  ++(kernel_has_netem() ? tally.by_netem : tally.by_bridge);
  if (kernel_has_netem()) return;
  // Few frames may all be lucky; of so many that 20 should be hit, one is.
  const auto many = [&](double share) { return share * static_cast<double>(counts.carried) >= 20; };
  if ((many(weather.loss) && counts.lost == 0) || (many(weather.duplicate) && counts.doubled == 0) ||
      (weather.delay.count() > 0 && many(kOvertaken) && counts.overtaken == 0))
    o.violated("the weather was fine");
}

// Users work through it; then one side dies, in half of the runs without a word.
void storm(Observer& o, const Setup& setup, uint64_t index, Tally& tally, const Weather& weather) {
  Lan* lan = nullptr;
  const Pair pair = net_pair(o, setup, kPatientNet, &lan, weather);
  o.expect_service("through the storm", std::nullopt, 60);
  const bool kill_primary = index / 2 % 2 == 0;
  if (over(o.host(pair.p)) || over(o.host(pair.b))) {
    ++tally.false_alarms;
  } else {
    const unsigned dead = kill_primary ? pair.p : pair.b;
    if (index % 2) lan->cut(kill_primary ? kPrimaryPort : kBackupPort, true);
    o.signal(dead, SIGKILL);
    ++tally.kills;
    if (kill_primary)
      expect_failover(o, pair, tally);
    else
      expect_unprotected(o, pair, tally);
  }
  count(o, *lan, weather, tally);
  finish(o, tally);
}

}  // namespace

std::string net_unable() { return no_lan(); }

// One direction, or both, carry nothing for longer than the heartbeats allow, and then everything: exactly
// one side goes on.
void net_partition(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Lan* lan = nullptr;
  const Pair pair = net_pair(o, setup, kPrompt, &lan);
  o.pass(microseconds(o.below(20000)));
  if (index % 3 != 1) lan->cut(kPrimaryPort, true);
  if (index % 3 != 0) lan->cut(kBackupPort, true);
  auto& P = o.host(pair.p);
  auto& B = o.host(pair.b);
  o.expect("somebody's suspicion", [&] { return over(P) || over(B); });
  o.pass(microseconds(o.below(50000)));
  lan->cut(kPrimaryPort, false);
  lan->cut(kBackupPort, false);
  o.expect("both sides' decision", [&] { return over(P) && over(B); });
  if (goes_on(P) == B.said("ha live")) o.violated("not exactly one side goes on");
  const bool taken_over = B.said("ha live");
  o.expect_service("after the partition", taken_over ? pair.b : pair.p);
  if (o.answers(taken_over ? pair.p : pair.b, milliseconds(20))) o.violated("both sides answer");
  ++(taken_over ? tally.failovers : tally.carried_on);
  count(o, *lan, {}, tally);
  finish(o, tally);
}

void net_loss(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Weather weather;
  weather.loss = 0.01 * static_cast<double>(1 + index % 5);
  storm(o, setup, index, tally, weather);
}

void net_reorder(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Weather weather;
  weather.delay = milliseconds(2);
  weather.reorder = 0.25;
  weather.duplicate = 0.02;
  storm(o, setup, index, tally, weather);
}

void net_delay(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  Weather weather;
  weather.delay = milliseconds(5);
  weather.jitter = milliseconds(3);
  storm(o, setup, index, tally, weather);
}

}  // namespace hypertwin::campaign
