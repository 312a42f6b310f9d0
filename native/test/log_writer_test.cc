// The event log's writer: group commit, limits, failing sinks, and a killed process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/mapping.h"
#include "code_of.h"
#include "log_fixtures.h"

namespace hypertwin::log {
namespace {

// Fails, or blocks, when the test says so.
struct Fault {
  std::mutex mutex;
  std::condition_variable changed;
  bool blocked = false;
  int write_errno = 0;
  int sync_errno = 0;
  int begin_errno = 0;
  // How much of a failing write arrives.
  size_t torn_bytes = 0;
  bool truncate_fails = false;

  void set(auto&& change) {
    std::lock_guard lock(mutex);
    change(*this);
    changed.notify_all();
  }
};

class FaultySink : public MemorySink {
 public:
  FaultySink(std::shared_ptr<MemoryLog> log, std::shared_ptr<Fault> fault)
      : MemorySink(std::move(log)), fault_(std::move(fault)) {}
  void begin_segment(uint32_t number, std::span<const uint8_t> header) override {
    fail(&Fault::begin_errno, "openat");
    MemorySink::begin_segment(number, header);
  }
  void write(uint64_t offset, std::span<const uint8_t> bytes) override {
    size_t torn;
    {
      std::unique_lock lock(fault_->mutex);
      fault_->changed.wait(lock, [&] { return !fault_->blocked; });
      torn = fault_->write_errno != 0 ? std::min(fault_->torn_bytes, bytes.size()) : bytes.size();
    }
    MemorySink::write(offset, bytes.first(torn));
    fail(&Fault::write_errno, "pwrite");
  }
  void truncate(uint64_t size) override {
    {
      std::lock_guard lock(fault_->mutex);
      if (fault_->truncate_fails) throw Error::system(EIO, "ftruncate", "testing");
    }
    MemorySink::truncate(size);
  }
  void sync() override {
    fail(&Fault::sync_errno, "fdatasync");
    MemorySink::sync();
  }

 private:
  void fail(int Fault::*which, const char* call) {
    std::lock_guard lock(fault_->mutex);
    if (*fault_.*which != 0) throw Error::system(*fault_.*which, call, "testing");
  }
  std::shared_ptr<Fault> fault_;
};

struct Faulty {
  std::shared_ptr<MemoryLog> log = std::make_shared<MemoryLog>();
  std::shared_ptr<Fault> fault = std::make_shared<Fault>();
  std::unique_ptr<Writer> writer;
  std::vector<Canonical> appended;
  RandomRecords records{11, 200};
  std::optional<std::pair<uint64_t, Body>> refused;

  explicit Faulty(WriterOptions options = {}) {
    writer = std::make_unique<Writer>(std::make_unique<FaultySink>(log, fault), sample_header(), options);
  }
  // Appends up to `count` records; a record that was refused comes again first.
  bool append(int count) {
    for (int i = 0; i < count; i++) {
      auto record = refused ? *refused : records.next();
      try {
        writer->append(record.first, record.second);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), "LOG_WRITE_FAILED");
        refused = record;
        return false;
      }
      refused.reset();
      appended.push_back(canonical(record.first, record.second));
    }
    return true;
  }
  std::vector<Canonical> read() {
    std::lock_guard lock(log->mutex);
    Reader reader(memory_source(log->segments), with_extensions());
    auto out = read_all(reader);
    damages = reader.damages().size();
    return out;
  }
  size_t damages = 0;
};

TEST(LogWriter, FlushWritesAndSyncsByPolicy) {
  for (auto policy : {SyncPolicy::kNone, SyncPolicy::kInterval, SyncPolicy::kAlways}) {
    WriterOptions options;
    options.sync = policy;
    options.sync_interval = std::chrono::hours(1);
    options.commit_latency = std::chrono::hours(1);
    Faulty it(options);
    const uint64_t syncs = it.log->syncs;
    ASSERT_TRUE(it.append(10));
    EXPECT_EQ(it.writer->durable_index(), 0u);
    it.writer->flush();
    EXPECT_EQ(it.writer->durable_index(), 10u);
    EXPECT_EQ(it.log->syncs - syncs, policy == SyncPolicy::kNone ? 0u : 1u);
    EXPECT_EQ(it.read(), it.appended);
  }
}

