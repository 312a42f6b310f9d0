#include "ha_kills.h"

#include "pair.h"

namespace hypertwin::campaign {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Point {
  Side side = Side::kPrimary;
  std::string step;
  uint64_t nth = 0;
};

// What happens to one pair.
struct Misfortune {
  std::optional<Point> first;  // none: one side, at a random moment
  std::string then;            // the other side's step at which it ends too
  // Of the log, hit with the first.
  std::optional<Coverage::Where> where;
};
using Plan = Misfortune (*)(uint64_t number, uint64_t seed);

constexpr Coverage::Where kAlone[] = {Coverage::kSent, Coverage::kKnown, Coverage::kAcknowledged};

Point point_of_log(Coverage::Where where, uint64_t nth) {
  if (where == Coverage::kSent) return {Side::kPrimary, "log-sent", nth};
  return {where == Coverage::kAcknowledged ? Side::kBackup : Side::kPrimary, "acked", nth};
}

// Steps at which the one that is left ends too: a backup whose primary is lost, a primary without its backup.
const char* late_step(Side lost, uint64_t number) {
  static const char* const backup[] = {"suspecting", "claimed", "replayed", "live"};
  static const char* const primary[] = {"suspecting", "claimed", "unprotected"};
  return lost == Side::kPrimary ? backup[number % std::size(backup)] : primary[number % std::size(primary)];
}

// Every step of a beginning on either side, and every block of the log up to a limit.
std::vector<Misfortune> single_points() {
  std::vector<Misfortune> all;
  for (const Side side : {Side::kPrimary, Side::kBackup})
    for (const std::string& step : first_steps(side)) all.push_back({Point{side, step}, "", std::nullopt});
  for (uint64_t nth = 0; nth < Coverage::kBlocks; ++nth)
    for (const auto where : kAlone) all.push_back({point_of_log(where, nth), "", where});
  return all;
}

// Of eight: five single points, two at random moments, one that takes both.
Misfortune any_misfortune(uint64_t number, uint64_t seed) {
  static const std::vector<Misfortune> points = single_points();
  const uint64_t kind = number % 8, eighth = number / 8;
  if (kind < 5) return points[(eighth * 5 + kind + seed) % points.size()];
  if (kind < 7) return {};
  // A primary that dies while it is copied leaves a backup that ends.
  if (eighth % 8 == 7) return {Point{Side::kPrimary, "copied"}, "ended", std::nullopt};
  const auto where = eighth % 8 < 4 ? Coverage::kKnown : Coverage::kAcknowledged;
  const Point point = point_of_log(where, 20 + (eighth * 37 + seed) % 100);
  return {point, late_step(point.side, eighth), where};
}

Misfortune record_misfortune(uint64_t number, uint64_t seed) {
  const uint64_t at = (number + seed) % (Coverage::kPlaces * Coverage::kRecords);
  const uint64_t nth = at / Coverage::kPlaces;
  const auto where = static_cast<Coverage::Where>(at % Coverage::kPlaces);
  if (where != Coverage::kBoth) return {point_of_log(where, nth), "", where};
  const Side lost = nth % 2 ? Side::kBackup : Side::kPrimary;
  return {Point{lost, "acked", nth}, late_step(lost, nth / 2), where};
}

void chain(Observer& o, const Setup& setup, uint64_t index, Tally& tally, Plan plan, bool by_record) {
  NodeOptions begin = restored(setup);
  begin.record_blocks = by_record;
  unsigned p = first_primary(o, setup, std::move(begin));
  bool exactly = true;
  unsigned again = 0;
  for (unsigned link = 0; link < kLinks; ++link) {
    const uint64_t number = index * kLinks + link;
    const Misfortune what = plan(number, setup.seed);
    const bool primary_first = what.first && what.first->side == Side::kPrimary;
    NodeOptions options = follower();
    options.record_blocks = by_record;
    if (number % 2 == 1) options.listen = "tcp://127.0.0.1:0";
    std::string in_primary = "0 never";
    if (what.first) {
      const std::string first = std::to_string(what.first->nth) + " " + what.first->step;
      if (primary_first) {
        in_primary = first;
        options.kill = {what.then, 0};
      } else {
        options.kill = {what.first->step, what.first->nth};
        if (!what.then.empty()) in_primary = "0 " + what.then;
      }
    }
    const unsigned b = o.start(std::move(options));
    const std::string address = listening(o, b);
    o.host(p).forget();
    o.command(p, "kill-at " + in_primary);
    o.command(p, "protect " + address);
    if (!what.first) {
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
    auto& first = primary_first ? P : B;
    auto& other = primary_first ? B : P;
    // It says how it goes on, and ends then.
    if (!first.alive &&
        ((!what.then.empty() && goes_on(other)) || what.then == "ended" || what.then == "unprotected"))
      o.expect("the other side's end too", [&] { return !other.alive; });
    // What was said before death is heard.
    o.pass(microseconds(0));
    if (!P.alive) ++tally.kills;
    if (!B.alive) ++tally.kills;
    const bool hit = !what.first || !first.alive;
    if (what.first && hit) {
      if (!what.where)
        tally.hit.step(what.first->side, what.first->step);
      else if (by_record)
        tally.hit.record(*what.where, what.first->nth);
      else
        tally.hit.block(*what.where, what.first->nth);
      if (!what.then.empty() && !other.alive)
        tally.hit.step(primary_first ? Side::kBackup : Side::kPrimary, what.then);
    }
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
      p = restart(o, o.author().value_or(p), tally, by_record);
      o.expect_service("after a restart", p);
      exactly = false;
    }
    // Something else came before.
    if (!hit && ++again <= 2)
      --link;
    else
      again = 0;
  }
  finish(o, tally, exactly);
  if (index % 8 == 0) {
    // The survivor's disk alone holds all that was acknowledged, too.
    o.remove(p);
    restart(o, p, tally);
    o.verify(false);
  }
}

}  // namespace

void kills(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  chain(o, setup, index, tally, any_misfortune, false);
}

void record_kills(Observer& o, const Setup& setup, uint64_t index, Tally& tally) {
  chain(o, setup, index, tally, record_misfortune, true);
}

}  // namespace hypertwin::campaign
