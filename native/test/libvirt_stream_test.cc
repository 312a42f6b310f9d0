// Streams on libvirt's test driver: its screenshot is a local file; and credentials that come from another
// thread.
#include "libvirt/stream.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "libvirt_util.h"

namespace hypertwin::libvirt {
namespace {

using namespace test;

class LibvirtStream : public Libvirt {
 protected:
  struct Read {
    StreamChunk chunk;
    std::string error;
  };
  static std::string code_of(const std::exception_ptr& error) {
    return error ? failure([&] { std::rethrow_exception(error); }).first : "";
  }
  static Read read(StreamIo& stream, size_t most) {
    std::promise<Read> done;
    stream.read(most, true, [&](StreamChunk chunk, std::exception_ptr error) {
      done.set_value({std::move(chunk), code_of(error)});
    });
    return done.get_future().get();
  }
  template <class F>
  static std::string wait(F&& begin) {
    std::promise<std::string> done;
    begin([&](std::exception_ptr error) { done.set_value(code_of(error)); });
    return done.get_future().get();
  }
  static std::string end(StreamIo& stream, bool finish) {
    return wait([&](StreamIo::Done done) {
      finish ? stream.finish(std::move(done)) : stream.abort(std::move(done));
    });
  }

  // Streams of the driver's picture that are open in this process.
  static int open_pictures() {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const auto file = std::filesystem::read_symlink(entry.path(), gone);
      if (file.string().find("test-screenshot") != std::string::npos) ++count;
    }
    return count;
  }

