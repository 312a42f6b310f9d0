// The outside observer of a campaign: owns the nodes and the network between them and the mailroom's users,
// keeps what the users saw acknowledged, and says what no machine may do: forget it, contradict it, or run
// twice. One thread, one poll loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "lan.h"
#include "node.h"

namespace hypertwin::campaign {

// What breaks a promise. The run ends with it.
struct Violation {
  std::string what;
};

// The host's kernel keeps a call of a node for longer than anybody waits: the run says nothing.
struct Stalled {
  std::string what;
};

struct Mail {
  std::vector<uint8_t> body;
  uint16_t from = 0;
  uint8_t flags = 0;
};

// A connection between two nodes that runs through the observer, who may hold a direction back.
class Relay {
 public:
  Relay(const std::string& path, std::string onward);
  ~Relay();
  const std::string& address() const { return address_; }
  enum Direction { kForward = 0, kBack = 1 };  // from who connected; to it
  void hold(Direction direction, bool held) { held_[direction] = held; }
  // The held bytes never arrive.
  void discard(Direction direction) { buffers_[direction].clear(); }
  // Each piece waits for up to so long.
  void delay(std::chrono::microseconds most) { delay_ = most; }
  // A connection that ends on one side stays silent on the other.
  void swallow_end() { swallow_end_ = true; }
  bool connected() const { return ends_[0] && ends_[1]; }

  std::vector<int> descriptors() const;
  void pump(std::mt19937_64& random);

 private:
  struct Piece {
    uint64_t due = 0;
    std::vector<uint8_t> bytes;
  };
  std::string address_, path_, onward_;
  Fd listener_;
  Fd ends_[2];  // from who connected; to whom
  bool over_[2] = {false, false};
  bool held_[2] = {false, false};
  bool swallow_end_ = false;
  std::chrono::microseconds delay_{0};
  std::deque<Piece> buffers_[2];
};

class Observer {
 public:
  static constexpr uint16_t kUsers = 4;

  Observer(std::string folder, uint64_t seed);
  ~Observer();
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  struct Host {
    pid_t pid = -1;
    Fd socket;
    bool alive = false;    // the process has not been reaped
    bool stopped = false;  // by SIGSTOP
    std::string disk;
    std::vector<std::string> events;
    size_t heard = 0;     // events before it count no more
    uint64_t frames = 0;  // received from it
    uint64_t firsts = 0;  // answers that were the first to their request
    uint64_t probes = 0;  // answers to questions that only this host was asked
    uint64_t asked = 0;
    uint64_t first_at = 0;  // CLOCK_MONOTONIC of the first of its firsts
    void forget() { heard = events.size(); }
    // The last event that begins so; nullptr when there is none.
    const std::string* event(const std::string& begin) const;
    bool said(const std::string& begin) const { return event(begin) != nullptr; }
  };

  std::optional<unsigned> author() const { return author_; }
  // Its number. The disk's path is chosen here unless it is given; `from` is copied there.
  unsigned start(NodeOptions options, const std::string& disk_from = "");
  Host& host(unsigned number) { return hosts_.at(number); }
  void command(unsigned number, const std::string& text);
  void signal(unsigned number, int which);
  // Kills it if it is alive, and forgets its process.
  void remove(unsigned number);

  // What is not answered within it is sent again.
  void retransmit_after(std::chrono::microseconds time) { retransmit_ = time; }
  // The users begin, or stop beginning new requests.
  void traffic(bool on);
  // The users' network is connected to this host; else it is wherever the last answer came from.
  void connect_users(unsigned number) { port_ = number; }
  uint64_t answered() const { return answered_; }
  // Longest time without any answer while traffic was on, since the last call.
  uint64_t take_longest_pause();

  // Longer than any time-out of the nodes.
  static constexpr std::chrono::seconds kPatience{30};

  // Runs the network until `done`; false when it was not within `limit`.
  bool run(const std::function<bool()>& done, std::chrono::milliseconds limit = kPatience);
  // As run(), but a limit that is passed is a violation; or Stalled, where a node hangs in the kernel.
  void expect(const std::string& what, const std::function<bool()>& done,
              std::chrono::milliseconds limit = kPatience);
  void pass(std::chrono::microseconds time);
  // New requests are answered: by `number`, if it is given.
  void expect_service(const std::string& when, std::optional<unsigned> number = std::nullopt,
                      uint64_t answers = 8);
  // Asks this host alone; true when anything answers within `limit`.
  bool answers(unsigned number, std::chrono::milliseconds limit);
  // Everything acknowledged is there, once, and nothing else. `exactly`: also the count of all requests.
  void verify(bool exactly = true);

  Relay& relay(const std::string& onward);
  // The Ethernet between nodes with a lan_port; before they start.
  Lan& make_lan(const Weather& weather);
  // Digest of a host's disk image.
  uint64_t disk_digest(unsigned number) const;
  const std::string& folder() const { return folder_; }
  std::mt19937_64& random() { return random_; }
  uint64_t below(uint64_t n) { return random_() % n; }
  // For a report.
  std::string story() const;
  [[noreturn]] void violated(const std::string& what);

 private:
  struct User {
    uint64_t seq = 0;
    uint32_t session = 0;
    bool waiting = false;
    uint8_t op = 0;
    uint16_t to = 0;
    uint32_t mail = 0;
    uint8_t flags = 0;
    std::vector<uint8_t> body;
    std::vector<uint8_t> frame;
    uint64_t sent_at = 0;
    std::vector<uint8_t> last_reply;  // to the last request that was answered
    uint64_t last_seq = 0;
  };

  void pump(std::chrono::microseconds wait);
  void reap();
  void next(uint16_t user);
  void ask(uint16_t user, uint8_t op, uint32_t arg0 = 0, uint32_t arg1 = 0, std::vector<uint8_t> body = {});
  void transmit(uint16_t user, bool everywhere);
  void on_frame(unsigned number, std::span<const uint8_t> frame);
  // One request of a user, and its answer.
  struct Answer {
    uint16_t status = 0;
    uint32_t arg0 = 0;
    uint64_t value = 0;
    std::vector<uint8_t> body;
  };
  Answer query(uint16_t user, uint8_t op, uint32_t arg0 = 0, uint32_t arg1 = 0);

  const std::string folder_;
  std::mt19937_64 random_;
  std::map<unsigned, Host> hosts_;
  unsigned next_host_ = 0;
  std::optional<unsigned> port_;
  std::optional<unsigned> author_;  // who gave the last first answer
  std::set<unsigned> former_;       // who did before
  std::vector<User> users_;
  std::map<uint16_t, std::map<uint32_t, Mail>> rooms_;
  uint64_t answered_ = 0;
  uint64_t operations_ = 0;
  std::chrono::microseconds retransmit_{20'000};
  bool traffic_ = false;
  bool queries_ = false;  // an answer goes to query() alone
  std::optional<Answer> answer_;
  uint64_t last_answer_at_ = 0, longest_pause_ = 0;
  std::vector<std::unique_ptr<Relay>> relays_;
  Weather weather_;  // of lan_
  std::unique_ptr<Lan> lan_;
  std::deque<std::string> story_;
};

uint64_t monotonic_ns();

}  // namespace hypertwin::campaign
