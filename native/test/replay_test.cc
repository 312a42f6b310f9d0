// Record and replay on real KVM: equal digests, and every planted error caught.
#include "replay/replayer.h"

#include <sys/mount.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "code_of.h"
#include "dirty/tracker.h"
#include "log/source.h"
#include "log_fixtures.h"
#include "machine_util.h"
#include "mail_client.h"
#include "replay/recorder.h"

namespace hypertwin::replay {
namespace {

using namespace std::chrono_literals;
using machine::guest_image;
using machine::Machine;
using machine::MachineConfig;
using machine::open_kvm;
using machine::State;
using machine::TempDir;
using machine::TestListener;

// A mailroom with a disk, and users in a closed loop on its replies.
class Mailroom : public TestListener {
 public:
  static std::shared_ptr<Mailroom> boot(std::shared_ptr<kvm::System> system, const TempDir& dir,
                                        bool start = true) {
    auto self = std::make_shared<Mailroom>();
    std::ofstream(dir.file("disk.img")).close();
    std::filesystem::resize_file(dir.file("disk.img"), 8u << 20);
    MachineConfig config;
    config.memory_size = 32u << 20;
    config.nets.emplace_back();
    config.disks.push_back({.path = dir.file("disk.img")});
    self->machine = Machine::create(system, config, guest_image("mailroom"), self);
    if (start) self->machine->start();
    return self;
  }

  // Booted, and ready for users.
  static std::shared_ptr<Mailroom> serve(std::shared_ptr<kvm::System> system, const TempDir& dir) {
    auto room = boot(std::move(system), dir);
    EXPECT_TRUE(room->wait_console("mailroom ready")) << room->console();
    return room;
  }

  void on_packet(uint32_t device, std::span<const uint8_t> packet) override {
    if (auto reply = mail::parse(packet)) {
      answered_.fetch_add(1);
      if (reply->head.op == MAILROOM_LOGIN) {
        std::lock_guard lock(mutex_);
        sessions_[reply->head.user] = reply->head.arg0;
      }
      next(reply->head.user, reply->head.seq + 1);
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    } else {
      TestListener::on_packet(device, packet);
    }
  }

  void users(uint16_t count) {
    users_ = count;
    for (uint16_t user = 0; user < count; ++user)
      machine->send_packet(0, mail::request(MAILROOM_LOGIN, user, 1, 0));
  }
  bool wait_answers(uint64_t count) {
    return wait([&] { return answered_.load() >= count || last_state_ >= State::kPaused; }) &&
           answered_.load() >= count;
  }
  void hush() { quiet_.store(true); }
  uint64_t answered() const { return answered_.load(); }

  std::shared_ptr<Machine> machine;

 private:
  void next(uint16_t user, uint64_t seq) {
    if (quiet_.load()) return;
    uint32_t session;
    {
      std::lock_guard lock(mutex_);
      session = sessions_[user];
    }
    uint8_t body[64];
    std::memset(body, static_cast<int>(seq), sizeof(body));
    if (seq % 3 == 0)
      machine->send_packet(0,
                           mail::request(MAILROOM_SEND, user, seq, session, (user + 1u) % users_, 0, body));
    else
      machine->send_packet(0, mail::request(MAILROOM_LIST, user, seq, session));
  }

  std::map<uint16_t, uint32_t> sessions_;
  uint16_t users_ = 1;
  std::atomic<uint64_t> answered_{0};
  std::atomic<bool> quiet_{false};
};

ReplayResult replay_all(std::shared_ptr<kvm::System> system, const std::string& dir) {
  return Replay::open(system, dir, nullptr)->run();
}

// "none" where the log begins with the state that is beside it.
std::string open_code(std::shared_ptr<kvm::System> system, const std::string& dir) {
  return code_of([&] { Replay::open(std::move(system), dir, nullptr); });
}

TEST(Replay, HelloFromTheFirstInstruction) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  MachineConfig config;
  config.memory_size = 16u << 20;
  std::shared_ptr<Machine> machine = Machine::create(system_, config, guest_image("hello"), listener);
  auto recording = Recording::start(machine, dir.file("log"));
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
  auto recorded = recording->stop();
  ASSERT_TRUE(recorded.state);

