// A source that sends what it should not, and a destination that answers what it should not: refused in
// words, nothing is run, nothing is left.
#include <fcntl.h>
#include <sys/stat.h>

#include "migrate/codec.h"
#include "migrate/payloads.h"
#include "migrate_util.h"
#include "replay/recorder.h"

#if defined(__x86_64__)

namespace hypertwin::migrate {
namespace {

using machine::Machine;
using machine::open_kvm;
using machine::TempDir;
using machine::TestListener;
using wire::Channel;
using wire::FrameType;
using namespace std::chrono_literals;

class Hostile : public testing::Test {
 protected:
  void SetUp() override {
    system_ = open_kvm();
    if (!system_) GTEST_SKIP() << "no usable /dev/kvm";
    disk_ = dir_.file("disk.img");
    std::ofstream(disk_).close();
    std::filesystem::resize_file(disk_, 200 << 10);
    machine::MachineConfig config;
    config.memory_size = 16u << 20;
    config.disks.push_back({.path = disk_});
    machine_ = Machine::create(system_, config, machine::guest_image("hello"), nullptr);
    hello_.purpose = Purpose::kMigrate;
    hello_.session = random_session();
    hello_.config = machine_->config();
    hello_.host = replay::log_header(*machine_);
    hello_.disks = true;
    hello_.features = spoken_features();
  }

  // What receive() throws when `source` speaks to it.
  std::string against(const std::function<void(Channel&)>& source, ReceiveOptions options = {}) {
    auto ends = connect_ends();
    if (!options.adjust) options = take(nullptr, dir_.file("there.img"));
    auto destination = std::async(std::launch::async, [&] {
      std::string code = "none";
      try {
        received_ = receive(system_, *ends.destination, options).machine;
      } catch (const Error& error) {
        code = error.code();
        text_ = error.what();
      }
      ends.destination->close();
      return code;
    });
    try {
      source(*ends.source);
    } catch (const Error&) {
      // The other side closed: what it says counts.
    }
    // Its last words.
    last_words_.clear();
    try {
      while (auto frame = ends.source->receive())
        if (frame->type == FrameType::kAbort || frame->type == FrameType::kRefuse)
          last_words_ = decode_refusal(frame->payload).code;
    } catch (const Error&) {
    }
    std::string code = destination.get();
    ends.source->close();
    return code;
  }
  // After a handshake that went well.
  std::string in_rounds(const std::function<void(Channel&)>& source) {
    return against([&](Channel& channel) {
      greet(channel);
      source(channel);
    });
  }
  void greet(Channel& channel) {
    channel.send(FrameType::kHello, encode_hello(hello_));
    auto frame = channel.receive();
    ASSERT_TRUE(frame && frame->type == FrameType::kAccept);
  }
  std::string refusal(const Hello& hello, ReceiveOptions options = {}) {
    return against([&](Channel& channel) { channel.send(FrameType::kHello, encode_hello(hello)); },
                   std::move(options));
  }
  void send_final(Channel& channel) {
    channel.send(FrameType::kRoundEnd, encode_round_end({.round = 1, .final = true}));
  }
  // All of the machine, by hand.
  MovedState state_of(Machine& machine) {
    MovedState state;
    machine.call(machine::At::kAnywhere, [&] {
      state.digest = machine.digest_here();
      ByteWriter out;
      machine.save_state(out);
      state.machine = out.take();
    });
    state.memory_verified = true;
    std::vector<uint64_t> checksums;
    for (uint64_t block = 0; block < 4; ++block) {
      std::vector<uint8_t> bytes(block_bytes(block, 200 << 10));
      machine.disk(0)->read_at(block * kBlock, bytes);
      checksums.push_back(checksum64(bytes));
    }
    state.disks.push_back(
        digest128({reinterpret_cast<const uint8_t*>(checksums.data()), checksums.size() * 8}));
    return state;
  }
  void send_memory(Channel& channel) {
    PageEncoder encoder({.features = hello_.features, .cache_bytes = 0, .page_count = 4096});
    machine_->memory().for_each_run([&](uint64_t first, uint64_t count) {
      for (uint64_t page = first; page < first + count; ++page)
        encoder.add(page, std::span<const uint8_t, kPage>(machine_->memory().data() + page * kPage, kPage));
    });
    channel.send(FrameType::kPages, encoder.payload());
    const std::vector<uint8_t> zero_disk{0, 0, 0, 4};
    channel.send(FrameType::kBlocks, zero_disk);
  }
  void send_state(Channel& channel, const MovedState& state) {
    std::vector<uint8_t> part{1};
    auto bytes = encode_state(state);
    part.insert(part.end(), bytes.begin(), bytes.end());
    channel.send(FrameType::kState, part);
  }