TEST(LogWriter, CommitsByItselfAndTells) {
  for (auto policy : {SyncPolicy::kNone, SyncPolicy::kInterval, SyncPolicy::kAlways}) {
    std::atomic<uint64_t> told{0};
    WriterOptions options;
    options.sync = policy;
    options.sync_interval = std::chrono::milliseconds(1);
    options.on_durable = [&](uint64_t index) {
      told.store(index);
      told.notify_all();
    };
    Faulty it(options);
    for (uint64_t i = 1; i <= 3; i++) {
      ASSERT_TRUE(it.append(1));
      for (uint64_t seen = told.load(); seen < i; seen = told.load()) told.wait(seen);
      EXPECT_EQ(it.writer->durable_index(), i);
    }
    it.writer->close();
  }
}

TEST(LogWriter, WakesFromALongSleep) {
  // Longer than ht-log keeps polling: then append() must wake it.
  WriterOptions options;
  options.commit_latency = std::chrono::microseconds(1);
  Faulty it(options);
  for (int i = 0; i < 50; i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(i % 5));
    ASSERT_TRUE(it.append(1));
    while (it.writer->durable_index() < it.appended.size()) std::this_thread::yield();
  }
}

TEST(LogWriter, ALargeBatchIsSharedByFewBlocks) {
  WriterOptions options;
  options.commit_latency = std::chrono::hours(1);
  Faulty it(options);
  ASSERT_TRUE(it.append(20000));
  it.writer->close();
  auto stats = it.writer->stats();
  EXPECT_EQ(stats.records, 20000u);
  EXPECT_LT(stats.blocks, 60u);
  EXPECT_EQ(it.read(), it.appended);
  uint64_t encoded = 0;
  for (uint64_t bytes : stats.bytes_by_kind) encoded += bytes;
  uint64_t stored = 0;
  for (const auto& [number, bytes] : it.log->segments) stored += bytes.size();
  EXPECT_EQ(stats.bytes, stored);
  EXPECT_LT(encoded, stored);
  EXPECT_GT(stats.input_bytes, 0u);
  EXPECT_LT(stats.input_bytes, encoded);
}

TEST(LogWriter, ABlockTakesNoMoreRecordsThanItMay) {
  for (uint32_t most : {1u, 3u}) {
    WriterOptions options;
    options.commit_latency = std::chrono::hours(1);
    options.block_records = most;
    Faulty it(options);
    ASSERT_TRUE(it.append(1000));
    it.writer->close();
    EXPECT_EQ(it.writer->stats().blocks, (1000 + most - 1) / most);
    EXPECT_EQ(it.read(), it.appended);
  }
}

TEST(LogWriter, RefusesBadRecords) {
  Faulty it;
  Writer& writer = *it.writer;
  writer.append(5, Interrupt{1});
  EXPECT_EQ(code_of([&] { writer.append(4, Interrupt{1}); }), "LOG_BAD_RECORD");
  EXPECT_EQ(code_of([&] { writer.append(5, Extension{127, {}}); }), "LOG_BAD_RECORD");
  std::vector<uint8_t> big(kMaxRecordBytes);
  EXPECT_EQ(code_of([&] { writer.append(5, Epoch{big}); }), "LOG_BAD_RECORD");
  big.resize(kMaxRecordBytes - 256);
  EXPECT_EQ(writer.append(5, Epoch{big}), 1u);
  EXPECT_EQ(writer.append(5, Epoch{big}), 2u);
  EXPECT_EQ(writer.append(6, End{0}), 3u);
  EXPECT_EQ(code_of([&] { writer.append(6, Interrupt{1}); }), "LOG_CLOSED");
  writer.close();
  writer.close();
  EXPECT_EQ(code_of([&] { writer.append(7, Interrupt{1}); }), "LOG_CLOSED");
  EXPECT_EQ(it.read().size(), 4u);
  EXPECT_EQ(writer.chain(), verify(memory_source(it.log->segments)).chain);
}

TEST(LogWriter, DoesNotMixTwoLogs) {
  TemporaryDirectory directory;
  Writer::create(directory.path(), sample_header())->close();
  EXPECT_EQ(code_of([&] { Writer::create(directory.path(), sample_header()); }), "LOG_EXISTS");
  EXPECT_EQ(code_of([&] { Writer::create(directory.path() / "no" / "where", sample_header()); }), "ENOENT");
}