  auto again = std::make_shared<TestListener>();
  auto replay = Replay::open(system_, dir.file("log"), again);
  auto replayed = replay->run();
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd) << (replayed.divergence ? replayed.divergence->message : "");
  EXPECT_TRUE(replayed.complete);
  EXPECT_EQ(replayed.boundary, recorded.last_boundary);
  EXPECT_EQ(replayed.state, *recorded.state);
  EXPECT_EQ(again->console(), listener->console());
}

TEST(Replay, MailroomUnderLoad) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::boot(system_, dir, false);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->machine->start();
  ASSERT_TRUE(room->wait_console("mailroom ready")) << room->console() << room->last_message_;
  room->users(50);
  ASSERT_TRUE(room->wait_answers(5000)) << room->answered() << room->console() << room->last_message_;
  auto recorded = recording->stop();
  ASSERT_TRUE(recorded.state);
  auto replayed = replay_all(system_, dir.file("log"));
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd)
      << (replayed.divergence ? replayed.divergence->kind + ": " + replayed.divergence->message
                              : replayed.message);
  EXPECT_TRUE(replayed.complete);
  EXPECT_EQ(replayed.state.combined(), recorded.state->combined());
  EXPECT_GT(replayed.checks, 1u);
}

// Write faults interrupt the guest anywhere; nothing of that may show.
TEST(Replay, DirtyTrackingWhileRecordingDoesNotShow) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  dirty::Tracker tracker(
      {.vm = room->machine->vm(), .vcpus = {room->machine->vcpu()}, .ram = room->machine->ram()},
      {.mode = dirty::Mode::kBitmap});
  tracker.start();
  std::atomic<bool> done{false};
  uint64_t pages = 0;
  std::thread harvester([&] {
    dirty::Harvest harvest;
    while (!done.load()) {
      tracker.harvest(harvest);
      pages += harvest.pages;
    }
  });
  room->users(4);
  EXPECT_TRUE(room->wait_answers(4000));
  done.store(true);
  harvester.join();
  auto recorded = recording->stop();
  EXPECT_GT(pages, 100u);
  auto replayed = replay_all(system_, dir.file("log"));
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd)
      << (replayed.divergence ? replayed.divergence->kind + ": " + replayed.divergence->message
                              : replayed.message);
  EXPECT_EQ(replayed.state, *recorded.state);
}

TEST(Replay, BeginsInTheMiddle) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  room->users(8);
  ASSERT_TRUE(room->wait_answers(500));
  auto recording = Recording::start(room->machine, dir.file("log"));
  ASSERT_TRUE(room->wait_answers(room->answered() + 1000));
  auto recorded = recording->stop();
  auto replayed = replay_all(system_, dir.file("log"));
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd)
      << (replayed.divergence ? replayed.divergence->kind + ": " + replayed.divergence->message
                              : replayed.message);
  EXPECT_EQ(replayed.state, *recorded.state);
}

// Also between a trap instruction and its handler, where a host's KVM may keep the exception to itself.
TEST(Replay, BeginsAnywhere) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  room->users(8);
  for (int i = 0; i < 100; ++i) {
    const std::string log = dir.file("log" + std::to_string(i));
    ASSERT_TRUE(room->wait_answers(room->answered() + 10));
    auto recording = Recording::start(room->machine, log);
    ASSERT_TRUE(room->wait_answers(room->answered() + 10));
    auto recorded = recording->stop();
    ASSERT_TRUE(recorded.state);
    auto replayed = replay_all(system_, log);
    ASSERT_EQ(replayed.stop, ReplayStop::kLogEnd)
        << i << ": " << (replayed.divergence ? replayed.divergence->message : replayed.message);
    ASSERT_EQ(replayed.state, *recorded.state) << i;
    std::filesystem::remove_all(log);
  }
}

// ---- What must not go unnoticed

ReplayResult replay_with(std::shared_ptr<kvm::System> system, PlantedFaults faults) {
  TempDir dir;
  auto room = Mailroom::serve(system, dir);
  auto recording = Recording::start(room->machine, dir.file("log"), {}, faults);
  room->users(8);
  EXPECT_TRUE(room->wait_answers(2000));
  recording->stop();
  return replay_all(system, dir.file("log"));
}