  std::shared_ptr<kvm::System> system_;
  TempDir dir_;
  std::string disk_, text_, last_words_;
  std::shared_ptr<Machine> machine_, received_;
  Hello hello_;
};

TEST_F(Hostile, ByHandItWouldGo) {
  // So that what follows fails for what it does, and not for this test's own frames.
  EXPECT_EQ(in_rounds([&](Channel& channel) {
              send_memory(channel);
              send_final(channel);
              send_state(channel, state_of(*machine_));
              auto ready = channel.receive();
              ASSERT_TRUE(ready && ready->type == FrameType::kReady);
              channel.send(FrameType::kCommit, {});
            }),
            "none")
      << text_;
  ASSERT_TRUE(received_);
  EXPECT_EQ(received_->state_digest(), machine_->state_digest());
}

TEST_F(Hostile, RefusesWhatItCannotGoOnWith) {
  auto mismatch = [&](auto change, const char* named) {
    Hello hello = hello_;
    change(hello);
    EXPECT_EQ(refusal(hello), "MIGRATION_MISMATCH") << named << text_;
    EXPECT_EQ(last_words_, "MIGRATION_MISMATCH") << named;
    EXPECT_NE(text_.find(named), std::string::npos) << text_;
    EXPECT_FALSE(std::filesystem::exists(dir_.file("there.img"))) << named;
  };
  mismatch([](Hello& hello) { hello.host.cpu_features.lo ^= 1; }, "cpu features");
  mismatch([](Hello& hello) { hello.host.cpu_vendor = "OtherVendor"; }, "cpu vendor");
  mismatch([](Hello& hello) { hello.host.board_version++; }, "board version");
  mismatch([](Hello& hello) { hello.host.kvm_quirks += " odd"; }, "kvm quirks");
  mismatch([](Hello& hello) { hello.host.memory_size *= 2; }, "memory size");
  mismatch([](Hello& hello) { hello.purpose = Purpose::kProtect; }, "protect");
}

TEST_F(Hostile, RefusesAnotherSizeOfMemoryOrDisk) {
  ReceiveOptions options = take(nullptr, dir_.file("there.img"));
  options.adjust = [&](machine::MachineConfig& config) {
    config.disks[0].path = dir_.file("there.img");
    config.memory_size *= 2;
  };
  EXPECT_EQ(refusal(hello_, options), "BAD_CONFIG") << text_;
  // An image that is there already and too small is not grown: it may be another's.
  std::ofstream(dir_.file("small.img")) << "small";
  EXPECT_EQ(refusal(hello_, take(nullptr, dir_.file("small.img"))), "BAD_CONFIG") << text_;
  EXPECT_EQ(std::filesystem::file_size(dir_.file("small.img")), 5u);
  EXPECT_EQ(last_words_, "BAD_CONFIG");
  EXPECT_EQ(refusal(hello_, take(nullptr, "/nonexistent/there.img")), "ENOENT") << text_;
  hello_.disks = false;
  EXPECT_EQ(refusal(hello_, take(nullptr, dir_.file("none.img"))), "ENOENT") << text_;
}

TEST_F(Hostile, RefusesGreetingsThatAreNone) {
  auto greeting = encode_hello(hello_);
  for (size_t size : {size_t{0}, size_t{1}, size_t{3}, greeting.size() / 2, greeting.size() - 1})
    EXPECT_EQ(
        against([&](Channel& channel) { channel.send(FrameType::kHello, std::span(greeting).first(size)); }),
        "PROTOCOL");
  for (FrameType type :
       {FrameType::kPages, FrameType::kState, FrameType::kCommit, FrameType::kLog, FrameType::kAccept})
    EXPECT_EQ(against([&](Channel& channel) { channel.send(type, greeting); }), "PROTOCOL");
  EXPECT_EQ(against([&](Channel& channel) { channel.send(FrameType::kAbort, encode_refusal("WHY", "not")); }),
            "ABORTED");
  EXPECT_NE(text_.find("WHY: not"), std::string::npos) << text_;
  EXPECT_EQ(against([](Channel& channel) { channel.close(); }), "PEER_LOST");
}

TEST_F(Hostile, RefusesHostilePagesAndBlocks) {
  auto refused = [&](FrameType type, std::vector<uint8_t> payload, size_t more = 0) {
    payload.resize(payload.size() + more);
    EXPECT_EQ(in_rounds([&](Channel& channel) { channel.send(type, payload); }), "PROTOCOL") << text_;
    EXPECT_EQ(last_words_, "PROTOCOL");
  };
  refused(FrameType::kPages, {1, 0x80, 0x20}, kPage);             // page 4096 of 4096
  refused(FrameType::kPages, {0, 0, 0x81, 0x20});                 // 4097 zero pages
  refused(FrameType::kPages, {1, 0}, kPage / 2);                  // torn
  refused(FrameType::kPages, {2, 0, 4, 0xf0, 0xff, 0xff, 0xff});  // not LZ4
  refused(FrameType::kPages, {3, 5, 10, 0, 1}, 8);                // a difference from nothing
  refused(FrameType::kBlocks, {0, 0, 4, 1});                      // block 4 of 4
  refused(FrameType::kBlocks, {1, 0, 0, 1});                      // no such disk
  refused(FrameType::kBlocks, {0, 1, 3}, kBlock);                 // longer than the last block
  refused(FrameType::kRoundEnd, {1, 2, 3});
  refused(FrameType::kLog, {1});
  refused(FrameType::kHello, encode_hello(hello_));
  refused(FrameType::kReady, {});
  refused(FrameType::kState, {1, 0});  // not before the last round
}

TEST_F(Hostile, RefusesBlocksThatWereNotAskedFor) {
  hello_.disks = false;
  ReceiveOptions options = take(nullptr, disk_);
  EXPECT_EQ(against(
                [&](Channel& channel) {
                  greet(channel);
                  const std::vector<uint8_t> zero{0, 0, 0, 1};
                  channel.send(FrameType::kBlocks, zero);
                },
                options),
            "PROTOCOL")
      << text_;
}

TEST_F(Hostile, RefusesAHostileState) {
  const MovedState good = state_of(*machine_);
  auto with = [&](const std::function<void(Channel&)>& last) {
    received_.reset();
    std::string code = in_rounds([&](Channel& channel) {
      send_memory(channel);
      send_final(channel);
      last(channel);
    });
    EXPECT_EQ(received_, nullptr);
    return code;
  };
  const std::vector<uint8_t> garbage(1000, 0xa5);
  auto state = [&](auto change) {
    return with([&](Channel& channel) {
      MovedState changed = good;
      change(changed);
      send_state(channel, changed);
    });
  };
  EXPECT_EQ(with([&](Channel& channel) { channel.send(FrameType::kState, garbage); }), "PROTOCOL");
  EXPECT_EQ(with([&](Channel& channel) { send_final(channel); }), "PROTOCOL");
  EXPECT_EQ(with([&](Channel& channel) { channel.send(FrameType::kPages, {}); }), "PROTOCOL");
  EXPECT_EQ(state([&](MovedState& s) { s.machine = garbage; }), "PROTOCOL") << text_;
  EXPECT_EQ(state([&](MovedState& s) { s.machine.resize(s.machine.size() / 2); }), "PROTOCOL") << text_;
  EXPECT_EQ(state([&](MovedState& s) { s.machine.push_back(0); }), "PROTOCOL") << text_;
  EXPECT_EQ(state([&](MovedState& s) { s.disks.clear(); }), "PROTOCOL") << text_;
  for (auto part :
       {&machine::StateDigest::memory, &machine::StateDigest::vcpu, &machine::StateDigest::devices}) {
    EXPECT_EQ(state([&](MovedState& s) { (s.digest.*part).lo ^= 1; }), "MIGRATION_DIGEST") << text_;
    EXPECT_EQ(last_words_, "MIGRATION_DIGEST");
  }
  EXPECT_EQ(state([&](MovedState& s) { s.digest.boundary++; }), "MIGRATION_DIGEST") << text_;
  EXPECT_EQ(state([&](MovedState& s) { s.disks[0].hi ^= 1; }), "MIGRATION_DIGEST") << text_;
  // A second one, and no commit at all.
  EXPECT_EQ(with([&](Channel& channel) {
              send_state(channel, good);
              send_state(channel, good);
            }),
            "PROTOCOL")
      << text_;
  EXPECT_EQ(with([&](Channel& channel) {
              send_state(channel, good);
              channel.close();
            }),
            "PEER_LOST")
      << text_;
  EXPECT_EQ(with([&](Channel& channel) {
              send_state(channel, good);
              channel.receive();
              channel.send(FrameType::kAbort, encode_refusal("CHANGED", "its mind"));
            }),
            "NOT_OURS")
      << text_;
}

TEST_F(Hostile, WhoSaysNothingKeepsNobodyOut) {
  ReceiveOptions options;
  options.hello_patience = 50ms;
  EXPECT_EQ(against([](Channel&) {}, std::move(options)), "PEER_LOST") << text_;
}

TEST_F(Hostile, ADestinationThatTakesNothingInDoesNotHoldTheGuest) {
  auto listener = std::make_shared<TestListener>();
  auto dirtier = boot_dirtier(system_, listener, "rounds=0 pattern=random pages=4096 count=4096");
  auto ends = connect_ends();
  std::promise<void> over;
  auto peer = std::async(std::launch::async, [&] {
    Channel& channel = *ends.destination;
    channel.receive();
    channel.send(FrameType::kAccept, encode_accept({.features = 0, .disks = {}}));
    while (auto frame = channel.receive())
      if (frame->type == FrameType::kRoundEnd) {
        std::this_thread::sleep_for(300ms);  // the guest writes more meanwhile than any socket holds
        channel.send(FrameType::kRoundEnd, frame->payload);
        break;
      }
    over.get_future().wait();
  });
  MigrateOptions send;
  send.patience = 1s;
  send.max_rounds = 1;
  std::string text;
  try {
    Migration(dirtier, std::move(ends.source), send).run();
  } catch (const Error& error) {
    text = error.what();
  }
  over.set_value();
  peer.get();
  EXPECT_NE(text.find("has taken nothing in for 1000 ms"), std::string::npos) << text;
  EXPECT_EQ(dirtier->state(), machine::State::kRunning);
}

TEST_F(Hostile, ASourceRefusesAnswersThatAreNone) {
  auto listener = std::make_shared<TestListener>();
  auto dirtier = boot_dirtier(system_, listener, "rounds=0 pattern=random pages=64 count=64 pause=1 hz=100");
  auto source = [&](const std::function<void(Channel&)>& destination) {
    auto ends = connect_ends();
    auto peer = std::async(std::launch::async, [&] {
      try {
        ends.destination->receive();
        destination(*ends.destination);
        while (ends.destination->receive()) {
        }
      } catch (const Error&) {
      }
    });
    std::string code = code_of([&] { Migration(dirtier, std::move(ends.source), {}).run(); });
    peer.get();
    EXPECT_EQ(dirtier->state(), machine::State::kRunning);
    EXPECT_FALSE(tracked(*dirtier));
    return code;
  };
  const auto good = encode_accept({.features = 0, .disks = {}});
  auto until_round_end = [&](Channel& channel) {
    channel.send(FrameType::kAccept, good);
    while (channel.receive()->type != FrameType::kRoundEnd) {
    }
  };
  EXPECT_EQ(
      source([&](Channel& c) { c.send(FrameType::kAccept, encode_accept({.features = 0x80, .disks = {}})); }),
      "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) {
              c.send(FrameType::kAccept, encode_accept({.features = 0, .disks = {true}}));
            }),
            "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) { c.send(FrameType::kAccept, {}); }), "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) { c.send(FrameType::kReady, {}); }), "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) { c.send(FrameType::kRefuse, encode_refusal("NO", "no")); }), "REFUSED");
  EXPECT_EQ(source([&](Channel& c) { c.send(FrameType::kRefuse, {}); }), "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) {
              until_round_end(c);
              c.send(FrameType::kRoundEnd, encode_round_end({.round = 7}));
            }),
            "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) {
              until_round_end(c);
              c.send(FrameType::kRunning, {});
            }),
            "PROTOCOL");
  EXPECT_EQ(source([&](Channel& c) {
              until_round_end(c);
              c.send(FrameType::kAbort, encode_refusal("ENOSPC", "the disk is full"));
            }),
            "REFUSED");
  EXPECT_TRUE(goes_on(*listener));
}

}  // namespace
}  // namespace hypertwin::migrate

#endif
