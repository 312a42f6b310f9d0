// Live migration of real guests over a socket pair: what arrives is what was sent, clients work on, and
// whatever goes wrong leaves one machine running.
#include "migrate_util.h"

#if defined(__x86_64__)

namespace hypertwin::migrate {
namespace {

using machine::Machine;
using machine::open_kvm;
using machine::Reason;
using machine::State;
using machine::TempDir;
using machine::TestListener;

struct Moved {
  MigrateResult sent;
  ReceiveResult received;
  std::string source_code = "none", destination_code = "none";
  std::string source_text, destination_text;
};

// Both sides, each in a thread.
Moved move(const std::shared_ptr<kvm::System>& system, const std::shared_ptr<Machine>& machine,
           MigrateOptions send, ReceiveOptions take, Ends ends = connect_ends()) {
  Moved moved;
  auto destination = std::async(std::launch::async, [&] {
    try {
      moved.received = receive(system, *ends.destination, std::move(take));
    } catch (const Error& error) {
      moved.destination_code = error.code();
      moved.destination_text = error.what();
    }
    ends.destination->close();
  });
  try {
    moved.sent = Migration(machine, std::move(ends.source), std::move(send)).run();
  } catch (const Error& error) {
    moved.source_code = error.code();
    moved.source_text = error.what();
  }
  destination.get();
  return moved;
}

// With the first disk's image there, if it is another one.
ReceiveOptions take(std::shared_ptr<machine::Listener> listener, const std::string& disk = "") {
  ReceiveOptions options;
  options.listener = std::move(listener);
  if (!disk.empty())
    options.adjust = [disk](machine::MachineConfig& config) { config.disks.at(0).path = disk; };
  return options;
}

#define ASSERT_MOVED(moved)                                      \
  ASSERT_EQ((moved).source_code, "none") << (moved).source_text; \
  ASSERT_EQ((moved).destination_code, "none") << (moved).destination_text

TEST(Migrate, MovesADirtierWhileItWrites) {
  NEED_KVM();
  auto here = std::make_shared<TestListener>();
  auto there = std::make_shared<TestListener>();
  auto machine = boot_dirtier(system_, here, "rounds=0 pattern=random pages=512 count=64 pause=1 hz=100");
  auto moved = move(system_, machine, {}, take(there));
  ASSERT_MOVED(moved);
  EXPECT_EQ(machine->state(), State::kStopped);
  EXPECT_EQ(machine->reason(), Reason::kMigrated);
  EXPECT_EQ(moved.received.machine->state(), State::kRunning);
  EXPECT_EQ(moved.sent.digest, moved.received.digest);
  EXPECT_EQ(moved.sent.session, moved.received.session);
  // It goes on there.
  const uint64_t boundary = moved.received.machine->boundary();
  EXPECT_TRUE(there->wait([&] { return moved.received.machine->boundary() > boundary; }) ||
              moved.received.machine->boundary() > boundary);
  std::printf("blackout %.2f ms, %u rounds, %lu pages, %lu bytes\n",
              static_cast<double>(moved.sent.blackout_ns) / 1e6, moved.sent.progress.round,
              moved.sent.progress.pages_sent, moved.sent.progress.bytes_sent);
}

TEST(Migrate, MailUsersWorkOnThere) {
  NEED_KVM();
  TempDir dir;
  MailUsers users(16);
  auto here = users.side(), there = users.side();
  auto machine = MailUsers::boot(system_, here, dir.file("mail.img"));
  users.use(machine);
  ASSERT_TRUE(users.wait_answers(200));
  MigrateOptions send;
  send.disks = true;
  auto moved = move(system_, machine, send, take(there, dir.file("there.img")));
  ASSERT_MOVED(moved);
  users.use(moved.received.machine);
  EXPECT_TRUE(users.wait_answers(200));
  EXPECT_EQ(users.missing(moved.received.machine), 0u);
  std::printf("blackout %.2f ms, %u rounds, %lu pages, %lu blocks, %lu bytes\n",
              static_cast<double>(moved.sent.blackout_ns) / 1e6, moved.sent.progress.round,
              moved.sent.progress.pages_sent, moved.sent.progress.disk_blocks_sent,
              moved.sent.progress.bytes_sent);
}

}  // namespace
}  // namespace hypertwin::migrate

#endif