TEST(ReplayNegative, NoFaultNoDivergence) {
  NEED_KVM();
  EXPECT_EQ(replay_with(system_, {}).stop, ReplayStop::kLogEnd);
}

TEST(ReplayNegative, InputLeftOut) {
  NEED_KVM();
  auto result = replay_with(system_, {.skip_input = 100});
  ASSERT_EQ(result.stop, ReplayStop::kDiverged);
  EXPECT_GT(result.divergence->boundary, 10u);
  EXPECT_EQ(result.boundary, result.divergence->boundary) << "the replay stops where it differs";
}

TEST(ReplayNegative, InterruptShiftedByOneBoundary) {
  NEED_KVM();
  auto result = replay_with(system_, {.shift_interrupt = 20});
  ASSERT_EQ(result.stop, ReplayStop::kDiverged);
  EXPECT_GT(result.divergence->boundary, 10u);
}

TEST(ReplayNegative, ByteOfAPacketChanged) {
  NEED_KVM();
  auto result = replay_with(system_, {.flip_packet = 100});
  ASSERT_EQ(result.stop, ReplayStop::kDiverged) << result.message;
  EXPECT_GT(result.divergence->boundary, 10u);
}

// A guest that executes, one by one, an instruction whose result no log holds.
struct ProbeRun {
  ReplayResult result;
  std::vector<Suspect> warned;
};
ProbeRun replay_probe(std::shared_ptr<kvm::System> system, const std::string& command_line) {
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  MachineConfig config;
  config.memory_size = 16u << 20;
  config.command_line = command_line;
  std::shared_ptr<Machine> machine = Machine::create(system, config, guest_image("probe"), listener);
  auto recording = Recording::start(machine, dir.file("log"));
  machine->start();
  EXPECT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_ << listener->console();
  recording->stop();
  return {replay_all(system, dir.file("log")), recording->suspects()};
}

bool names(const std::vector<Suspect>& suspects, const std::string& instruction) {
  return std::any_of(suspects.begin(), suspects.end(),
                     [&](const Suspect& s) { return s.instruction == instruction; });
}

TEST(ReplayNegative, AGuestThatReadsTheTimeStampCounter) {
  NEED_KVM();
  for (const char* name : {"rdtsc", "rdtscp", "rdrand"}) {
    auto probe = replay_probe(system_, std::string("only=") + name + " repeat=20");
    EXPECT_TRUE(names(probe.warned, name)) << name << ": named before the recording";
    ASSERT_EQ(probe.result.stop, ReplayStop::kDiverged) << name;
    EXPECT_EQ(probe.result.boundary, probe.result.divergence->boundary);
    EXPECT_TRUE(names(probe.result.divergence->suspects, name)) << name << ": named after it";
  }
}

TEST(ReplayNegative, AGuestThatAsksOnlyWhatIsTheSameEveryTime) {
  NEED_KVM();
  for (const char* name : {"pit", "rtc", "sgdt", "smsw", "cpl0-cpuid-1"}) {
    auto probe = replay_probe(system_, std::string("only=") + name + " repeat=20");
    EXPECT_EQ(probe.result.stop, ReplayStop::kLogEnd)
        << name << ": " << (probe.result.divergence ? probe.result.divergence->message : "");
  }
}

// ---- Going to a boundary

// Where two machines' memories differ, for a failure's message.
std::string memory_differences(const Machine& a, const Machine& b) {
  std::string text;
  for (uint64_t at = 0, found = 0; at < a.memory().size() && found < 16; at += 8)
    if (std::memcmp(a.memory().data() + at, b.memory().data() + at, 8) != 0) {
      char line[96];
      std::snprintf(line, sizeof(line), "%llx: %016llx %016llx\n", static_cast<unsigned long long>(at),
                    static_cast<unsigned long long>(get_le<uint64_t>(a.memory().data() + at)),
                    static_cast<unsigned long long>(get_le<uint64_t>(b.memory().data() + at)));
      text += line;
      ++found;
    }
  return text;
}