// Both found no log there.
TEST(LogWriter, TakesNoOtherLogsPlace) {
  TemporaryDirectory directory;
  FileSink first(directory.path()), second(directory.path());
  const std::vector<uint8_t> header{1, 2, 3}, other{4, 5, 6, 7}, more{8, 9};
  first.begin_segment(1, header);
  EXPECT_EQ(code_of([&] { second.begin_segment(1, other); }), "LOG_EXISTS");
  first.write(header.size(), more);
  first.sync();
  std::ifstream in(directory.path() / segment_name(1), std::ios::binary);
  const std::vector<uint8_t> written{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(written, (std::vector<uint8_t>{1, 2, 3, 8, 9}));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
}

TEST(LogWriter, AFullBufferWaitsOrFails) {
  std::vector<uint8_t> bytes(1u << 20);
  for (auto policy : {FullPolicy::kWait, FullPolicy::kFail}) {
    WriterOptions options;
    options.full = policy;
    Faulty it(options);
    it.fault->set([](Fault& fault) { fault.blocked = true; });
    if (policy == FullPolicy::kFail) {
      int taken = 0;
      EXPECT_EQ(code_of([&] {
                  for (;;) {
                    it.writer->append(1, PacketRx{0, bytes});
                    taken++;
                  }
                }),
                "LOG_BUFFER_FULL");
      EXPECT_EQ(taken, 7);
      it.fault->set([](Fault& fault) { fault.blocked = false; });
      it.writer->flush();
      it.writer->append(1, PacketRx{0, bytes});
    } else {
      std::thread producer([&] {
        for (int i = 0; i < 40; i++) it.writer->append(1, PacketRx{0, bytes});
      });
      while (it.writer->stats().waits == 0) std::this_thread::yield();
      EXPECT_LE(it.writer->stats().buffer_high_water, options.buffer_bytes);
      EXPECT_EQ(it.writer->stats().records, 7u);
      it.fault->set([](Fault& fault) { fault.blocked = false; });
      producer.join();
      it.writer->close();
      EXPECT_EQ(it.read().size(), 40u);
      EXPECT_LE(it.writer->stats().buffer_high_water, options.buffer_bytes);
    }
  }
}

TEST(LogWriter, AWaitForRoomEndsWhenTheSinkFails) {
  Faulty it;
  std::vector<uint8_t> bytes(1u << 20);
  it.fault->set([](Fault& fault) {
    fault.blocked = true;
    fault.write_errno = EIO;
  });
  std::thread producer([&] {
    EXPECT_EQ(code_of([&] {
                for (;;) it.writer->append(1, PacketRx{0, bytes});
              }),
              "LOG_WRITE_FAILED");
  });
  while (it.writer->stats().waits == 0) std::this_thread::yield();
  it.fault->set([](Fault& fault) { fault.blocked = false; });
  producer.join();
}

// Each kind of failure, met while records come, then mended: nothing is lost, nothing comes twice.
void fails_and_recovers(WriterOptions options, auto&& break_it, int code, bool truncates = true) {
  std::atomic<int> failures{0};
  options.on_failure = [&](const Error& error) {
    EXPECT_EQ(error.code(), "LOG_WRITE_FAILED");
    EXPECT_EQ(error.err(), code);
    failures++;
  };
  Faulty it(options);
  for (int round = 0; round < 4; round++) {
    ASSERT_TRUE(it.append(300));
    it.writer->flush();
    const uint64_t durable = it.writer->durable_index();
    it.fault->set(break_it);
    ASSERT_TRUE(it.append(1));
    EXPECT_EQ(code_of([&] { it.writer->flush(); }), "LOG_WRITE_FAILED");
    EXPECT_TRUE(it.writer->failed());
    EXPECT_FALSE(it.append(1));
    ASSERT_TRUE(it.writer->error());
    EXPECT_EQ(it.writer->error()->err(), code);
    EXPECT_NE(std::string(it.writer->error()->what()).find(std::to_string(it.writer->durable_index())),
              std::string::npos);
    EXPECT_GE(it.writer->durable_index(), durable);
    // What was written before the failure can be read, and no torn block is behind it.
    auto read = it.read();
    EXPECT_GE(read.size(), durable);
    EXPECT_LE(read.size(), it.appended.size());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), it.appended.begin()));
    if (truncates) {
      EXPECT_EQ(it.damages, 0u);
    }
    // It does not mend by itself.
    EXPECT_EQ(code_of([&] { it.writer->retry(); }), "LOG_WRITE_FAILED");
    EXPECT_EQ(code_of([&] { it.writer->close(); }), "LOG_WRITE_FAILED");
    it.fault->set([](Fault& fault) { fault.write_errno = fault.sync_errno = fault.begin_errno = 0; });
    it.writer->retry();
    EXPECT_FALSE(it.writer->failed());
    EXPECT_EQ(it.writer->durable_index(), it.appended.size());
    EXPECT_EQ(it.read(), it.appended);
    EXPECT_EQ(it.damages, 0u);
  }
  ASSERT_TRUE(it.append(300));
  it.writer->close();
  EXPECT_EQ(it.read(), it.appended);
  EXPECT_EQ(failures, 8);
}

