#include "pair.h"

namespace hypertwin::campaign {

using std::chrono::microseconds;
using std::chrono::milliseconds;

NodeOptions restored(const Setup& setup, const ha::Heartbeats& heartbeats) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kRestore;
  options.snapshot = setup.snapshot;
  options.heartbeats = heartbeats;
  return options;
}

NodeOptions follower(const ha::Heartbeats& heartbeats) {
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

Pair protected_pair(Observer& o, NodeOptions primary, NodeOptions backup, const Setup& setup, Relay** relay) {
  Pair pair{first_primary(o, setup, std::move(primary)), o.start(std::move(backup))};
  std::string address = listening(o, pair.b);
  if (relay) {
    *relay = &o.relay(address);
    address = (*relay)->address();
  }
  o.command(pair.p, "protect " + address);
  await_protection(o, pair);
  return pair;
}

Pair protected_pair(Observer& o, const Setup& setup, const ha::Heartbeats& heartbeats, Relay** relay) {
  return protected_pair(o, restored(setup, heartbeats), follower(heartbeats), setup, relay);
}

bool goes_on(const Observer::Host& host) { return host.said("ha live") || host.said("ha unprotected"); }

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

void finish(Observer& o, Tally& tally, bool exactly) {
  o.verify(exactly);
  tally.acknowledged += o.answered();
}

unsigned restart(Observer& o, unsigned dead, Tally& tally, bool record_blocks) {
  NodeOptions options;
  options.begin = NodeOptions::Begin::kBoot;
  options.disk = o.host(dead).disk;
  options.heartbeats = kPatient;
  options.record_blocks = record_blocks;
  const unsigned number = o.start(std::move(options));
  o.expect("a machine that boots from its disk", [&] { return o.host(number).said("ready"); });
  o.connect_users(number);
  ++tally.restarts;
  return number;
}

}  // namespace hypertwin::campaign