TEST(Replay, SeeksForwardsAndBack) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->users(8);
  ASSERT_TRUE(room->wait_answers(1000));
  room->machine->pause();
  auto recorded = recording->stop();
  auto replay = Replay::open(system_, dir.file("log"), nullptr);
  const uint64_t middle = (recorded.first_boundary + recorded.last_boundary) / 2;
  auto there = replay->seek(middle);
  ASSERT_EQ(there.stop, ReplayStop::kBoundary);
  EXPECT_EQ(there.boundary, middle);
  auto end = replay->run();
  EXPECT_EQ(end.stop, ReplayStop::kLogEnd) << (end.divergence ? end.divergence->message : end.message);
  EXPECT_EQ(end.state, *recorded.state) << memory_differences(*room->machine, *replay->machine());
  auto back = replay->seek(middle);
  ASSERT_EQ(back.stop, ReplayStop::kBoundary);
  EXPECT_EQ(back.state, there.state);
  EXPECT_THROW(replay->seek(recorded.first_boundary - 1), Error);
}

TEST(Replay, FollowsALogThatGrows) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  auto replay = Replay::open(system_, dir.file("log"), nullptr, {.follow = true});
  ReplayResult replayed;
  std::thread follower([&] { replayed = replay->run(); });
  room->users(8);
  ASSERT_TRUE(room->wait_answers(2000));
  auto recorded = recording->stop();
  follower.join();
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd) << (replayed.divergence ? replayed.divergence->message : "");
  EXPECT_TRUE(replayed.complete);
  EXPECT_EQ(replayed.state, *recorded.state);
}

TEST(Replay, AFollowerCanBeCancelled) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  auto replay = Replay::open(system_, dir.file("log"), nullptr, {.follow = true});
  ReplayResult replayed;
  std::thread follower([&] { replayed = replay->run(); });
  room->users(2);
  ASSERT_TRUE(room->wait_answers(100));
  replay->cancel();
  follower.join();
  EXPECT_EQ(replayed.stop, ReplayStop::kCancelled);
}

// Both the stall's task and the cancel's wait for the vCPU's thread, the latter behind the former.
TEST(Replay, CancelledWhileAStallIsNoticed) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->users(8);
  ASSERT_TRUE(room->wait_answers(1000));
  recording->stop();
  auto replay = Replay::open(system_, dir.file("log"), nullptr, {.stall = 1ms});
  std::promise<void> held, release;
  auto running = std::async(std::launch::async, [&] { return replay->run(); });
  while (replay->machine()->state() != State::kRunning && running.wait_for(0s) != std::future_status::ready)
    std::this_thread::yield();
  auto holding = std::async(std::launch::async, [&] {
    replay->machine()->call(machine::At::kAnywhere, [&] {
      held.set_value();
      release.get_future().wait();
    });
  });
  held.get_future().wait();
  // Nothing depends on these two: they only make it likely that both have begun to wait.
  std::this_thread::sleep_for(100ms);
  auto cancelling = std::async(std::launch::async, [&] { replay->cancel(); });
  std::this_thread::sleep_for(100ms);
  replay->boundary();
  release.set_value();
  holding.get();
  cancelling.get();
  EXPECT_NE(running.get().stop, ReplayStop::kFailed);
}

// What an access of a few bytes leaves beside them in the exit is not the guest's.
TEST(Replay, OnlyWhatTheGuestWroteIsCompared) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  MachineConfig config;
  config.memory_size = 16u << 20;
  config.command_line = "kind=mmio count=50";
  std::shared_ptr<Machine> machine = Machine::create(system_, config, guest_image("exits"), listener);
  auto recording = Recording::start(machine, dir.file("log"));
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped));
  auto recorded = recording->stop();
  auto replay = Replay::open(system_, dir.file("log"), nullptr);
  int seen = 0;
  for (uint64_t to = recorded.first_boundary; to < recorded.last_boundary; ++to) {
    auto there = replay->seek(to);
    ASSERT_FALSE(there.divergence) << there.divergence->message;
    auto here = replay->machine();
    here->call(machine::At::kAnywhere, [&] {
      // The last exit is completed: nobody needs this any more.
      kvm_run& run = *here->vcpu()->run_page();
      if (run.mmio.phys_addr == 0xd0000000 && run.mmio.data[7] == 0xa5) ++seen;
      std::memset(run.mmio.data, 0xa5, sizeof(run.mmio.data));
    });
  }
  EXPECT_GE(seen, 49);
}

