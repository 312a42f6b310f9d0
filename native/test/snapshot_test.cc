// Snapshots of both boards: mapped restores, incremental ones, what is damaged, cut or missing.
#include "machine/snapshot.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <future>
#include <thread>

#include "boot/acpi.h"
#include "code_of.h"
#include "dirty/bitmap.h"
#include "machine/standard_machine.h"
#include "machine_util.h"

namespace hypertwin::machine {
namespace {

constexpr uint64_t kPage = devices::kPageSize;

class Snapshot : public ::testing::TestWithParam<BoardKind> {
 protected:
  void SetUp() override {
    system_ = open_kvm();
    if (!system_) GTEST_SKIP() << "no usable /dev/kvm";
  }

  std::unique_ptr<VirtualMachine> create() {
    MachineConfig config;
    config.board = GetParam();
    config.memory_size = 32u << 20;
    config.nets.push_back({});
    config.command_line = "rounds=0 pattern=random pages=512 count=16 pause=1 hz=100";
    if (GetParam() == BoardKind::kStandard)
      return StandardMachine::create(system_, config, guest_image("dirtier"), listener_);
    return Machine::create(system_, config, guest_image("dirtier"), listener_);
  }
  std::unique_ptr<VirtualMachine> restore(const std::string& path, Verify verify = Verify::kBefore,
                                          std::shared_ptr<TestListener> listener = nullptr) {
    RestoreOptions options;
    options.verify = verify;
    return restore_with(path, options, std::move(listener));
  }
  // Its memory comes as it is touched.
  std::unique_ptr<VirtualMachine> restore_touched(const std::string& path, std::shared_ptr<PageSource> pages,
                                                  std::shared_ptr<TestListener> listener) {
    RestoreOptions options;
    options.pages = std::move(pages);
    options.paging = {.all = false};
    return restore_with(path, options, std::move(listener));
  }
  std::unique_ptr<VirtualMachine> restore_with(const std::string& path, const RestoreOptions& options,
                                               std::shared_ptr<TestListener> listener) {
    if (GetParam() == BoardKind::kStandard)
      return StandardMachine::restore(system_, path, std::move(listener), options);
    return Machine::restore(system_, path, std::move(listener), options);
  }
  std::string restore_code(const std::string& path) {
    return code_of([&] { restore(path); });
  }
  // The guest writes some pages; then it stands still.
  void run(VirtualMachine& machine, TestListener& listener, size_t rounds = 5) {
    size_t before = 0;
    {
      std::lock_guard lock(listener.mutex_);
      before = listener.markers_.size();
    }
    if (machine.state() == State::kCreated)
      machine.start();
    else
      machine.resume();
    EXPECT_TRUE(listener.wait([&] {
      return listener.markers_.size() >= before + rounds || listener.last_state_ >= State::kStopped;
    })) << listener.console_
        << machine.message();
    machine.pause();
  }
  void flip(const std::string& path, uint64_t at) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    uint8_t byte = 0;
    ASSERT_EQ(::pread(fd.get(), &byte, 1, static_cast<off_t>(at)), 1);
    byte ^= 0x40;
    ASSERT_EQ(::pwrite(fd.get(), &byte, 1, static_cast<off_t>(at)), 1);
  }

