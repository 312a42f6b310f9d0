// Two processes, an arbiter on a file, and SIGKILL (or SIGSTOP, then SIGCONT) at every step of either side:
// never two machines run, and one does wherever a whole copy is left with whoever may run it.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "migrate_util.h"

#if defined(__x86_64__)

namespace hypertwin::migrate {
namespace {

using machine::open_kvm;
using machine::State;
using machine::TempDir;
using machine::TestListener;

// Whoever makes the file has won.
Arbiter file_arbiter(const std::string& folder) {
  return [folder](const std::string& key, const std::string& who) {
    const std::string path = folder + "/" + key;
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (fd) return ::write(fd.get(), who.data(), who.size()) < 0 ? Claim::kUnreachable : Claim::kWon;
    // Made, but perhaps not yet written: then it is another's.
    auto bytes = machine::read_file(path);
    return std::string(bytes.begin(), bytes.end()) == who ? Claim::kWon : Claim::kLost;
  };
}

struct Side {
  pid_t pid = -1;
  Fd verdict;  // 'r': it runs here, 'n': it does not, 'd': in doubt; nothing when it was killed

  // Of a process that is not stopped.
  char wait() {
    char word = 0;
    while (::read(verdict.get(), &word, 1) < 0 && errno == EINTR) {
    }
    return word;
  }
  void end() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
};

Side spawn(const std::function<char()>& work) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe2", "testing");
  Side side;
  side.verdict = Fd(ends[0]);
  side.pid = ::fork();
  if (side.pid < 0) throw_errno("fork", "testing");
  if (side.pid == 0) {
    side.verdict.reset();
    char verdict = '?';
    try {
      verdict = work();
    } catch (...) {
    }
    if (::write(ends[1], &verdict, 1) == 1) ::pause();
    ::_exit(0);
  }
  ::close(ends[1]);
  return side;
}

constexpr Step kSourceSteps[] = {Step::kConnected,     Step::kHelloSent,  Step::kAccepted,
                                 Step::kRoundSent,     Step::kStopped,    Step::kStateSent,
                                 Step::kReadyReceived, Step::kCommitSent, Step::kRunningReceived};
constexpr Step kDestinationSteps[] = {Step::kHelloReceived,  Step::kAcceptSent,         Step::kRoundReceived,
                                      Step::kStateReceived,  Step::kVerified,           Step::kReadySent,
                                      Step::kCommitReceived, Step::kDestinationClaimed, Step::kRunning};

class Killed : public testing::Test {
 protected:
  void SetUp() override {
    if (!open_kvm()) GTEST_SKIP() << "no usable /dev/kvm";
  }

  // Runs a move whose one side gets `signal` at `at`.
  void run(Step at, int signal, bool arbiter) {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    Arbiter claims = arbiter ? file_arbiter(dir_.file("")) : Arbiter();
    auto hook = [at, signal](Step step) {
      if (step == at) ::kill(::getpid(), signal);
    };
    source_ = spawn([&]() -> char {
      ::close(pair[1]);
      auto listener = std::make_shared<TestListener>();
      auto machine =
          boot_dirtier(open_kvm(), listener, "rounds=0 pattern=random pages=64 count=64 pause=1 hz=100");
      MigrateOptions options;
      options.arbiter = claims;
      options.on_step = hook;
      options.patience = kPatience;
      std::string code = code_of([&] {
        Migration(machine, std::make_unique<wire::Channel>(wire::adopt(Fd(pair[0]), "destination")), options)
            .run();
      });
      if (code == "MIGRATION_IN_DOUBT") return machine->state() == State::kPaused ? 'd' : '?';
      if (machine->state() == State::kRunning) return goes_on(*listener) ? 'r' : '?';
      return machine->state() == State::kStopped ? 'n' : '?';
    });
    destination_ = spawn([&]() -> char {
      ::close(pair[0]);
      auto listener = std::make_shared<TestListener>();
      wire::Channel channel(wire::adopt(Fd(pair[1]), "source"));
      ReceiveOptions options = take(listener);
      options.arbiter = claims;
      options.on_step = hook;
      options.patience = kPatience;
      try {
        auto received = receive(open_kvm(), channel, options);
        return goes_on(*listener) ? 'r' : '?';
      } catch (const Error&) {
        return 'n';
      }
    });
    ::close(pair[0]);
    ::close(pair[1]);
  }

  static constexpr std::chrono::milliseconds kPatience{1500};
  TempDir dir_;
  Side source_, destination_;
};

TEST_F(Killed, SourceAtEveryStepTheDestinationRunsWhatItHasWhole) {
  for (bool arbiter : {true, false})
    for (Step step : kSourceSteps) {
      SCOPED_TRACE(std::string(step_name(step)) + (arbiter ? " with arbiter" : " alone"));
      run(step, SIGKILL, arbiter);
      EXPECT_EQ(source_.wait(), 0);
      // Without an arbiter it has the right to run it from kCommit on.
      const Step right = arbiter ? Step::kStateSent : Step::kCommitSent;
      EXPECT_EQ(destination_.wait(), step >= right ? 'r' : 'n');
      source_.end();
      destination_.end();
    }
}

TEST_F(Killed, DestinationAtEveryStepTheSourceRunsWhatItMay) {
  for (bool arbiter : {true, false})
    for (Step step : kDestinationSteps) {
      if (!arbiter && step == Step::kDestinationClaimed) continue;
      SCOPED_TRACE(std::string(step_name(step)) + (arbiter ? " with arbiter" : " alone"));
      run(step, SIGKILL, arbiter);
      EXPECT_EQ(destination_.wait(), 0);
      // Once it has the claim it is its machine, and dies with it.
      const char expected = arbiter ? (step >= Step::kDestinationClaimed ? 'n' : 'r')
                                    : (step >= Step::kCommitReceived ? 'd' : 'r');
      const char verdict = source_.wait();
      if (!arbiter && step == Step::kReadySent)  // kCommit may have been on its way
        EXPECT_TRUE(verdict == 'r' || verdict == 'd') << verdict;
      else
        EXPECT_EQ(verdict, expected);
      source_.end();
      destination_.end();
    }
}

TEST_F(Killed, AZombieNeverRunsItToo) {
  for (Step step :
       {Step::kStateSent, Step::kReadyReceived, Step::kCommitSent, Step::kReadySent, Step::kCommitReceived}) {
    SCOPED_TRACE(step_name(step));
    run(step, SIGSTOP, true);
    const bool at_source = step <= Step::kRunningReceived;
    Side& zombie = at_source ? source_ : destination_;
    Side& other = at_source ? destination_ : source_;
    EXPECT_EQ(other.wait(), 'r');  // it took the silent one for dead
    ::kill(zombie.pid, SIGCONT);
    EXPECT_EQ(zombie.wait(), 'n');
    source_.end();
    destination_.end();
  }
}

}  // namespace
}  // namespace hypertwin::migrate

#endif