TEST(Replay, WithoutItsEndALogIsReplayedToItsLastRecord) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->users(8);
  ASSERT_TRUE(room->wait_answers(1000));
  recording.reset();
  auto replayed = replay_all(system_, dir.file("log"));
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd) << (replayed.divergence ? replayed.divergence->message : "");
  EXPECT_FALSE(replayed.complete);
}

TEST(Replay, RefusesAnotherMachinesSnapshot) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->users(1);
  ASSERT_TRUE(room->wait_answers(10));
  recording->stop();
  room->machine->snapshot(dir.file("log/initial.htsnap"));
  try {
    Replay::open(system_, dir.file("log"), nullptr);
    FAIL() << "opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOG_INITIAL_STATE");
  }
}

TEST(Replay, AMachineThatOutlivesItsReplayIsStopped) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("log"));
  room->users(2);
  ASSERT_TRUE(room->wait_answers(100));
  room->machine->pause();
  auto recorded = recording->stop();
  auto replay = Replay::open(system_, dir.file("log"), nullptr);
  const uint64_t middle = (recorded.first_boundary + recorded.last_boundary) / 2;
  auto there = replay->run(middle);
  auto machine = replay->machine();
  replay.reset();
  EXPECT_EQ(machine->state(), State::kStopped);
  EXPECT_THROW(machine->resume(), Error);
  EXPECT_EQ(machine->state_digest(), there.state);
}

// The log of a guest that spins in an interrupt's handler ends so; a crash may leave such a log too.
TEST(Replay, NothingIsExpectedBehindAnInterruptThatEndsTheLog) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  MachineConfig config;
  config.memory_size = 16u << 20;
  std::shared_ptr<Machine> machine = Machine::create(system_, config, guest_image("hello"), listener);
  auto recording = Recording::start(machine, dir.file("log"));
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped));
  recording->stop();
  for (bool end : {true, false}) {
    const std::string cut = dir.file(end ? "ended" : "torn");
    std::filesystem::create_directory(cut);
    std::filesystem::copy(dir.file("log/initial.htsnap"), cut + "/initial.htsnap");
    auto reader = log::Reader::open(dir.file("log"));
    auto writer = log::Writer::create(cut, reader->header());
    uint64_t boundary = 0;
    for (int interrupts = 0; interrupts < 3;) {
      auto record = reader->next();
      ASSERT_TRUE(record);
      boundary = record->boundary;
      writer->append(boundary, record->body);
      if (record->as<log::Interrupt>()) ++interrupts;
    }
    if (end) writer->append(boundary, log::End{1});
    writer->close();
    auto replayed = replay_all(system_, cut);
    EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd)
        << (replayed.divergence ? replayed.divergence->message : replayed.message);
    EXPECT_EQ(replayed.boundary, boundary);
    EXPECT_EQ(replayed.complete, end);
  }
}

TEST(Recording, RefusesWhatNoLogHolds) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::boot(system_, dir, false);
  auto recording = Recording::start(room->machine, dir.file("log"));
  const uint8_t byte[] = {1};
  EXPECT_THROW(room->machine->write_memory(0x100000, byte), Error);
  recording->stop();
  EXPECT_THROW(recording->checkpoint(), Error);
  room->machine->write_memory(0x100000, byte);
}

TEST(Recording, NothingIsWrittenBetweenItsSnapshotAndItsLog) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::boot(system_, dir, false);
  // Refused from some moment on, and then for good.
  std::atomic<bool> writes{false};
  std::thread writer([&] {
    const uint64_t where = room->machine->config().memory_size - sizeof(uint64_t);
    std::vector<uint8_t> bytes(sizeof(uint64_t));
    for (uint64_t i = 0; !room->machine->recorded(); ++i) {
      std::memcpy(bytes.data(), &i, sizeof(i));
      code_of([&] { room->machine->write_memory(where, bytes); });
      writes.store(true);
    }
  });
  while (!writes.load()) std::this_thread::yield();
  auto recording = Recording::start(room->machine, dir.file("log"));
  writer.join();
  recording->stop();
  EXPECT_EQ(open_code(system_, dir.file("log")), "none");
}