  std::shared_ptr<kvm::System> system_;
  std::shared_ptr<TestListener> listener_ = std::make_shared<TestListener>();
  TempDir dir_;
};

TEST_P(Snapshot, ManyGoOnFromOneFile) {
  auto machine = create();
  run(*machine, *listener_);
  const auto digest = machine->state_digest();
  const SnapshotInfo info = machine->snapshot(dir_.file("base"));
  EXPECT_GT(info.pages, 10u);
  EXPECT_EQ(info.parent, "");
  std::vector<std::shared_ptr<TestListener>> listeners;
  std::vector<std::unique_ptr<VirtualMachine>> clones;
  for (int i = 0; i < 4; ++i) {
    listeners.push_back(std::make_shared<TestListener>());
    clones.push_back(restore(dir_.file("base"), Verify::kBehind, listeners.back()));
    EXPECT_EQ(clones.back()->state_digest(), digest);
  }
  // The name is of no further use to them.
  std::filesystem::remove(dir_.file("base"));
  for (size_t i = 0; i < clones.size(); ++i) run(*clones[i], *listeners[i]);
  for (auto& clone : clones) EXPECT_EQ(clone->state(), State::kPaused) << clone->message();
}

TEST_P(Snapshot, OfAMappedMachineHoldsAllThatItIs) {
  auto machine = create();
  run(*machine, *listener_);
  machine->snapshot(dir_.file("base"));
  auto there = std::make_shared<TestListener>();
  auto second = restore(dir_.file("base"), Verify::kBefore, there);
  run(*second, *there);
  const auto digest = second->state_digest();
  const SnapshotInfo full = second->snapshot(dir_.file("full"));
  const SnapshotInfo added = second->snapshot(dir_.file("added"), {.incremental = true});
  EXPECT_EQ(second->state_digest(), digest);
  EXPECT_EQ(added.parent, dir_.file("base"));
  EXPECT_LT(added.pages, full.pages);
  EXPECT_GT(added.pages, 0u);
  second.reset();
  EXPECT_EQ(restore(dir_.file("full"))->state_digest(), digest);
  EXPECT_EQ(restore(dir_.file("added"))->state_digest(), digest);
  std::filesystem::remove(dir_.file("base"));
  EXPECT_EQ(restore(dir_.file("full"))->state_digest(), digest);
  EXPECT_EQ(restore_code(dir_.file("added")), "SNAPSHOT_PARENT");
}

TEST_P(Snapshot, IncrementalOnesAddUp) {
  auto machine = create();
  EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("none"), {.incremental = true}); }), "BAD_STATE");
  EXPECT_FALSE(std::filesystem::exists(dir_.file("none")));
  run(*machine, *listener_);
  // One of the host's own writes, far from the guest's.
  const uint8_t mark[] = {1, 2, 3};
  const uint64_t far = (31u << 20) + 5;
  machine->write_memory(far, mark);
  std::vector<StateDigest> digests;
  auto take = [&](const std::string& name, const SnapshotOptions& options) {
    digests.push_back(machine->state_digest());
    return machine->snapshot(dir_.file(name), options);
  };
  const SnapshotInfo base = take("s0", {.track = true});
  run(*machine, *listener_);
  const SnapshotInfo first = take("s1", {.incremental = true, .track = true});
  EXPECT_EQ(first.parent, dir_.file("s0"));
  EXPECT_GT(first.pages, 0u);
  EXPECT_LT(first.pages, base.pages + 512);
  // A page that is zero again.
  machine->write_memory(far, std::vector<uint8_t>(3));
  run(*machine, *listener_);
  // What fails is not forgotten.
  EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("no/folder"), {.incremental = true, .track = true}); }),
            "ENOENT");
  for (const char* taken : {"s0", "s1", "./s0"})
    EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file(taken), {.incremental = true}); }), "EINVAL")
        << taken;
  run(*machine, *listener_);
  take("s2", {.incremental = true});
  run(*machine, *listener_);
  const SnapshotInfo third = take("s3", {.incremental = true});
  EXPECT_EQ(third.parent, dir_.file("s1")) << "s2 was not tracked from";
  for (size_t i = 0; i < digests.size(); ++i)
    EXPECT_EQ(restore(dir_.file("s" + std::to_string(i)))->state_digest(), digests[i]) << i;
  // They move together.
  std::filesystem::create_directory(dir_.file("moved"));
  for (const char* name : {"s0", "s1", "s3"})
    std::filesystem::rename(dir_.file(name), dir_.file(std::string("moved/") + name));
  EXPECT_EQ(restore(dir_.file("moved/s3"))->state_digest(), digests[3]);
  EXPECT_EQ(restore_code(dir_.file("s2")), "SNAPSHOT_PARENT");
  // Another one in the place of one.
  machine->snapshot(dir_.file("moved/s1"));
  EXPECT_EQ(restore_code(dir_.file("moved/s3")), "SNAPSHOT_PARENT");
}