TEST(LogWriter, RecoversFromAFullDisk) {
  for (auto policy : {SyncPolicy::kNone, SyncPolicy::kInterval, SyncPolicy::kAlways}) {
    WriterOptions options;
    options.sync = policy;
    for (size_t torn : {0u, 1u, 50u, 100u}) {
      fails_and_recovers(
          options,
          [&](Fault& fault) {
            fault.write_errno = ENOSPC;
            fault.torn_bytes = torn;
          },
          ENOSPC);
    }
  }
}

TEST(LogWriter, RecoversFromAnIoErrorThatCannotBeCutOff) {
  fails_and_recovers(
      {},
      [](Fault& fault) {
        fault.write_errno = EIO;
        fault.torn_bytes = 60;
        fault.truncate_fails = true;
      },
      EIO, false);
}

TEST(LogWriter, RecoversFromAFailedSync) {
  for (auto policy : {SyncPolicy::kInterval, SyncPolicy::kAlways}) {
    WriterOptions options;
    options.sync = policy;
    fails_and_recovers(
        options, [](Fault& fault) { fault.sync_errno = EIO; }, EIO);
  }
}

TEST(LogWriter, RecoversFromASegmentThatCannotBeCreated) {
  for (auto policy : {SyncPolicy::kNone, SyncPolicy::kInterval, SyncPolicy::kAlways}) {
    WriterOptions options;
    options.sync = policy;
    options.segment_bytes = 1;
    fails_and_recovers(
        options, [](Fault& fault) { fault.begin_errno = ENOSPC; }, ENOSPC);
  }
}

TEST(LogWriter, RewritesWhatAFailedSyncMayHaveLost) {
  WriterOptions options;
  options.sync = SyncPolicy::kAlways;
  Faulty it(options);
  ASSERT_TRUE(it.append(5));
  it.writer->flush();
  size_t durable;
  {
    std::lock_guard lock(it.log->mutex);
    durable = it.log->segments[1].size();
  }
  it.fault->set([](Fault& fault) { fault.sync_errno = EIO; });
  ASSERT_TRUE(it.append(1));
  EXPECT_EQ(code_of([&] { it.writer->flush(); }), "LOG_WRITE_FAILED");
  {
    // The kernel dropped the pages.
    std::lock_guard lock(it.log->mutex);
    auto& bytes = it.log->segments[1];
    ASSERT_GT(bytes.size(), durable);
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(durable), bytes.end(), uint8_t{0});
  }
  it.fault->set([](Fault& fault) { fault.sync_errno = 0; });
  it.writer->retry();
  EXPECT_EQ(it.read(), it.appended);
}

TEST(LogWriter, AFailedWriterCanBeDestroyed) {
  Faulty it;
  it.fault->set([](Fault& fault) { fault.write_errno = EIO; });
  ASSERT_TRUE(it.append(1));
  EXPECT_EQ(code_of([&] { it.writer->flush(); }), "LOG_WRITE_FAILED");
  it.writer.reset();
}