TEST(Recording, OfADebuggedMachineIsRefused) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::boot(system_, dir, false);
  room->machine->set_debugging(true);
  EXPECT_EQ(code_of([&] { Recording::start(room->machine, dir.file("log")); }), "BAD_STATE");
  room->machine->set_debugging(false);
  auto recording = Recording::start(room->machine, dir.file("log"));
  EXPECT_EQ(code_of([&] { room->machine->set_debugging(true); }), "BAD_STATE");
  recording->stop();
}

// Two that both found the folder empty: one has it, the other touches nothing there.
TEST(Recording, AFolderIsOneRecordings) {
  NEED_KVM();
  TempDir dir;
  TempDir disks[2];
  for (int round = 0; round < 5; ++round) {
    const std::string folder = dir.file("log" + std::to_string(round));
    std::unique_ptr<Recording> recordings[2];
    std::vector<std::thread> starters;
    std::shared_ptr<Mailroom> rooms[2];
    for (int i : {0, 1}) {
      rooms[i] = Mailroom::boot(system_, disks[i], false);
      const auto bytes = std::vector<uint8_t>(8, static_cast<uint8_t>(i + 1));
      rooms[i]->machine->write_memory(16u << 20, bytes);
    }
    for (int i : {0, 1})
      starters.emplace_back([&, i] {
        const std::string code =
            code_of([&] { recordings[i] = Recording::start(rooms[i]->machine, folder); });
        EXPECT_EQ(code, recordings[i] ? "none" : "LOG_EXISTS");
      });
    for (auto& starter : starters) starter.join();
    ASSERT_NE(recordings[0] != nullptr, recordings[1] != nullptr) << round;
    (recordings[0] ? recordings[0] : recordings[1])->stop();
    EXPECT_EQ(open_code(system_, folder), "none");
  }
}

TEST(Recording, AStartThatFailsLeavesNothingBehind) {
  NEED_KVM();
  TempDir dir;
  auto room = Mailroom::boot(system_, dir, false);
  std::filesystem::create_directory(dir.file("log"));
  const std::string segment = dir.file("log/" + log::segment_name(1));
  std::filesystem::create_symlink("nowhere", segment);
  EXPECT_THROW(Recording::start(room->machine, dir.file("log")), Error);
  std::filesystem::remove(segment);
  Recording::start(room->machine, dir.file("log"))->stop();
}

// ---- A log that cannot be written

// Blocks, and then fails, as long as the test says so.
class StuckSink final : public log::MemorySink {
 public:
  struct Control {
    std::mutex mutex;  // guards all below
    std::condition_variable changed;
    bool stuck = false;
    bool fails = false;
    void set(bool now_stuck, bool now_fails) {
      std::lock_guard lock(mutex);
      stuck = now_stuck;
      fails = now_fails;
      changed.notify_all();
    }
  };
  StuckSink(std::shared_ptr<log::MemoryLog> log, std::shared_ptr<Control> control)
      : MemorySink(std::move(log)), control_(std::move(control)) {}
  void write(uint64_t offset, std::span<const uint8_t> bytes) override {
    {
      std::unique_lock lock(control_->mutex);
      control_->changed.wait(lock, [&] { return !control_->stuck; });
      if (control_->fails) throw Error::system(EIO, "pwrite", "testing");
    }
    MemorySink::write(offset, bytes);
  }

 private:
  std::shared_ptr<Control> control_;
};