TEST_P(Snapshot, WhatIsWrittenOverIsNotAddedTo) {
  auto machine = create();
  machine->snapshot(dir_.file("a"), {.track = true});
  run(*machine, *listener_);
  machine->snapshot(dir_.file("a"));
  EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("b"), {.incremental = true}); }), "BAD_STATE");
  machine->snapshot(dir_.file("a"), {.track = true});
  machine->snapshot(dir_.file("b"), {.incremental = true});
  EXPECT_EQ(restore(dir_.file("b"))->state_digest(), machine->state_digest());

  auto restored = restore(dir_.file("a"));
  const StateDigest digest = restored->state_digest();
  restored->snapshot(dir_.file("c"), {.incremental = true});
  restored->snapshot(dir_.file("a"));
  EXPECT_EQ(restored->state_digest(), digest);
  EXPECT_EQ(code_of([&] { restored->snapshot(dir_.file("d"), {.incremental = true}); }), "BAD_STATE");
  EXPECT_EQ(restore(dir_.file("a"))->state_digest(), digest);
}

TEST_P(Snapshot, IsTakenOfNoDebuggedMachine) {
  auto machine = create();
  run(*machine, *listener_);
  machine->set_debugging(true);
  EXPECT_EQ(code_of([&] { machine->set_debugging(true); }), "BAD_STATE") << "one debugger at a time";
  EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("s")); }), "BAD_STATE");
  EXPECT_FALSE(std::filesystem::exists(dir_.file("s")));
  EXPECT_EQ(machine->state(), State::kPaused);
  machine->set_debugging(false);
  machine->snapshot(dir_.file("s"));
  EXPECT_EQ(restore(dir_.file("s"))->state_digest(), machine->state_digest());
}

TEST_P(Snapshot, HasOneWriterAtATime) {
  auto machine = create(), other = create();
  run(*machine, *listener_);
  {
    NewFile busy(AT_FDCWD, dir_.file("s"), ".partial");
    EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("s")); }), "BUSY");
    EXPECT_FALSE(std::filesystem::exists(dir_.file("s")));
  }
  std::vector<std::thread> writers;
  std::atomic<int> written{0};
  for (auto* each : {machine.get(), other.get()})
    writers.emplace_back([&, each] {
      for (int i = 0; i < 5; ++i) {
        const std::string code = code_of([&] { each->snapshot(dir_.file("s")); });
        EXPECT_TRUE(code == "none" || code == "BUSY") << code;
        if (code == "none") ++written;
      }
    });
  for (auto& writer : writers) writer.join();
  EXPECT_GT(written.load(), 0);
  const auto digest = restore(dir_.file("s"))->state_digest();
  EXPECT_TRUE(digest == machine->state_digest() || digest == other->state_digest());
  EXPECT_FALSE(std::filesystem::exists(dir_.file("s.partial")));
}

TEST_P(Snapshot, TrackingIsOneAtATime) {
  auto machine = create();
  dirty::Target target{machine->vm(), {machine->vcpu(0)}, machine->ram()};
  {
    dirty::Tracker tracker(target, {.mode = dirty::Mode::kBitmap});
    tracker.start();
    EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("s"), {.track = true}); }), "DIRTY_BUSY");
    EXPECT_FALSE(std::filesystem::exists(dir_.file("s")));
  }
  machine->snapshot(dir_.file("s"), {.track = true});
  machine->snapshots().stop_tracking();
  EXPECT_EQ(code_of([&] { machine->snapshot(dir_.file("t"), {.incremental = true}); }), "BAD_STATE");
  dirty::Tracker tracker(target, {.mode = dirty::Mode::kBitmap});
  tracker.start();
}