TEST(LogWriter, SystemCallsThatAreShortOrInterruptedAreGoneOnWith) {
  TemporaryDirectory directory;
  FileCalls calls = FileCalls::system();
  uint64_t turn = 0;
  calls.pwrite = [&turn](int fd, const void* data, size_t size, off_t offset) -> ssize_t {
    if (++turn % 3 == 0) {
      errno = EINTR;
      return -1;
    }
    return ::pwrite(fd, data, std::min<size_t>(size, 1 + turn % 50), offset);
  };
  calls.fdatasync = [&turn](int fd) {
    if (++turn % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    return ::fdatasync(fd);
  };
  WriterOptions options;
  options.segment_bytes = 5000;
  options.sync = SyncPolicy::kInterval;
  std::vector<Canonical> appended;
  {
    Writer writer(std::make_unique<FileSink>(directory.path(), calls), sample_header(), options);
    RandomRecords records(3);
    for (int i = 0; i < 500; i++) {
      auto [boundary, body] = records.next();
      appended.push_back(canonical(boundary, body));
      writer.append(boundary, body);
      if (i % 40 == 0) writer.flush();
    }
    writer.close();
  }
  auto reader = Reader::open(directory.path(), with_extensions());
  EXPECT_EQ(read_all(*reader), appended);
  EXPECT_TRUE(verify(open_directory(directory.path())).ok());
}

TEST(LogWriter, ARealFullDeviceIsReportedAndSurvived) {
  TemporaryDirectory directory;
  Fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  if (!full) GTEST_SKIP() << "no /dev/full";
  std::atomic<bool> disk_is_full{false};
  FileCalls calls = FileCalls::system();
  calls.pwrite = [&](int fd, const void* data, size_t size, off_t offset) {
    if (!disk_is_full) return ::pwrite(fd, data, size, offset);
    // Half of it still fits.
    if (size > 1) return ::pwrite(fd, data, size / 2, offset);
    return ::pwrite(full.get(), data, size, offset);
  };
  Writer writer(std::make_unique<FileSink>(directory.path(), calls), sample_header(), {});
  writer.append(1, Interrupt{1});
  writer.flush();
  disk_is_full = true;
  writer.append(2, Interrupt{2});
  EXPECT_EQ(code_of([&] { writer.flush(); }), "LOG_WRITE_FAILED");
  EXPECT_EQ(writer.error()->err(), ENOSPC);
  EXPECT_EQ(writer.error()->call(), "pwrite");
  EXPECT_NE(std::string(writer.error()->what()).find("00000001.htlog"), std::string::npos);
  EXPECT_EQ(writer.durable_index(), 1u);
  auto report = verify(open_directory(directory.path()));
  EXPECT_TRUE(report.ok()) << "the part of a block is cut off";
  EXPECT_EQ(report.records, 1u);
  disk_is_full = false;
  writer.retry();
  writer.append(3, End{0});
  writer.close();
  report = verify(open_directory(directory.path()));
  EXPECT_TRUE(report.ok());
  EXPECT_TRUE(report.ended);
  EXPECT_EQ(report.records, 3u);
}

TEST(LogWriter, FilesArePrivate) {
  TemporaryDirectory directory;
  Writer::create(directory.path() / "log", sample_header())->close();
  namespace fs = std::filesystem;
  EXPECT_EQ(fs::status(directory.path() / "log").permissions() & fs::perms(077), fs::perms::none);
  EXPECT_EQ(fs::status(directory.path() / "log" / "00000001.htlog").permissions() & fs::perms(077),
            fs::perms::none);
}

// What the killed process told before it died.
struct Told {
  std::atomic<uint64_t> appended{0};
  std::atomic<uint64_t> durable{0};
};

void write_until_killed(const std::filesystem::path& directory, uint64_t seed, SyncPolicy policy,
                        Told* told) {
  WriterOptions options;
  options.sync = policy;
  options.segment_bytes = 30000;
  options.commit_latency = std::chrono::microseconds(100);
  options.on_durable = [told](uint64_t index) { told->durable.store(index); };
  auto writer = Writer::create(directory, sample_header(), options);
  RandomRecords records(seed);
  for (;;) {
    auto [boundary, body] = records.next();
    told->appended.store(writer->append(boundary, body) + 1);
  }
}

TEST(LogWriter, AKilledProcessLeavesEverythingDurableAndNoWrongRecord) {
  auto shared = Mapping::map(4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0, "a test");
  std::mt19937_64 random(12);
  for (uint64_t round = 0; round < 36; round++) {
    TemporaryDirectory directory;
    auto path = directory.path() / "log";
    auto* told = new (shared.data()) Told();
    const auto policy = static_cast<SyncPolicy>(round % 3);
    const uint64_t target = policy == SyncPolicy::kAlways ? random() % 2000 : random() % 20000;
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        write_until_killed(path, round, policy, told);
      } catch (...) {
      }
      ::_exit(1);
    }
    while (told->appended.load() <= target && ::waitpid(child, nullptr, WNOHANG) == 0)
      std::this_thread::yield();
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself";

    const uint64_t durable = told->durable.load();
    auto reader = Reader::open(path, with_extensions());
    EXPECT_EQ(reader->header(), sample_header());
    RandomRecords again(round);
    uint64_t count = 0;
    while (auto record = reader->next()) {
      auto [boundary, body] = again.next();
      ASSERT_EQ(canonical(*record), canonical(boundary, body));
      count++;
    }
    EXPECT_GE(count, durable);
    EXPECT_LE(count, told->appended.load() + 1);
    EXPECT_EQ(reader->stop(), Stop::kDataEnds);
    EXPECT_LE(reader->damages().size(), 1u);
    for (const auto& damage : reader->damages()) EXPECT_EQ(damage.kind, DamageKind::kTornTail);
  }
}

}  // namespace
}  // namespace hypertwin::log