  std::shared_ptr<Handle> screenshot(uint32_t flags) {
    const auto connection = open_test();
    const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
    auto stream = handle_in(call("virStreamNew", {of(connection), number(flags)}));
    EXPECT_EQ(call("virDomainScreenshot", {of(domain), of(stream), number(0), number(0)}), text("image/png"));
    return stream;
  }
};

TEST_F(LibvirtStream, ReadsToTheEndBlockingOrNot) {
  for (const uint32_t flags : {0u, 1u}) {
    const auto io = StreamIo::make(screenshot(flags));
    Bytes all;
    for (;;) {
      Read got = read(*io, 1000);
      ASSERT_EQ(got.error, "");
      if (std::get_if<StreamEnd>(&got.chunk)) break;
      const Bytes& bytes = std::get<Bytes>(got.chunk);
      ASSERT_LE(bytes.size(), 1000u);
      ASSERT_FALSE(bytes.empty());
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    EXPECT_GT(all.size(), 10000u);
    EXPECT_EQ(std::string(all.begin() + 1, all.begin() + 4), "PNG");
    EXPECT_EQ(end(*io, true), "");
    EXPECT_EQ(end(*io, true), "CLOSED") << "finished twice";
    EXPECT_EQ(end(*io, false), "") << "aborted after";
    EXPECT_EQ(failure([&] { read(*io, 1000); }).first, "CLOSED");
  }
}

TEST_F(LibvirtStream, AbortEndsIt) {
  const auto io = StreamIo::make(screenshot(1));
  ASSERT_EQ(read(*io, 100).error, "");
  EXPECT_EQ(end(*io, false), "");
  EXPECT_EQ(failure([&] { read(*io, 100); }).first, "CLOSED");
}

TEST_F(LibvirtStream, WhatIsDroppedIsAborted) {
  for (int i = 0; i < 21; ++i) {
    {
      const auto stream = screenshot(1);
      ASSERT_EQ(open_pictures(), 1);
      if (i % 3 > 0) {
        const auto io = StreamIo::make(stream);
        if (i % 3 > 1) read(*io, 100);
      }
    }
    pool().drain();
    ASSERT_EQ(open_pictures(), 0);
  }
}

TEST_F(LibvirtStream, WhatIsOpenedAfterItsEndIsAbortedToo) {
  const auto connection = open_test();
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  auto stream = handle_in(call("virStreamNew", {of(connection), number(1)}));
  EXPECT_EQ(end(*StreamIo::make(stream), false), "");
  call("virDomainScreenshot", {of(domain), of(stream), number(0), number(0)});
  EXPECT_EQ(open_pictures(), 1);
  stream.reset();
  pool().drain();
  EXPECT_EQ(open_pictures(), 0);
}

// A driver frees the stream's state when it ends: not under a call that runs.
TEST_F(LibvirtStream, ItsEndWaitsForCallsThatRun) {
  for (const bool finish : {false, true}) {
    const auto stream = screenshot(1);
    const auto io = StreamIo::make(stream);
    std::shared_lock running(stream->in_use());
    std::promise<std::string> ended;
    const auto done = [&](const std::exception_ptr& error) { ended.set_value(code_of(error)); };
    finish ? io->finish(done) : io->abort(done);
    EXPECT_EQ(failure([&] { read(*io, 100); }).first, "CLOSED") << "at once";
    // Another task of the lane is through, so the end had its turn.
    EXPECT_EQ(end(*io, false), "");
    EXPECT_EQ(open_pictures(), 1);
    running.unlock();
    EXPECT_EQ(ended.get_future().get(), "");
    EXPECT_EQ(open_pictures(), 0);
  }
}

TEST_F(LibvirtStream, CallsDoNotBeginWhileItEnds) {
  const auto stream = screenshot(1);
  const auto io = StreamIo::make(stream);
  const std::lock_guard ending(stream->in_use());
  EXPECT_EQ(read(*io, 100).error, "CLOSED");
  EXPECT_EQ(failure([&] { call("virStreamRecv", {of(stream), number(100)}); }).first, "CLOSED");
}

TEST_F(LibvirtStream, AbortRacesReads) {
  for (int i = 0; i < 200; ++i) {
    const auto io = StreamIo::make(screenshot(i % 2));
    std::promise<std::string> got;
    io->read(100, false,
             [&](const StreamChunk&, const std::exception_ptr& error) { got.set_value(code_of(error)); });
    if (i % 4 > 1) std::this_thread::yield();
    EXPECT_EQ(end(*io, false), "");
    const std::string code = got.get_future().get();
    EXPECT_TRUE(code.empty() || code == "CLOSED") << code;
  }
}

// As many as there are threads for them: a migration each.
TEST_F(LibvirtStream, LongCallsDoNotHoldItUp) {
  std::promise<void> end_all;
  std::shared_future<void> over = end_all.get_future().share();
  for (size_t i = 0; i < PoolOptions().slow_threads; ++i)
    ASSERT_TRUE(pool().post(Lane::slow, [over] { over.wait(); }));
  const auto io = StreamIo::make(screenshot(1));
  EXPECT_EQ(read(*io, 100).error, "");
  EXPECT_EQ(end(*io, false), "");
  end_all.set_value();
}

TEST_F(LibvirtStream, NothingIsOpenedOnIt) {
  const auto connection = open_test();
  const auto io = StreamIo::make(handle_in(call("virStreamNew", {of(connection), number(1)})));
  EXPECT_EQ(read(*io, 100).error, "LIBVIRT_ERROR");
  EXPECT_EQ(wait([&](StreamIo::Done done) { io->write(Bytes(10), std::move(done)); }), "LIBVIRT_ERROR");
  EXPECT_EQ(wait([&](StreamIo::Done done) {
              io->listen(
                  1, [](int) {}, std::move(done));
            }),
            "LIBVIRT_ERROR");
  EXPECT_EQ(end(*io, false), "");
}

TEST_F(LibvirtStream, TellsWhenItCanBeRead) {
  const auto io = StreamIo::make(screenshot(1));
  std::atomic<int> told{0};
  std::promise<int> first, second;
  ASSERT_EQ(wait([&](StreamIo::Done done) {
              io->listen(
                  1,
                  [&](int events) {
                    const int now = ++told;
                    if (now == 1) first.set_value(events);
                    if (now == 2) second.set_value(events);
                  },
                  std::move(done));
            }),
            "");
  EXPECT_TRUE(first.get_future().get() & 1);
  EXPECT_EQ(told, 1) << "not again before rearm()";
  EXPECT_TRUE(io->rearm());
  EXPECT_TRUE(second.get_future().get() & 1);
  EXPECT_EQ(end(*io, false), "");
  EXPECT_FALSE(io->rearm());
}

using LibvirtOpen = Libvirt;

TEST_F(LibvirtOpen, RefusesWhatIsNoUri) {
  EXPECT_EQ(failure([] { open_connection("nonsense:///", 0, {}, nullptr); }).first, "LIBVIRT_ERROR");
  EXPECT_EQ(failure([] { open_connection("test:///default", 1u << 30, {}, nullptr); }).first,
            "LIBVIRT_ERROR");
}

TEST_F(LibvirtOpen, ReadOnly) {
  const auto connection = open_connection("test:///default", 1, {}, nullptr);
  const auto domain = handle_in(call("virDomainLookupByName", {of(connection), text("test")}));
  EXPECT_EQ(failure([&] { call("virDomainDestroy", {of(domain)}); }).first, "LIBVIRT_ERROR");
}

// The test driver asks for a user and a password where its file lists users.
class LibvirtAuth : public Libvirt {
 protected:
  void SetUp() override {
    Libvirt::SetUp();
    file_ = ::testing::TempDir() + "hypertwin-auth-" + std::to_string(::getpid()) + ".xml";
    std::ofstream(file_) << "<node><auth><user password='secret'>alice</user></auth></node>";
  }
  void TearDown() override {
    std::remove(file_.c_str());
    Libvirt::TearDown();
  }
  std::string uri() const { return "test://" + file_; }

 private:
  std::string file_;
};

TEST_F(LibvirtAuth, AnswersComeFromElsewhere) {
  std::vector<int> asked;
  std::shared_ptr<CredentialDesk> desk;
  std::vector<std::thread> others;
  desk = std::make_shared<CredentialDesk>([&](const std::vector<CredentialRequest>& requests) {
    for (const CredentialRequest& one : requests) asked.push_back(one.type);
    CredentialAnswers answers(requests.size(), asked.size() == 1 ? "alice" : "secret");
    others.emplace_back([&desk, answers] { desk->answer(answers); });
  });
  const auto connection = open_connection(uri(), 0, {2, 5}, desk);
  for (std::thread& one : others) one.join();
  EXPECT_TRUE(connection);
  EXPECT_EQ(asked, (std::vector<int>{2, 5})) << "VIR_CRED_AUTHNAME, VIR_CRED_PASSPHRASE";
}

TEST_F(LibvirtAuth, RefusedWrongOrAbandoned) {
  std::shared_ptr<CredentialDesk> desk;
  desk = std::make_shared<CredentialDesk>([&](const auto&) { desk->answer(std::nullopt); });
  EXPECT_EQ(failure([&] { open_connection(uri(), 0, {2, 5}, desk); }).first, "LIBVIRT_ERROR");
  desk = std::make_shared<CredentialDesk>(
      [&](const auto& requests) { desk->answer(CredentialAnswers(requests.size(), "mallory")); });
  EXPECT_EQ(failure([&] { open_connection(uri(), 0, {2, 5}, desk); }).first, "LIBVIRT_ERROR");
  desk = std::make_shared<CredentialDesk>([&](const auto&) { desk->answer(CredentialAnswers()); });
  EXPECT_EQ(failure([&] {
              open_connection(uri(), 0, {2, 5}, desk);
            }).first,
            "LIBVIRT_ERROR")
      << "fewer than asked for";
  std::promise<void> asking;
  desk = std::make_shared<CredentialDesk>([&](const auto&) { asking.set_value(); });
  std::thread ender([&] {
    asking.get_future().wait();
    desk->refuse_all();
  });
  EXPECT_EQ(failure([&] { open_connection(uri(), 0, {2, 5}, desk); }).first, "LIBVIRT_ERROR");
  ender.join();
  EXPECT_EQ(failure([&] {
              open_connection(uri(), 0, {2, 5}, desk);
            }).first,
            "LIBVIRT_ERROR")
      << "refuses from then on";
}

}  // namespace
}  // namespace hypertwin::libvirt