TEST_P(Snapshot, DamageIsFoundBeforeOrBehind) {
  auto machine = create();
  run(*machine, *listener_);
  machine->snapshot(dir_.file("base"), {.track = true});
  run(*machine, *listener_);
  machine->snapshot(dir_.file("added"), {.incremental = true});
  const SnapshotFile base(dir_.file("base")), added(dir_.file("added"));
  auto data_of = [](const SnapshotFile& file) {
    for (const auto& run : file.runs())
      if (!run.zero) return SnapshotFile::kMemoryOffset + run.first_page * kPage + 77;
    return uint64_t{0};
  };
  // A page that none of the runs tells of.
  const uint64_t hole = SnapshotFile::kMemoryOffset + (31u << 20) + 9 * kPage;
  for (uint64_t at : {data_of(base), hole}) {
    flip(dir_.file("base"), at);
    EXPECT_EQ(restore_code(dir_.file("base")), "CORRUPT") << at;
    EXPECT_EQ(restore_code(dir_.file("added")), "CORRUPT") << at;
    auto there = std::make_shared<TestListener>();
    auto behind = restore(dir_.file("base"), Verify::kBehind, there);
    ASSERT_TRUE(there->wait_state(State::kFailed)) << at;
    EXPECT_NE(behind->message().find("damaged"), std::string::npos) << behind->message();
    EXPECT_EQ(code_of([&] { behind->resume(); }), "BAD_STATE");
    flip(dir_.file("base"), at);
  }
  flip(dir_.file("added"), data_of(added));
  EXPECT_EQ(code_of([&] { restore(dir_.file("added"), Verify::kBehind); }), "CORRUPT");
  flip(dir_.file("added"), data_of(added));
  EXPECT_EQ(restore_code(dir_.file("added")), "none");
}

TEST_P(Snapshot, AFileThatIsCutFailsTheMachineAlone) {
  auto machine = create();
  run(*machine, *listener_);
  machine->snapshot(dir_.file("base"));
  for (bool running : {true, false}) {
    std::filesystem::copy_file(dir_.file("base"), dir_.file("cut"),
                               std::filesystem::copy_options::overwrite_existing);
    auto there = std::make_shared<TestListener>();
    auto clone = restore(dir_.file("cut"), Verify::kBefore, there);
    if (running) clone->resume();
    std::filesystem::resize_file(dir_.file("cut"), SnapshotFile::kMemoryOffset);
    // Everything that reads the memory meets the loss; the guest does by itself.
    if (!running) {
      std::vector<uint8_t> some(1u << 20);
      clone->read_memory(4u << 20, some);
      EXPECT_EQ(some, std::vector<uint8_t>(some.size()));
      // Zeros in place of what is lost are nobody's memory.
      EXPECT_EQ(code_of([&] { clone->snapshot(dir_.file("lost")); }), "CORRUPT");
      EXPECT_FALSE(std::filesystem::exists(dir_.file("lost")));
    }
    ASSERT_TRUE(there->wait_state(State::kFailed)) << running;
    clone->stop();
    EXPECT_EQ(clone->state(), State::kFailed);
  }
  EXPECT_EQ(machine->state(), State::kPaused) << "the others do not notice";
}

TEST_P(Snapshot, MemoryThatIsBeingCopiedIsNotWritten) {
  auto machine = create();
  const std::vector<uint8_t> bytes(16, 7);
  {
    const auto frozen = machine->freeze_memory();
    EXPECT_EQ(code_of([&] { machine->write_memory(8u << 20, bytes); }), "BAD_STATE");
  }
  machine->write_memory(8u << 20, bytes);
  machine->snapshot(dir_.file("base"));
  machine->write_memory(8u << 20, bytes);
}