TEST(Recorder, WhatTheLogDoesNotTakeIsKeptAndGivenToItLater) {
  for (auto policy : {log::FullPolicy::kFail, log::FullPolicy::kWait}) {
    auto memory = std::make_shared<log::MemoryLog>();
    auto control = std::make_shared<StuckSink::Control>();
    log::WriterOptions options;
    options.full = policy;
    log::Writer writer(std::make_unique<StuckSink>(memory, control), log::sample_header(), options);
    machine::LiveInputs live{{.packets = 4096, .bytes = 64u << 20}};
    size_t told = 0;
    Recorder recorder(live, writer, {},
                      [&](const Error& error) { told += error.code() == "LOG_BUFFER_FULL"; });
    control->set(policy == log::FullPolicy::kFail, policy == log::FullPolicy::kWait);
    uint64_t applied = 0, boundary = 0;
    while (recorder.end(boundary) == machine::SourceEnd::kNone) {
      recorder.boundary(++boundary, RollingDigest({boundary, 0}));
      machine::Input given;
      given.kind = machine::InputKind::kPacket;
      given.bytes.assign(1u << 20, static_cast<uint8_t>(boundary));
      ASSERT_TRUE(live.push(std::move(given)));
      machine::Input input;
      while (recorder.next(boundary, std::nullopt, input)) ++applied;
    }
    if (policy == log::FullPolicy::kFail) {
      ASSERT_TRUE(recorder.refusal());
      EXPECT_EQ(recorder.refusal()->code(), "LOG_BUFFER_FULL");
    }
    EXPECT_EQ(told, policy == log::FullPolicy::kFail ? 1u : 0u);
    // Whatever comes until the machine stands still.
    recorder.clock(boundary);
    recorder.finish(boundary, std::nullopt, EndReason::kStopped);
    control->set(false, false);
    recorder.retry();
    EXPECT_FALSE(recorder.refusal());
    writer.close();
    log::Reader reader(log::memory_source(memory->segments), {});
    uint64_t packets = 0, times = 0;
    while (auto record = reader.next()) {
      if (record->as<log::PacketRx>()) ++packets;
      if (record->as<log::Time>()) ++times;
    }
    EXPECT_EQ(packets, applied);
    EXPECT_EQ(times, 1u);
    EXPECT_EQ(reader.stop(), log::Stop::kEnd);
  }
}

// A file system of its own that can be full; goes with the test.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& at, const char* options) : at_(at) {
    std::filesystem::create_directories(at);
    mounted_ = ::mount("tmpfs", at.c_str(), "tmpfs", 0, options) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(at_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  std::string at_;
  bool mounted_ = false;
};

TEST(Replay, AFullDiskPausesTheMachineAndLosesNothing) {
  NEED_KVM();
  TempDir dir;
  SmallDisk small(dir.file("small"), "size=16m");
  if (!small.mounted()) GTEST_SKIP() << "may not mount a tmpfs (needs CAP_SYS_ADMIN)";
  auto room = Mailroom::serve(system_, dir);
  auto recording = Recording::start(room->machine, dir.file("small/log"));
  const std::string filler = dir.file("small/filler");
  std::filesystem::space_info space = std::filesystem::space(dir.file("small"));
  ASSERT_GT(space.available, 512u << 10);
  {
    std::vector<char> bytes(space.available - (256u << 10), 'x');
    std::ofstream(filler, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  room->users(8);
  ASSERT_TRUE(room->wait([&] { return room->last_state_ == State::kPaused; })) << room->last_message_;
  EXPECT_EQ(room->machine->reason(), machine::Reason::kCaptureFailed);
  ASSERT_TRUE(recording->failure());
  EXPECT_EQ(recording->failure()->code(), "LOG_WRITE_FAILED");
  EXPECT_EQ(recording->failure()->err(), ENOSPC);
  EXPECT_THROW(recording->stop(), Error);
  EXPECT_THROW(recording->retry(), Error) << "it is still full";
  // Going on in spite of it is refused at once.
  room->machine->resume();
  ASSERT_TRUE(room->wait([&] { return room->last_state_ == State::kPaused; }));

  std::filesystem::remove(filler);
  recording->retry();
  const uint64_t before = room->answered();
  room->machine->resume();
  ASSERT_TRUE(room->wait([&] { return room->answered() > before + 200; })) << room->last_message_;
  auto recorded = recording->stop();
  auto replayed = replay_all(system_, dir.file("small/log"));
  EXPECT_EQ(replayed.stop, ReplayStop::kLogEnd) << (replayed.divergence ? replayed.divergence->message : "");
  EXPECT_TRUE(replayed.complete);
  EXPECT_EQ(replayed.state, *recorded.state);
}

}  // namespace
}  // namespace hypertwin::replay