TEST_P(Snapshot, ItsMemoryMayComeWhileItRuns) {
  auto machine = create();
  run(*machine, *listener_);
  const auto digest = machine->state_digest();
  machine->snapshot(dir_.file("s"));
  std::vector<uint64_t> working_set{1u << 30};  // one that there is not
  for (bool again : {false, true}) {
    auto pages = std::make_shared<GatedPages>(dir_.file("s"));
    pages->open();
    RestoreOptions options;
    options.pages = pages;
    options.paging = {.working_set = working_set, .all = again};
    auto there = std::make_shared<TestListener>();
    auto twin = restore_with(dir_.file("s"), options, there);
    EXPECT_EQ(twin->state(), State::kPaused);
    run(*twin, *there);
    const auto stats = twin->memory().pager()->stats();
    EXPECT_GT(stats.pages, 10u);
    EXPECT_LE(stats.here, stats.pages);
    if (!again) {
      EXPECT_LT(stats.here, stats.pages) << "only what was touched";
      EXPECT_GT(stats.touched, 0u);
      EXPECT_GT(stats.longest_ns, 0u);
    }
    working_set.clear();
    for (const auto& touch : twin->memory().pager()->touched()) working_set.push_back(touch.page);
    // The rest is brought by who reads it.
    const SnapshotInfo info = twin->snapshot(dir_.file("t"));
    EXPECT_GT(info.pages, 10u);
    const auto now = twin->state_digest();
    twin.reset();
    EXPECT_EQ(restore(dir_.file("t"))->state_digest(), now);
  }
  RestoreOptions options;
  options.pages = std::make_shared<FilePages>(std::make_shared<SnapshotFile>(dir_.file("s")));
  auto twin = restore_with(dir_.file("s"), options, nullptr);
  EXPECT_EQ(twin->state_digest(), digest);
  EXPECT_EQ(code_of([&] { twin->snapshot(dir_.file("u"), {.incremental = true}); }), "BAD_STATE");
}

TEST_P(Snapshot, AGuestWaitsForItsMemoryAndFailsWithoutIt) {
  auto machine = create();
  run(*machine, *listener_);
  machine->snapshot(dir_.file("s"));
  enum class End { kOpened, kBroken, kClosed };
  for (End end : {End::kOpened, End::kBroken, End::kClosed}) {
    auto pages = std::make_shared<GatedPages>(dir_.file("s"));
    auto there = std::make_shared<TestListener>();
    auto twin = restore_touched(dir_.file("s"), pages, there);
    // The standard board's writes to memory itself, and waits for it as the guest does.
    auto resumed = std::async(std::launch::async, [&] { return code_of([&] { twin->resume(); }); });
    ASSERT_TRUE(pages->wait_asked());
    if (end == End::kOpened) {
      pages->open();
      EXPECT_EQ(resumed.get(), "none");
      EXPECT_TRUE(there->wait([&] { return there->markers_.size() >= 2; }));
      twin->pause();
      EXPECT_EQ(twin->state(), State::kPaused) << twin->message();
    } else if (end == End::kBroken) {
      pages->break_off();
      const std::string code = resumed.get();
      EXPECT_TRUE(code == "none" || code == "EIO") << code;
      ASSERT_TRUE(there->wait_state(State::kFailed));
      EXPECT_NE(twin->message().find("the source has gone"), std::string::npos) << twin->message();
      EXPECT_TRUE(there->markers_.empty()) << "it did not run on with pages of zeros";
    }
    if (end == End::kClosed && GetParam() == BoardKind::kStandard) pages->cancel();
    if (resumed.valid()) resumed.get();
    twin.reset();
  }
}

TEST_P(Snapshot, OneThatIsSteppedExecutesNothingOfMemoryThatWasLost) {
  create()->snapshot(dir_.file("s"));
  auto pages = std::make_shared<GatedPages>(dir_.file("s"));
  auto there = std::make_shared<TestListener>();
  auto twin = restore_touched(dir_.file("s"), pages, there);
  const uint64_t rip = twin->vcpu_state(0).regs.rip;
  auto stepped = std::async(std::launch::async, [&] { return twin->step(0, 100, {}); });
  ASSERT_TRUE(pages->wait_asked());
  pages->break_off();
  EXPECT_EQ(stepped.get(), 0u);
  ASSERT_TRUE(there->wait_state(State::kFailed));
  EXPECT_EQ(twin->vcpu_state(0).regs.rip, rip) << "nor the zeros in its place";
  EXPECT_NE(twin->message().find("the source has gone"), std::string::npos) << twin->message();
}

TEST_P(Snapshot, NothingLeavesOfMemoryThatWasLost) {
  auto machine = create();
  run(*machine, *listener_);
  machine->snapshot(dir_.file("s"));
  const auto file = std::make_shared<SnapshotFile>(dir_.file("s"));
  for (bool comes : {true, false}) {
    auto pages = std::make_shared<GatedPages>(dir_.file("s"));
    MachineMemory memory(file, pages, {.all = false});
    memory.watch(false, [](const Error&, bool) {});
    const uint64_t first = file->runs().front().first_page;
    const iovec part{memory.data() + first * devices::kPageSize + 100, 2 * devices::kPageSize};
    auto leaves = std::async(std::launch::async, [&] { return memory.may_leave({&part, 1}); });
    ASSERT_TRUE(pages->wait_asked());
    EXPECT_TRUE(memory.intact());
    comes ? pages->open() : pages->break_off();
    EXPECT_EQ(leaves.get(), comes);
    EXPECT_EQ(memory.intact(), comes);
    std::vector<uint8_t> bytes(devices::kPageSize);
    file->read_pages(first, bytes);
    if (comes) {
      EXPECT_EQ(std::memcmp(bytes.data(), memory.data() + first * devices::kPageSize, bytes.size()), 0);
    }
    memory.give_up();
    EXPECT_FALSE(memory.intact()) << "what has not come is zero from now on";
    EXPECT_FALSE(memory.may_leave({&part, 1}));
  }
}

TEST_P(Snapshot, AnAddressMayBeNew) {
  auto machine = create();
  machine->snapshot(dir_.file("s"));
  const std::array<uint8_t, 6> mac{0x52, 0x54, 0, 1, 2, 3};
  RestoreOptions options;
  options.adjust = [&](MachineConfig& config) { config.nets.at(0).mac = mac; };
  auto clone = restore_with(dir_.file("s"), options, nullptr);
  EXPECT_EQ(clone->config().nets.at(0).mac, mac);
  clone->snapshot(dir_.file("t"));
  EXPECT_EQ(restore(dir_.file("t"))->config().nets.at(0).mac, mac);
}

INSTANTIATE_TEST_SUITE_P(Boards, Snapshot, ::testing::Values(BoardKind::kDeterministic, BoardKind::kStandard),
                         [](const auto& board) {
                           return board.param == BoardKind::kStandard ? "Standard" : "Deterministic";
                         });

TEST(MachineMemory, MappedPagesThatAreDiscardedAreZero) {
  TempDir dir;
  constexpr uint64_t kSize = 8u << 20;
  MachineMemory own(kSize);
  for (uint64_t page = 0; page < kSize / kPage; page += 2)
    own.data()[page * kPage] = static_cast<uint8_t>(page | 1);
  const uint8_t state[] = {1};
  EXPECT_EQ(write_snapshot_file(dir.file("s"), state, own).pages, kSize / kPage / 2);
  MachineMemory mapped(open_snapshot(dir.file("s")));
  EXPECT_EQ(mapped.digest(), own.digest());
  EXPECT_FALSE(dirty::any(mapped.changed())) << "reading changes nothing";
  mapped.data()[3 * kPage] = 7;
  own.data()[3 * kPage] = 7;
  // One that is given back, and one that is too small for that.
  for (auto [offset, size] : {std::pair<uint64_t, uint64_t>{2u << 20, 2u << 20}, {6u << 20, 2 * kPage}}) {
    mapped.discard(offset, size);
    own.discard(offset, size);
    for (uint64_t at = offset; at < offset + size; at += kPage) ASSERT_EQ(mapped.data()[at], 0) << at;
  }
  EXPECT_EQ(mapped.digest(), own.digest());
  EXPECT_EQ(dirty::popcount(mapped.changed()), 1 + 512 + 2u);
  const SnapshotFile& full = *mapped.chain().back();
  const SnapshotParent parent{full.path(), full.identity()};
  EXPECT_EQ(write_snapshot_file(dir.file("t"), state, mapped, &parent, mapped.changed()).pages, 1u);
  MachineMemory again(open_snapshot(dir.file("t")));
  again.settle();
  EXPECT_EQ(again.digest(), own.digest());
  EXPECT_EQ(std::memcmp(again.data(), own.data(), kSize), 0);
}

// Each machine that goes on from a snapshot has another generation; one that is not resumed has the old one.
TEST(SnapshotLimits, NothingIsWrittenThatCannotBeRestored) {
  NEED_KVM();
  TempDir dir;
  MachineConfig config;
  config.memory_size = 16u << 20;
  auto machine = Machine::create(system_, config, guest_image("hello"), nullptr);
  auto name = [&](size_t i) { return dir.file("s" + std::to_string(i)); };
  machine->snapshot(name(1), {.track = true});
  for (size_t i = 2; i <= kMaxSnapshotChain; ++i)
    machine->snapshot(name(i), {.incremental = true, .track = true});
  EXPECT_EQ(open_snapshot(name(kMaxSnapshotChain)).size(), kMaxSnapshotChain);
  const size_t next = kMaxSnapshotChain + 1;
  EXPECT_EQ(code_of([&] { machine->snapshot(name(next), {.incremental = true}); }), "SNAPSHOT_LIMIT");
  EXPECT_FALSE(std::filesystem::exists(name(next)));
  machine->snapshot(name(next), {.track = true});
  machine->snapshot(name(next + 1), {.incremental = true});
  EXPECT_EQ(open_snapshot(name(next + 1)).size(), 2u);
}

TEST(SnapshotLimits, StateIsBounded) {
  TempDir dir;
  const MachineMemory memory(kPage), large(256u << 20);
  const std::span<const uint8_t> state(large.data(), large.size());
  EXPECT_EQ(code_of([&] { write_snapshot_file(dir.file("s"), state, memory); }), "SNAPSHOT_LIMIT");
  EXPECT_FALSE(std::filesystem::exists(dir.file("s")));
  write_snapshot_file(dir.file("s"), state.first(10), memory);
  EXPECT_EQ(
      code_of([&] { write_snapshot_file(dir.file("s"), {}, memory, nullptr, {}, NewFile::Over::kNone); }),
      "EEXIST");
  EXPECT_EQ(SnapshotFile(dir.file("s")).state().size(), 10u);
}

TEST(Generation, IsNewForEachThatGoesOn) {
  NEED_KVM();
  TempDir dir;
  MachineConfig config;
  config.board = BoardKind::kStandard;
  config.memory_size = 16u << 20;
  auto machine = StandardMachine::create(system_, config, guest_image("exits"), nullptr);
  auto id = [](const VirtualMachine& of) {
    std::array<uint8_t, boot::kGenerationIdSize> bytes;
    of.read_memory(boot::kGenerationId, bytes);
    return bytes;
  };
  const auto first = id(*machine);
  EXPECT_NE(first, (std::array<uint8_t, boot::kGenerationIdSize>{}));
  machine->snapshot(dir.file("s"));
  auto one = StandardMachine::restore(system_, dir.file("s"), nullptr);
  auto two = StandardMachine::restore(system_, dir.file("s"), nullptr);
  EXPECT_EQ(id(*one), first);
  one->resume();
  two->resume();
  EXPECT_NE(id(*one), first);
  EXPECT_NE(id(*two), first);
  EXPECT_NE(id(*one), id(*two));
}

TEST(BusGuard, LostPagesReadAsZerosAndAreTold) {
  TempDir dir;
  const std::string path = dir.file("file");
  std::ofstream(path) << std::string(4 * kPage, 'x');
  auto memory = kvm::GuestMemory::from_fd(Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), 0, 4 * kPage, true);
  EXPECT_FALSE(memory->guard()->hit());
  std::filesystem::resize_file(path, kPage);
  EXPECT_EQ(memory->data()[0], 'x');
  EXPECT_FALSE(memory->guard()->hit());
  EXPECT_EQ(memory->data()[3 * kPage], 0);
  EXPECT_TRUE(memory->guard()->hit());
}

TEST(BusGuardDeathTest, OthersSignalsAreTheirs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto lose = [](bool guarded) {
    TempDir dir;
    const std::string path = dir.file("file");
    std::ofstream(path) << std::string(kPage, 'x');
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    auto* other = static_cast<uint8_t*>(::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd.get(), 0));
    std::shared_ptr<kvm::GuestMemory> memory;
    if (guarded) memory = kvm::GuestMemory::from_fd(Fd(::dup(fd.get())), 0, kPage, true);
    std::filesystem::resize_file(path, 0);
    return static_cast<volatile uint8_t*>(other)[0];
  };
  EXPECT_EXIT(lose(true), ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace hypertwin::machine
